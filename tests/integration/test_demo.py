"""`zmdp demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from forked import Forked, command, fork, run_forked

from zmdp_trio.cli._failures import Failure
from zmdp_trio.cli.demo import run_demo

LIMIT = 120

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches a process that is not a child")


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Take back what a demo in this process did to signals, which it ignores at its end: a process would end, too."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(temporary: Path, *arguments: str) -> AbstractContextManager[Forked]:
    return fork(command(temporary, "demo", *arguments, TMPDIR=str(temporary)), LIMIT)


def run(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return run_forked(command(temporary, "demo", *arguments, TMPDIR=str(temporary)), LIMIT)


def lines_until(process: Forked, text: str) -> str:
    """Return the output up to the line that holds `text`."""
    output = ""
    while text not in output:
        line = process.stdout.readline()
        assert line, output
        output += line.decode()
    return output


def worker_of(output: str) -> int:
    found = re.search(r"worker +process (\d+)", output)
    assert found is not None
    return int(found[1])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module", autouse=True)
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """A demo with an empty file, beside the other tests' demos."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "empty").touch()
    with start(folder, "empty") as process:
        yield process


@pytest.fixture(scope="module", autouse=True)
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Forked, Path]]:
    """Another one, with a file of its own, which is large."""
    folder = tmp_path_factory.mktemp("whole")
    with start(folder) as process:
        yield process, folder


def test_it_gives_its_figures_to_programs(tmp_path: Path) -> None:
    file = tmp_path / "my file.bin"
    file.write_bytes(os.urandom(1_000_001))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run(temporary, str(file), "--json")
    figures = json.loads(done.stdout)
    assert figures["ok"] is True
    assert figures["file"]["bytes"] == 1_000_001
    assert figures["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert figures["requests"]["count"] == 1000
    assert list(figures["requests"]["latency_ms"]) == ["p50", "p90", "p99", "max"]
    assert 0 < figures["cancellation"]["handler_cancelled_after_ms"] < 5000
    assert figures["error"]["code"] == "NOT_FOUND"
    assert (list(temporary.iterdir()), file.stat().st_size) == ([], 1_000_001)


def test_it_shows_each_step_in_plain_lines(whole: tuple[Forked, Path]) -> None:
    process, folder = whole
    shown = process.stdout.read().decode()
    assert (process.wait(LIMIT), process.stderr.read()) == (0, b"")
    for words in ("134.2 MB", "as on the disk", "requests/s", "p50", "p99", "after the client left", "NOT_FOUND"):
        assert words in shown
    assert "\x1b" not in shown
    assert is_gone(worker_of(shown))
    assert list(folder.iterdir()) == []


def test_an_empty_file_will_do(empty: Forked) -> None:
    assert empty.wait(LIMIT) == 0


@pytest.mark.parametrize(("moment", "file"), [("worker", []), ("one by one", [__file__])], ids=["worker", "one by one"])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, moment: str, file: list[str]) -> None:
    """Also not the file that the demo makes unless it is given one; that is there before the worker is."""

    def end(number: signal.Signals) -> int:
        with start(tmp_path, *file) as process:
            output = lines_until(process, moment)
            process.send_signal(number)
            status = process.wait(LIMIT)
            assert process.stderr.read() == b""
        assert is_gone(worker_of(output))
        return status

    with ThreadPoolExecutor() as threads:
        assert list(threads.map(end, (signal.SIGINT, signal.SIGTERM))) == [130, 143]
    assert list(tmp_path.iterdir()) == []


@needs_pidfd
def test_the_worker_ends_also_when_the_demo_is_killed(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        worker = os.pidfd_open(worker_of(lines_until(process, "worker")))
        process.kill()
    ended, _, _ = select.select([worker], [], [], LIMIT)
    os.close(worker)
    assert ended


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        ("raise SystemExit('no luck')", "did not start: exit status 1: no luck"),
        ("import os; os.kill(os.getpid(), 9)", "did not start: signal 9"),
        ("print('ready', flush=True); raise SystemExit(3)", "ended too early: exit status 3"),
    ],
)
def test_a_worker_that_fails_is_a_plain_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str, reason: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Failure) as caught:
        run_demo(file, worker=[sys.executable, "-c", worker])
    assert reason in caught.value.line()
    assert list(tmp_path.iterdir()) == [file]


def test_a_worker_that_is_killed_is_a_plain_reason(tmp_path: Path) -> None:
    with start(tmp_path, __file__) as process:
        os.kill(worker_of(lines_until(process, "one by one")), signal.SIGKILL)
        assert process.wait(LIMIT) == 1
        assert process.stderr.read() == b"zmdp: the worker process ended too early: signal 9\n"
    assert list(tmp_path.iterdir()) == []


def test_no_worker_command(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="did not start"):
        run_demo(Path(__file__), worker=[str(tmp_path / "missing")])


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(LIMIT), process.stderr.read()) == (0, b"")
    assert list(tmp_path.iterdir()) == []

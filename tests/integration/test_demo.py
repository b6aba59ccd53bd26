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
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zmdp_trio.cli._failures import Failure
from zmdp_trio.cli.demo import run_demo

ROOT = Path(__file__).parents[2]
LIMIT = 120

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches a process that is not a child")


def _command(temporary: Path, *arguments: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    return {"args": [sys.executable, "-m", "zmdp_trio", "demo", *arguments], "env": environment}


def run(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = _command(temporary, *arguments)
    return subprocess.run(**command, capture_output=True, text=True, timeout=LIMIT, check=False)


@contextmanager
def start(temporary: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = _command(temporary, *arguments) | {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(**command, text=True) as process:
        watchdog = threading.Timer(LIMIT, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


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


def test_it_shows_each_step_in_plain_lines(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("134.2 MB", "as on the disk", "requests/s", "p50", "p99", "after the client left", "NOT_FOUND"):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert is_gone(worker_of(done.stdout))
    assert list(tmp_path.iterdir()) == []


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


def test_an_empty_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert run(tmp_path, str(tmp_path / "empty")).returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["worker", "one by one"])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, status: int, moment: str) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output = ""
        while moment not in output:
            line = process.stdout.readline()
            assert line
            output += line
        process.send_signal(number)
        assert process.wait(LIMIT) == status
        assert process.stderr.read() == ""
    assert is_gone(worker_of(output))
    assert list(tmp_path.iterdir()) == []


@needs_pidfd
def test_the_worker_ends_also_when_the_demo_is_killed(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        output = ""
        while "worker" not in output:
            output += process.stdout.readline()
        worker = os.pidfd_open(worker_of(output))
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
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output = ""
        while "one by one" not in output:
            output += process.stdout.readline()
        os.kill(worker_of(output), signal.SIGKILL)
        assert process.wait(LIMIT) == 1
        assert process.stderr.read() == "zmdp: the worker process ended too early: signal 9\n"
    assert list(tmp_path.iterdir()) == []


def test_no_worker_command(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="did not start"):
        run_demo(Path(__file__), worker=[str(tmp_path / "missing")])


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(LIMIT), process.stderr.read()) == (0, "")
    assert list(tmp_path.iterdir()) == []

"""What the README and the documents show, run word for word."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from forked import run_forked, snippet

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LIMIT = 60


def fences(path: Path, language: str) -> list[str]:
    """Return a document's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


SNIPPETS = [(path, text) for path in DOCUMENTS for text in fences(path, "python")]


@pytest.mark.parametrize(("path", "text"), SNIPPETS, ids=lambda each: each.name if isinstance(each, Path) else "")
def test_a_python_snippet_runs(path: Path, text: str) -> None:
    done = run_forked(snippet(ROOT, text), LIMIT)
    # One of them kills a broker for good, which its workers may say.
    said = [line for line in done.stderr.splitlines() if b": away for 10 s: " not in line]
    assert (done.returncode, said) == (0, [])


IN_VIRTUAL_TIME = """
import functools
import trio
from zmdp_trio.testing import VirtualClock

trio.run = functools.partial(trio.run, clock=VirtualClock())
"""


def test_the_first_snippet_prints_what_its_comment_says() -> None:
    # In memory time is virtual: what is printed within 0.35 s does not depend on how busy the machine is.
    text = SNIPPETS[0][1]
    assert "tcp://127.0.0.1:*" in text
    command = [sys.executable, "-c", IN_VIRTUAL_TIME + text.replace("tcp://127.0.0.1:*", "memory://*")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.split() == ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The shell's part of the README: its broker and its worker, at a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {"ZMDP_BROKER": f"tcp://127.0.0.1:{port}"}
    background = [line for line in shell_lines() if line.endswith("&")]
    with ExitStack() as stack:
        processes = []
        for line, ready in zip(background, (b"listening", b"offering"), strict=True):
            command = zmdp(line.rstrip(" &"))
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert any(ready in said for said in process.stdout), f"it ended before it was {ready!r}"
            processes.append(process)
        yield environment
        for process in reversed(processes):
            process.terminate()
        assert [process.wait(LIMIT) for process in processes] == [0, 0]


def shell_lines() -> list[str]:
    """Return the README's `zmdp` commands, without their comments."""
    lines = [line for text in fences(ROOT / "README.md", "console") for line in text.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ zmdp ")]


def zmdp(line: str) -> list[str]:
    """Return the arguments that run a `zmdp` command line."""
    return [sys.executable, "-m", "zmdp_trio", *shlex.split(line)[1:]]


def test_the_command_lines_work(environment: dict[str, str]) -> None:
    calls = [line for line in shell_lines() if not line.endswith("&") and "files.tail" not in line]
    assert len(calls) == 2
    for line in calls:
        command = zmdp(line.split(">")[0])
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stderr
        expected = (ROOT / "README.md").read_bytes() if "stream" in line else b"README.md"
        assert expected in done.stdout

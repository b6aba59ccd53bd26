"""Processes that start in moments, since what takes time at a start is imports.

Run as a program, this file imports the package and forks whenever it is told to; each child becomes the process that is
wanted, with its own arguments, folder, environment, and pipes, and ends as any Python process does.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


# ---- whoever wants a process


class Forked:
    """A running process, with pipes, as `subprocess.Popen` has it; `order` is what `become` reads.

    With the block that it is used in, its pipes are closed, and it has ended.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (stdin, self_stdin), (self_stdout, stdout), (self_stderr, stderr) = pipes
        self.stdin = open(self_stdin, "wb", buffering=0)
        self.stdout = open(self_stdout, "rb")
        self.stderr = open(self_stderr, "rb")
        self.returncode: int | None = None
        self._news, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [b"\n"], [stdin, stdout, stderr, theirs.fileno()])
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
        self._news.sendall(json.dumps(order).encode())
        self._news.shutdown(socket.SHUT_WR)
        self._lines = self._news.makefile("rb")
        self.pid = int(self._lines.readline())

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()
        self.wait()
        self._lines.close()
        self._news.close()

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the status, or minus the number of the signal."""
        if self.returncode is None:
            if not select.select([self._news], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self.returncode = int(self._lines.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextmanager
def fork(order: dict[str, Any], limit: float) -> Iterator[Forked]:
    """Start a process; end it with the block, or after `limit`: then what waits for its output sees the end of it."""
    with Forked(order) as process:
        watchdog = threading.Timer(limit, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def run_forked(order: dict[str, Any], limit: float, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a process to its end, with little on its standard input."""
    with fork(order, limit) as process:
        with suppress(BrokenPipeError):
            process.stdin.write(stdin)
        process.stdin.close()
        output, errors = process.stdout.read(), process.stderr.read()
        return subprocess.CompletedProcess(str(order), process.wait(limit), output, errors)


def command(cwd: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """`python -m zmdp_trio ARGUMENTS` in a folder."""
    return {"arguments": arguments, "cwd": str(cwd), "environment": environment}


def snippet(cwd: Path, code: str) -> dict[str, Any]:
    """`python -c CODE` in a folder."""
    return {"code": code, "cwd": str(cwd), "environment": {}}


def program(path: Path, *arguments: str) -> dict[str, Any]:
    """`python PATH ARGUMENTS`, here."""
    return {"program": str(path), "arguments": arguments, "cwd": os.getcwd(), "environment": {}}


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZMDP_")}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "COLUMNS": "120"}
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
        )

    def close() -> None:
        ours.close()
        server.wait()

    atexit.register(close)
    return ours


# ---- the program


def serve(control: socket.socket) -> socket.socket | None:
    """Fork as often as `control` says; tell each one's status when it ends.

    Returns:
        In a child, where its order stands; otherwise None, when nobody wants another one.
    """
    alarm, wake = socket.socketpair()
    running: dict[int, socket.socket] = {}
    for end in (alarm, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, alarm], [], [])
        if alarm in ready:
            alarm.recv(4096)
            _reap(running)
        if control not in ready:
            continue
        wanted, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not wanted:
            return None
        *pipes, news = descriptors
        order = socket.socket(fileno=news)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (control, alarm, wake, *running.values()):
                end.close()
            _move(pipes)
            return order
        for descriptor in pipes:
            os.close(descriptor)
        order.sendall(b"%d\n" % pid)
        running[pid] = order


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as news, suppress(BrokenPipeError):
            news.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _move(pipes: Sequence[int]) -> None:
    """Make them standard input, output, and error."""
    for target, descriptor in enumerate(pipes):
        os.dup2(descriptor, target)
        os.close(descriptor)


def become(order: dict[str, Any]) -> None:
    """Be the process that was ordered."""
    os.chdir(order["cwd"])
    os.environ.update(order["environment"])
    sys.path[0] = os.getcwd()
    if "code" in order:
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(order["code"], "<string>", "exec"), vars(module))
    elif "program" in order:
        sys.argv = [order["program"], *order["arguments"]]
        sys.path[0] = str(Path(order["program"]).parent)
        run_path(order["program"], run_name="__main__")
    else:
        sys.argv = ["zmdp", *order["arguments"]]
        main()


if __name__ == "__main__":
    from runpy import run_path

    import pytest as pytest
    import zmq as zmq

    from zmdp_trio.cli import main

    # A collection in a child, at its end if not before, would write to all this, which copies it first: some 100 ms.
    gc.freeze()
    child = None
    with suppress(KeyboardInterrupt):
        child = serve(socket.socket(fileno=int(sys.argv[1])))
    if child:
        with child, child.makefile("rb") as lines:
            order = json.load(lines)
        become(order)

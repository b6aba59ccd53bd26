"""Processes for the benchmarks: each runs a Trio main function, and has a pipe to the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import trio

PAGE = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Process:
    """A process that was started, and the pipe to it."""

    pipe: Connection
    pid: int

    async def receive(self) -> Any:
        """Return the next object that the process sends."""
        await trio.lowlevel.wait_readable(self.pipe.fileno())
        return self.pipe.recv()

    async def ask(self, what: str) -> Any:
        """Send a question, and return the answer: see `answer`."""
        self.pipe.send(what)
        return await self.receive()

    def memory(self) -> int:
        """Resident memory in bytes, of Linux's account."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE


def start(main: Callable[..., Any], *args: Any) -> Process:
    """Run `main(pipe, *args)` in a process of its own, which ends with this one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=trio.run, args=(main, theirs, *args), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None
    return Process(ours, process.pid)


def cpu_seconds() -> float:
    """CPU that this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def answer(pipe: Connection) -> None:
    """Tell our CPU time whenever we are asked, until the pipe is closed."""
    while True:
        await trio.lowlevel.wait_readable(pipe.fileno())
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(cpu_seconds())

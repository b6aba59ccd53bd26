"""Programs that say and obey lines of JSON, and the CPU that they use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import IO, Any

import attrs
import trio

#: Seconds that a program may take to end when its input does.
GRACE = 3.0

#: Of what a program complained, as much is told when it has failed.
TOLD = 2000


class ProgramFailed(Exception):
    """A program has ended, or said nothing for too long."""


@attrs.define
class Program:
    """A process that has been started; its errors go into a file."""

    name: str
    process: trio.Process
    errors: IO[bytes]
    #: Whose CPU counts; a program may have started another one that does the work.
    pid: int
    _rest: bytes = b""

    async def ask(self, limit: float, **order: Any) -> dict[str, Any]:
        """Order something, and return the answer."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(json.dumps(order).encode() + b"\n")
        except trio.BrokenResourceError:
            raise ProgramFailed(self._complaint("has ended")) from None
        return await self.hear(limit)

    async def hear(self, limit: float) -> dict[str, Any]:
        """Return the next line, which must come within so many seconds."""
        try:
            with trio.fail_after(limit):
                line = await self._line()
        except trio.TooSlowError:
            raise ProgramFailed(self._complaint(f"said nothing for {limit:.0f} s")) from None
        heard: dict[str, Any] = json.loads(line)
        return heard

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            data = await self.process.stdout.receive_some()
            if not data:
                raise ProgramFailed(self._complaint("has ended"))
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _complaint(self, what: str) -> str:
        self.errors.seek(0)
        return f"{self.name} {what}: {self.errors.read().decode(errors='replace')[-TOLD:].strip() or 'no word why'}"

    def cpu_seconds(self) -> float | None:
        """CPU that the process has used in all its threads, user and system; None where there is no such clock."""
        return cpu_seconds(self.pid)

    async def end(self) -> None:
        """End its input, and then it, with all that it has started."""
        assert self.process.stdin is not None
        with trio.CancelScope(shield=True), trio.move_on_after(GRACE):
            await self.process.stdin.aclose()
            await self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.errors.close()


@asynccontextmanager
async def start(name: str, command: Sequence[str], env: dict[str, str] | None = None) -> AsyncIterator[Program]:
    """Run a program for as long as the block lasts."""
    with tempfile.TemporaryFile() as errors:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=os.environ | (env or {}),
        )
        program = Program(name, process, errors, process.pid)
        try:
            yield program
        finally:
            await program.end()


def cpu_seconds(pid: int) -> float | None:
    """CPU that a process has used; None but on Linux, which has a clock for each process: clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None

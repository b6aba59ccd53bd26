"""Processes that a run starts, asks, and kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

from .peers import Part

#: Seconds in which a process must be ready, and must answer, on a machine that has other things to do.
PATIENCE = 60.0
#: Where `python -m chaos.peers` is run.
ROOT = Path(__file__).parent.parent


class Ended(Exception):
    """The process has ended, and can answer no more."""


class Peer:
    """A process that plays one role of `peers`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self._unread = b""
        self._asking = trio.Lock()

    def __repr__(self) -> str:
        return f"<Peer {self.name} pid={self.process.pid}>"

    @classmethod
    async def start(cls, role: str, part: Part, log: Path) -> Peer:
        """Start a process, which appends what goes wrong in it to `log`; `ready` waits for it."""
        command = [sys.executable, "-m", "chaos.peers", role, msgspec.json.encode(part).decode()]
        with log.open("ab") as errors:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        return cls(part.name, process)

    async def ready(self) -> Any:
        """Return what the process says when it is ready.

        Raises:
            Ended: it did not become ready.
        """
        async with self._asking:
            return await self._line()

    async def ask(self, question: str) -> Any:
        """Ask a process that is ready something.

        Raises:
            Ended: it does not live any more.
        """
        assert self.process.stdin is not None
        async with self._asking:
            try:
                await self.process.stdin.send_all(f"{question}\n".encode())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Ended(self.name) from error
            return await self._line()

    async def _line(self) -> Any:
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._unread:
                try:
                    chunk = await self.process.stdout.receive_some()
                except trio.ClosedResourceError as error:
                    raise Ended(self.name) from error
                if not chunk:
                    raise Ended(self.name)
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    async def kill(self) -> None:
        """kill -9, whatever it does; close what we have of it."""
        self.process.kill()
        with trio.CancelScope(shield=True):
            await self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                await stream.aclose()

    # ---- what /proc says

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Return the number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

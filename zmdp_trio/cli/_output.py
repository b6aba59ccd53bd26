"""Standard output for a stream: in order, at once, and without ever holding up the event loop.

Whoever reads our output may be slow, or go away.  So the writing is done in a thread, and `write` waits only when the
reader is a megabyte behind: then the stream is not read on, its credit is used up, and the handler waits too.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import trio

_BEHIND: Final = 2**20
#: Seconds between two looks at whether the reader of our pipe is still there.
_LOOK: Final = 0.1


class Closed(Exception):
    """Nobody reads our output any more."""


class Output:
    """Bytes on their way to a file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: list[bytes] = []
        self._size = 0
        self._wanted = trio.Event()
        self._written = trio.Event()
        self._ending = False

    async def write(self, data: bytes) -> None:
        """Take some bytes; wait while the reader is far behind."""
        while self._size > _BEHIND:
            await self._written.wait()
        self._pending.append(data)
        self._size += len(data)
        self._wanted.set()

    def end(self) -> None:
        """Let `pump` return when all is written."""
        self._ending = True
        self._wanted.set()

    async def pump(self) -> None:
        """Write what comes until the end.

        Raises:
            Closed: the reader is gone.
        """
        while self._pending or not self._ending:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._pending:
                batch, self._pending, self._size = b"".join(self._pending), [], 0
                await trio.to_thread.run_sync(self._write_all, batch, abandon_on_cancel=True)
                self._written.set()
                self._written = trio.Event()

    async def watch(self) -> None:
        """Notice that a pipe's reader is gone also while there is nothing to write.

        Raises:
            Closed: the reader is gone.
        """
        if not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            return
        poller = select.poll()
        poller.register(self._fd, 0)
        while not poller.poll(0):  # noqa: ASYNC110 - the system tells nobody of this event
            await trio.sleep(_LOOK)
        raise Closed

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            raise Closed from None


async def with_output(body: Callable[[Output], Awaitable[None]]) -> None:
    """Run `body` with standard output, and wait until all is written, also when `body` failed.

    When the reader goes away, `body` is cancelled, and nothing is raised.

    Raises:
        Exception: what `body` raised, not in a group.
        OSError: writing failed.
    """
    sys.stdout.flush()
    output = Output(sys.stdout.fileno())
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def guard(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except Closed:
                nursery.cancel_scope.cancel()

        nursery.start_soon(guard, output.watch)
        async with trio.open_nursery() as writing:
            writing.start_soon(guard, output.pump)
            try:
                await body(output)
            except Exception as error:
                failure = error
            output.end()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure

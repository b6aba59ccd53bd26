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

from ._failures import Failure, not_written

_BEHIND: Final = 2**20
#: Seconds between two looks at whether the reader of our pipe is still there.
_LOOK: Final = 0.1


class Output:
    """Bytes on their way to standard output.

    Attributes:
        scope: for the work whose output it is: cancelled when nobody reads that any more.

    Raises:
        Failure: there is none.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise Failure("standard output is closed")
        sys.stdout.flush()
        self.scope = trio.CancelScope()
        self._fd = sys.stdout.fileno()
        self._writing = trio.CancelScope()
        self._pending: list[bytes] = []
        self._size = 0
        self._wanted = trio.Event()
        self._written = trio.Event()
        self._ending = False
        self._failure: Exception | None = None

    async def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run `body`, which writes, and wait until all is written, also when it failed.

        Raises:
            Exception: what `body` raised, not in a group.
            Failure: writing failed; not because the reader went away, that is no error.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            async with trio.open_nursery() as writing:
                writing.start_soon(self._pump)
                try:
                    await body()
                except Exception as error:
                    self._failure = self._failure or error
                self._ending = True
                self._wanted.set()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def write(self, data: bytes) -> None:
        """Take some bytes; wait while the reader is far behind."""
        while self._size > _BEHIND:
            await self._written.wait()
        self._pending.append(data)
        self._size += len(data)
        self._wanted.set()

    def drop(self) -> None:
        """Cancel the work, and what is not yet written of its output."""
        self.scope.cancel()
        self._writing.cancel()

    async def _pump(self) -> None:
        with self._writing:
            while self._pending or not self._ending:
                await self._wanted.wait()
                self._wanted = trio.Event()
                while self._pending:
                    await self._write_pending()

    async def _write_pending(self) -> None:
        batch, self._pending, self._size = b"".join(self._pending), [], 0
        try:
            await trio.to_thread.run_sync(self._write_all, batch, abandon_on_cancel=True)
        except BrokenPipeError:
            self.drop()
        except OSError as error:
            self._failure = not_written(error)
            self.drop()
        self._written.set()
        self._written = trio.Event()

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def _watch(self) -> None:
        """Notice that a pipe's reader is gone also while there is nothing to write."""
        if not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            return
        poller = select.poll()
        poller.register(self._fd, 0)
        while not poller.poll(0):  # noqa: ASYNC110 - the system tells nobody of this event
            await trio.sleep(_LOOK)
        self.drop()

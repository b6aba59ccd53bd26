"""Running sync handlers, in threads, and bringing what they say to Trio's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import trio

from . import _payload
from ._request import SyncRequest
from ._service import Final as FinalReply
from ._service import Service, Shape

if TYPE_CHECKING:
    from ._handlers import Run


async def run_in_thread(service: Service[..., Any], payload: Any, run: Run, limiter: trio.CapacityLimiter) -> Any:
    """Run a sync handler in one thread, from start to end."""
    outbox = run.outbox = ThreadOutbox(run)

    def work() -> Any:
        result = service.call(payload, SyncRequest(run))
        return _drive_in_thread(result, outbox) if service.shape is Shape.GENERATOR else result

    try:
        return await trio.to_thread.run_sync(work, limiter=limiter)
    finally:
        outbox.flush()


def _drive_in_thread(generator: Generator[Any, None, Any], outbox: ThreadOutbox) -> Any:
    """Send what a sync generator yields; return what it returns.  Cancelled at a yield, it is closed there."""
    try:
        value = next(generator)
        while type(value) is not FinalReply:
            try:
                outbox.send(value)
            except Exception as error:
                value = generator.throw(error)
            else:
                value = next(generator)
        return value.value
    except StopIteration as stop:
        return stop.value
    finally:
        generator.close()


class ThreadOutbox:
    """Partial replies on their way from a handler's thread to the machine.

    The thread takes credit here and queues; the Trio thread moves the queue on, all there is at once.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._messages = run.execution.messages
        self._bytes = run.execution.bytes
        self._active = run.execution.active

    def send(self, value: Any) -> None:
        """From the thread: queue a partial reply; block until there is credit for it.

        Raises:
            trio.Cancelled: the request was cancelled, or its deadline passed.
        """
        content, body = _payload.encode(value)
        self._run.check_size(len(body))
        while not self._take_credit(content, body):
            trio.from_thread.run(self._wait_for_credit)
        self._token.run_sync_soon(self.flush, idempotent=True)

    def _take_credit(self, content: int, body: bytes) -> bool:
        """Queue a partial reply if there is credit for it."""
        with self._lock:
            if not (self._active and self._messages > 0 and self._bytes > 0):
                return False
            self._messages -= 1
            self._bytes -= len(body)
            self._queue.append((content, body))
            return True

    async def _wait_for_credit(self) -> None:
        """In the handler's task, so that whatever ends the request ends the wait."""
        self.flush()
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._run.wait_for_credit()
        self.update()

    def flush(self) -> None:
        """From Trio: hand the queue to the machine."""
        with self._lock:
            queue, self._queue = self._queue, deque()
        for content, body in queue:
            self._run.put(content, body)
        # Credit that came before the execution was out of it is told by no event: the thread learns of it here.
        self.update()

    def update(self) -> None:
        """From Trio: the execution has other credit, or was cancelled."""
        execution = self._run.execution
        with self._lock:
            self._messages = 0 if execution.uplink.choked else execution.messages - len(self._queue)
            self._bytes = execution.bytes - sum(len(body) for _, body in self._queue)
            self._active = execution.active

"""Ctrl-C, SIGTERM, and a terminal that closes: each signal takes the next step on the way out."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Final

import trio

#: What to do at a signal.
Step = Callable[[], object]

#: Seconds that `body` may live on after the last step before its user hears why, and the process after `body` before
#: a signal ends it.
_PATIENCE: Final = 1.0
#: Seconds within which an event loop that is not blocked looks at a signal.  One too many that comes as soon after the
#: last one does not end the process: the step that was taken shall have its moment.
_AT_ONCE: Final = 0.1
_IS_BLOCKED: Final = b"zmdp: the event loop is blocked; one more signal ends the process now\n"


async def with_signals(
    body: Callable[[], Awaitable[object]],
    *steps: Step,
    overdue: Step | None = None,
    hurry: trio.Event | None = None,
) -> int | None:
    """Run `body`; the first signal takes the first step, the next one the next, and one too many ends the process.

    If `body` is still running a second after the last step, `overdue` is called.  When `hurry` is set, the steps that
    are left are taken without a signal.  After `body`, signals are ignored: the process is about to end; only if it
    takes longer than a second, a signal ends it.

    Returns:
        The number of the last signal that took a step, or None.

    Raises:
        Exception: what `body` raised, not in a group.
    """
    failure: Exception | None = None
    way_out = _WayOut(steps)
    for number in _signals():
        signal.signal(number, way_out.on_signal)
    try:
        async with trio.open_nursery() as nursery:
            if hurry is not None:
                nursery.start_soon(way_out.take_rest, hurry)
            if overdue is not None:
                nursery.start_soon(way_out.call_later, overdue)
            try:
                await body()
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        way_out.end()
    if failure is not None:
        raise failure
    return way_out.signal


def _signals() -> list[signal.Signals]:
    """Return the signals that end a process; a hang-up only if it does: under nohup it is ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class _WayOut:
    """The steps that are left.

    Attributes:
        signal: the last one that took a step.
    """

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.signal: int | None = None
        self._left = deque(steps)
        self._last_taken = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        #: When the signals came that the event loop has not looked at.
        self._unseen: deque[float] = deque()
        #: When the last signal came that takes a step.
        self._noted = -math.inf
        self._ended: float | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, wherever the main thread is; end the process if it is one too many.

        That is done right here, and not by the event loop, which may be blocked for good.
        """
        now = time.monotonic()
        if self._ended is not None:
            if now - self._ended > _PATIENCE:
                os._exit(128 + number)
            return
        if len(self._unseen) >= len(self._left):
            if now - self._noted > _AT_ONCE:
                os._exit(128 + number)
            return
        self._noted = now
        self._unseen.append(now)
        if len(self._unseen) == len(self._left) and now - self._unseen[0] > _AT_ONCE:
            with suppress(OSError):
                os.write(sys.stderr.fileno(), _IS_BLOCKED)
        self._token.run_sync_soon(self._look_at, number)

    def end(self) -> None:
        """Ignore signals from now on."""
        self._ended = time.monotonic()

    async def take_rest(self, event: trio.Event) -> None:
        """Take all steps when something happens."""
        await event.wait()
        while self._left:
            self._take()

    async def call_later(self, step: Step) -> None:
        """Call something if the last step was in vain."""
        await self._last_taken.wait()
        await trio.sleep(_PATIENCE)
        step()

    def _look_at(self, number: int) -> None:
        self._unseen.popleft()
        if self._ended is None and self._left:
            self.signal = number
            self._take()

    def _take(self) -> None:
        self._left.popleft()()
        if not self._left:
            self._last_taken.set()

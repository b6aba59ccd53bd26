"""Ctrl-C and SIGTERM: each signal takes the next step on the way out."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import trio

#: What to do at a signal.
Step = Callable[[], object]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

#: Seconds that `body` may live on after the last step before its user hears why.
_PATIENCE: Final = 1.0


async def with_signals(
    body: Callable[[], Awaitable[object]],
    *steps: Step,
    overdue: Step | None = None,
    hurry: trio.Event | None = None,
) -> int | None:
    """Run `body`; the first signal takes the first step, the next one the next, and one too many ends the process.

    If `body` is still running a second after the last step, `overdue` is called.  When `hurry` is set, the steps that
    are left are taken without a signal.

    Returns:
        The number of the last signal that came, or None.

    Raises:
        Exception: what `body` raised, not in a group.
    """
    received: list[int] = []
    failure: Exception | None = None
    way_out = _WayOut(steps)
    with trio.open_signal_receiver(*_SIGNALS) as signals, _at_most(len(steps)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_steps, signals, received, way_out)
            if hurry is not None:
                nursery.start_soon(way_out.take_rest, hurry)
            if overdue is not None:
                nursery.start_soon(way_out.call_later, overdue)
            try:
                await body()
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return received[-1] if received else None


@contextmanager
def _at_most(steps: int) -> Iterator[None]:
    """End the process at the signal after so many, right where it comes in: a blocked event loop takes no steps."""
    came = 0

    def count(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came > steps:
            os._exit(128 + number)
        handlers[number](number, frame)

    handlers: dict[int, Any] = {number: signal.signal(number, count) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _WayOut:
    """The steps that are left."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._left = deque(steps)
        self._last_taken = trio.Event()

    def take(self) -> bool:
        """Take the next step; tell whether there was one."""
        if not self._left:
            return False
        self._left.popleft()()
        if not self._left:
            self._last_taken.set()
        return True

    async def take_rest(self, event: trio.Event) -> None:
        """Take all steps when something happens."""
        await event.wait()
        while self.take():
            pass

    async def call_later(self, step: Step) -> None:
        """Call something if the last step was in vain."""
        await self._last_taken.wait()
        await trio.sleep(_PATIENCE)
        step()


async def _take_steps(signals: AsyncIterator[int], received: list[int], way_out: _WayOut) -> None:
    async for number in signals:
        received.append(number)
        if not way_out.take():
            os._exit(128 + number)

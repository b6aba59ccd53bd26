"""Ctrl-C and SIGTERM: each signal takes the next step on the way out."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio

#: What to do at a signal.
Step = Callable[[], object]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

#: Seconds that `body` may live on after the last step before its user hears why.
_PATIENCE: Final = 1.0


async def with_signals(body: Callable[[], Awaitable[object]], *steps: Step, overdue: Step | None = None) -> int | None:
    """Run `body`; the first signal takes the first step, the next one the next, and one too many ends the process.

    If `body` is still running a second after the last step, `overdue` is called.

    Returns:
        The number of the last signal that came, or None.

    Raises:
        Exception: what `body` raised, not in a group.
    """
    received: list[int] = []
    failure: Exception | None = None
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            last_taken = trio.Event()
            nursery.start_soon(_take_steps, signals, received, steps, last_taken)
            if overdue is not None:
                nursery.start_soon(_call_later, overdue, last_taken)
            try:
                await body()
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return received[-1] if received else None


async def _take_steps(
    signals: AsyncIterator[int], received: list[int], steps: tuple[Step, ...], last_taken: trio.Event
) -> None:
    async for number in signals:
        received.append(number)
        if len(received) > len(steps):
            os._exit(128 + number)
        steps[len(received) - 1]()
        if len(received) == len(steps):
            last_taken.set()


async def _call_later(step: Step, event: trio.Event) -> None:
    await event.wait()
    await trio.sleep(_PATIENCE)
    step()

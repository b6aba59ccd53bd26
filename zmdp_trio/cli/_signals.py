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


async def with_signals(body: Callable[[], Awaitable[object]], *steps: Step) -> int | None:
    """Run `body`; the first signal takes the first step, the next one the next, and one too many ends the process.

    Returns:
        The number of the last signal that came, or None.

    Raises:
        Exception: what `body` raised, not in a group.
    """
    received: list[int] = []
    failure: Exception | None = None
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_steps, signals, received, steps)
            try:
                await body()
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return received[-1] if received else None


async def _take_steps(signals: AsyncIterator[int], received: list[int], steps: tuple[Step, ...]) -> None:
    async for number in signals:
        received.append(number)
        if len(received) > len(steps):
            os._exit(128 + number)
        steps[len(received) - 1]()

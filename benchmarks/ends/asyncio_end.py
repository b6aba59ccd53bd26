"""What the ends on asyncio share: orders from the benchmark, and the loads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial
from typing import Protocol

from end import Figures, Tally, obey, spread, wait_for_end

Ask = Callable[[bytes], Awaitable[object]]


class Stream(AsyncIterable[object], Protocol):
    """A stream that can be left."""

    def cancel(self) -> object:
        """Leave it."""


async def stay() -> None:
    """Serve until the benchmark is done with us."""
    await asyncio.to_thread(wait_for_end)


async def take_orders(asks: list[Ask], stream: Callable[[int], Stream] | None = None) -> None:
    """Be a client until the benchmark is done with us.

    Args:
        asks: makes a request with this payload, for each connection.
        stream: starts a stream with chunks of this size in bytes.
    """

    async def requests(seconds: float, in_flight: int, size: int) -> Figures:
        payload = b"x" * size
        tally = Tally(seconds)
        await asyncio.gather(*(tally.keep_asking(partial(ask, payload)) for ask in spread(in_flight, asks)))
        return tally.figures()

    chunks: Stream | None = None

    async def streams(seconds: float, size: int, go_on: bool) -> Figures:
        nonlocal chunks
        if chunks is None:
            assert stream is not None
            chunks = stream(size)
        tally = Tally(seconds)
        await tally.read(chunks)
        if not go_on:
            chunks.cancel()
            chunks = None
        return tally.figures()

    await obey(lambda: asyncio.to_thread(sys.stdin.readline), {"requests": requests, "streams": streams})

"""Checks: a wait that is recalled ends, and nothing is missed for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from ..._transport import DIALLED
from .ends import End, Transport, running
from .suite import check


@asynccontextmanager
async def unattended(transport: Transport) -> AsyncIterator[tuple[End, End]]:
    """Bind an end that nobody runs, and run another that is connected to it."""
    bound = transport.bind()
    dialled = transport.call(bound.port.endpoints[0])
    try:
        async with running(dialled):
            await dialled.get_connected()
            dialled.post(DIALLED, b"hello")
            await wait_for_something(bound)
            assert await bound.get_frames() == [b"hello"]
            yield bound, dialled
    finally:
        bound.port.close()


async def wait_once(end: End) -> None:
    """Take a turn if there may be news after one wait."""
    if await end.port.wait():
        end.turn()


async def wait_for_something(end: End) -> None:
    """Wait until something has come."""
    while not end.received:
        await wait_once(end)


@check
async def a_wait_that_is_recalled_returns(transport: Transport) -> None:
    async with unattended(transport) as (bound, dialled):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_once, bound)
            await trio.testing.wait_all_tasks_blocked()
            bound.port.recall()
        assert not bound.received
        dialled.post(DIALLED, b"next")
        await wait_for_something(bound)
        assert await bound.get_frames() == [b"next"]


@check
async def what_comes_while_a_wait_is_recalled_is_not_missed(transport: Transport) -> None:
    async with unattended(transport) as (bound, dialled):
        for number in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_once, bound)
                await trio.testing.wait_all_tasks_blocked()
                dialled.post(DIALLED, b"%d" % number)
                for _ in range(number % 5):
                    await trio.lowlevel.checkpoint()
                bound.port.recall()
            await wait_for_something(bound)
            assert await bound.get_frames() == [b"%d" % number]

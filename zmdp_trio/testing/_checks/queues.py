"""Checks: a full queue refuses, and nobody else is hurt."""

from __future__ import annotations

from typing import Final

import trio
import trio.testing

from ..._transport import DIALLED
from .ends import End, Transport, greet, running
from .suite import check, expect_numbers

#: Bytes that no queue is expected to hold.
ENDLESS: Final = 2**28


def directions(bound: End, dialled: End, peer: bytes) -> list[tuple[End, bytes, End]]:
    """Who sends, to whom, and who that is."""
    return [(bound, peer, dialled), (dialled, DIALLED, bound)]


async def fill(source: End, name: bytes, size: int) -> int:
    """Send messages that are not read until no more go out; return how many, numbered in their first frame."""
    posted = 0
    while not source.unsent or not await _stuck(source):
        assert posted * size < ENDLESS, "the queue is never full"
        source.post(name, b"%d" % posted, bytes(size))
        posted += 1
    return posted


async def _stuck(end: End) -> bool:
    """Tell whether what was not sent stays where it is."""
    for _ in range(20):
        unsent = end.unsent
        await trio.sleep(0.005)
        if end.unsent < unsent:
            return False
    return True


@check
async def a_full_queue_refuses_and_then_wakes(transport: Transport) -> None:
    async with transport.pair() as ends:
        for source, name, target in directions(*ends):
            target.reading = False
            posted = await fill(source, name, 2**16)
            assert source.refusals
            target.read()
            await expect_numbers(target, posted)
            assert not source.unsent


@check
async def a_peer_that_stays_full_costs_next_to_nothing(transport: Transport) -> None:
    async with transport.pair() as ends:
        for source, name, target in directions(*ends):
            target.reading = False
            posted = await fill(source, name, 2**16)
            # Offered again after milliseconds at first, and then at ever longer intervals; on a machine that is busy
            # the last message may leave, and the intervals begin anew.
            turns = [await _turns(source, 0.4)]
            while turns[-1] >= 20 and len(turns) < 5:
                turns.append(await _turns(source, 0.4))
            assert turns[-1] < 20, turns
            target.read()
            await expect_numbers(target, posted)
            assert not source.unsent


async def _turns(end: End, seconds: float) -> int:
    before = end.turns
    await trio.sleep(seconds)
    return end.turns - before


@check
async def news_of_room_is_not_swallowed_by_others(transport: Transport) -> None:
    """Whoever uses the port takes the signal that `wait` waits for, and may not offer anything again."""
    async with transport.pair() as ends:
        for source, name, target in directions(*ends):
            await trio.testing.wait_all_tasks_blocked()
            target.reading = False
            posted = 0
            while not source.unsent:
                source.post(name, b"%d" % posted, bytes(2**18 if posted else 0))
                posted += 1
            target.reading = True
            for number in range(posted):
                while not target.received:
                    target.turn()
                    assert not source.port.receive()
                    await trio.lowlevel.checkpoint()
                assert (await target.get_frames())[0] == b"%d" % number
            assert not source.unsent


@check
async def one_full_peer_does_not_stop_another(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        other = transport.call(bound.port.endpoints[0])
        async with running(other):
            second = await greet(bound, other)
            dialled.reading = False
            posted = await fill(bound, peer, 2**16)
            for number in range(300):
                if not bound.unsent:
                    bound.post(peer, b"%d" % posted)
                    posted += 1
                bound.post(second, b"%d" % number)
                assert await other.get_frames() == [b"%d" % number]
            dialled.read()
            await expect_numbers(dialled, posted)

"""Checks: the end of a connection is told, once, after all that was sent."""

from __future__ import annotations

import trio
import trio.testing

from ..._transport import DIALLED, PeerGone
from .ends import Transport, greet, running
from .suite import check, expect_numbers, refused


@check
async def sending_to_an_unknown_peer_is_an_error(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        for port, name in ((bound.port, b"nobody"), (dialled.port, b"nobody"), (bound.port, DIALLED)):
            with refused(PeerGone):
                port.send(name, [b"x"])
        bound.post(peer, b"still", b"works")
        assert await dialled.get_frames() == [b"still", b"works"]


@check
async def the_bound_side_learns_that_a_peer_closed(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        for number in range(10):
            dialled.post(DIALLED, b"%d" % number)
        dialled.port.close()
        await expect_numbers(bound, 10)
        assert await bound.get_lost() == peer
        with refused(PeerGone):
            bound.port.send(peer, [b"x"])
        assert not bound.port.receive()


@check
async def the_dialled_side_learns_that_the_other_closed(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        for number in range(10):
            bound.post(peer, b"%d" % number)
        bound.port.close()
        await expect_numbers(dialled, 10)
        assert await dialled.get_lost() == DIALLED
        with refused(PeerGone):
            dialled.port.send(DIALLED, [b"x"])
        assert not dialled.port.receive()


@check
async def what_came_before_the_loss_is_delivered_late_too(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        witness = transport.call(bound.port.endpoints[0])
        async with running(witness):
            await greet(bound, witness)
            dialled.reading = False
            for number in range(10):
                bound.post(peer, b"%d" % number)
            assert not bound.unsent
            bound.port.close()
            await witness.get_lost()  # by now the other port has noticed it too
            dialled.read()
            await expect_numbers(dialled, 10)
            assert await dialled.get_lost() == DIALLED


@check
async def what_was_sent_just_before_closing_arrives(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        for number in range(5):
            bound.post(peer, b"%d" % number, bytes(2**20))
        assert not bound.unsent
        bound.port.close()
        for number in range(5):
            assert await dialled.get_frames() == [b"%d" % number, bytes(2**20)]
        assert await dialled.get_lost() == DIALLED


@check
async def every_peer_that_comes_and_goes_is_told_of_once(transport: Transport) -> None:
    bound = transport.bind()
    async with running(bound):
        seen = set()
        for _ in range(50):
            dialled = transport.call(bound.port.endpoints[0])
            async with running(dialled):
                peer = await greet(bound, dialled)
            assert await bound.get_lost() == peer
            seen.add(peer)
        assert len(seen) == 50
        assert not bound.received


@check
async def a_silent_peer_that_leaves_is_not_mentioned(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, _):
        shy = transport.call(bound.port.endpoints[0])
        async with running(shy):
            await shy.get_connected()
        dialled.post(DIALLED, b"next")
        assert await bound.get_frames() == [b"next"]
        assert not bound.received


@check
async def a_closed_port_can_not_be_used(transport: Transport) -> None:
    async with transport.pair() as (bound, _, peer):
        bound.port.close()
        bound.port.close()
        with refused(trio.ClosedResourceError):
            bound.port.send(peer, [b"x"])
        with refused(trio.ClosedResourceError):
            bound.port.receive()
        with refused(trio.ClosedResourceError):
            await bound.port.wait()

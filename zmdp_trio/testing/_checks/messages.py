"""Checks: messages arrive as they were sent."""

from __future__ import annotations

from ..._transport import DIALLED, Options
from .cancellation import check_random_cancellation
from .ends import Transport, greet, running
from .suite import check, refused


@check
async def messages_arrive_whole_and_in_order(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        for number in range(1000):
            dialled.post(DIALLED, b"%d" % number, *[b"x"] * (number % 5))
            bound.post(peer, b"%d" % number, *[b"y"] * (number % 5))
        for number in range(1000):
            assert await bound.get_frames() == [b"%d" % number, *[b"x"] * (number % 5)]
            assert await dialled.get_frames() == [b"%d" % number, *[b"y"] * (number % 5)]


@check
async def frames_of_any_size_pass_through(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, _):
        bound.echo = True
        for size in (0, 1, 2**15 - 1, 2**15, 2**20, 20 * 2**20):
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            frames = [b"head", b"index", body, b"", body, b"tail"]
            dialled.post(DIALLED, *frames)
            assert await dialled.get_frames() == frames


@check
async def a_received_frame_can_be_sent_more_than_once(transport: Transport) -> None:
    body = bytes(range(256)) * 2**12
    async with transport.pair() as (bound, dialled, peer):
        dialled.post(DIALLED, b"", b"", body)
        _, frames = await bound.get()
        assert isinstance(frames, list)
        for _ in range(3):
            bound.post(peer, *frames)
        for _ in range(3):
            assert await dialled.get_frames() == [b"", b"", body]
        assert bytes(frames[2]) == body


@check
async def many_peers_are_kept_apart(transport: Transport) -> None:
    bound = transport.bind()
    bound.echo = True
    dialled = [transport.call(bound.port.endpoints[0]) for _ in range(50)]
    async with running(bound, *dialled):
        for number, end in enumerate(dialled):
            await end.get_connected()
            for part in range(20):
                end.post(DIALLED, b"%d" % number, b"%d" % part)
        for number, end in enumerate(dialled):
            for part in range(20):
                assert await end.get_frames() == [b"%d" % number, b"%d" % part]


@check
async def one_message_at_a_time_never_stalls(transport: Transport) -> None:
    """The smallest traffic leaves no second message to cover a wake-up that was missed."""
    async with transport.pair() as (bound, dialled, peer):
        bound.echo = True
        for number in range(3000):
            dialled.post(DIALLED, b"%d" % number)
            assert await dialled.get_frames() == [b"%d" % number]
            if number % 7 == 0:
                bound.post(peer, b"extra")  # not after a `wait`
                assert await dialled.get_frames() == [b"extra"]


@check
async def no_cancellation_loses_doubles_or_tears_a_message(transport: Transport) -> None:
    await check_random_cancellation(transport, messages=100_000)


@check
async def a_message_has_a_frame(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, peer):
        with refused(ValueError):
            bound.port.send(peer, [])
        with refused(ValueError):
            dialled.port.send(DIALLED, [])
        bound.post(peer, b"still", b"works")
        assert await dialled.get_frames() == [b"still", b"works"]


@check
async def a_frame_that_is_too_large_ends_its_connection(transport: Transport) -> None:
    if not transport.limits_frames:
        return
    bound = transport.bind(options=Options(max_frame=1000))
    dialled, other = (transport.call(bound.port.endpoints[0]) for _ in range(2))
    async with running(bound, dialled, other):
        for end in (dialled, other):
            await greet(bound, end)
        dialled.post(DIALLED, bytes(1001))
        assert await dialled.get_lost() == DIALLED
        await bound.get_lost()
        other.post(DIALLED, bytes(1000))
        assert await bound.get_frames() == [bytes(1000)]

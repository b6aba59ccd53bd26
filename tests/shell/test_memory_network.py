"""The faults that the network in memory can be asked for, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import trio
from transport_ends import End, bind, call, connected, running
from trio.testing import MockClock

from zmdp_trio._transport import DIALLED, Connected, Lost, Options, PeerGone
from zmdp_trio._transport.memory import CAPACITY, MemoryPort, current_network, host

NAME = "memory://broker"
OPTIONS = Options(heartbeat=2.0, misses=3)


async def greet(bound: End, dialled: End) -> bytes:
    """Let two ends know each other; return what the dialled one is called."""
    await connected(dialled)
    dialled.post(DIALLED, b"hello")
    peer, what = await bound.get()
    assert what == [b"hello"]
    return peer


def memory(end: End) -> MemoryPort:
    assert isinstance(end.port, MemoryPort)
    return end.port


async def test_one_network_for_each_run(autojump_clock: MockClock) -> None:
    assert current_network() is current_network()
    other = await trio.to_thread.run_sync(lambda: trio.run(_network))
    assert other is not current_network()


async def _network() -> object:
    return current_network()


async def test_routing_ids_look_random_and_repeat_in_every_run(autojump_clock: MockClock) -> None:
    bound, first, second = bind(NAME), call(NAME), call(NAME)
    async with running(bound, first, second):
        names = [await greet(bound, first), await greet(bound, second)]
    assert len(set(names)) == 2
    assert all(len(name) == 5 and name[0] == 0 for name in names)
    again = await trio.to_thread.run_sync(lambda: trio.run(_names))
    assert again == names


async def _names() -> list[bytes]:
    bound, first, second = bind(NAME), call(NAME), call(NAME)
    async with running(bound, first, second):
        return [await greet(bound, first), await greet(bound, second)]


async def test_nothing_is_handed_over_inside_send(autojump_clock: MockClock) -> None:
    bound, dialled = bind(NAME), call(NAME)
    async with running(bound, dialled):
        await greet(bound, dialled)
        dialled.post(DIALLED, b"x")
        assert not bound.received
        assert await bound.get_frames() == [b"x"]


async def test_frames_pass_by_reference_and_can_not_be_changed_afterwards(autojump_clock: MockClock) -> None:
    bound, dialled = bind(NAME), call(NAME)
    async with running(bound, dialled):
        peer = await greet(bound, dialled)
        body, scratch = bytes(1000), bytearray(b"before")
        dialled.post(DIALLED, body, scratch)
        scratch[:] = b"after!"
        _, frames = await bound.get()
        assert isinstance(frames, list)
        assert frames[0] is body
        assert frames[1] == b"before"
        frames[0] = b"the receiver's list is its own"
        bound.post(peer, b"y")
        assert await dialled.get_frames() == [b"y"]


async def test_the_hook_drops_doubles_and_delays(autojump_clock: MockClock) -> None:
    fates = {b"drop": (), b"double": (0, 0), b"delay": (1.5,), b"apart": (0.5, 2.0)}

    def hook(source: MemoryPort, target: MemoryPort, frames: list[object]) -> Iterable[float]:
        assert (source, target) == (dialled.port, bound.port)
        return fates.get(frames[0], (0,))  # type: ignore[call-overload, no-any-return]

    bound, dialled = bind(NAME), call(NAME)
    async with running(bound, dialled):
        await greet(bound, dialled)
        current_network().hook = hook  # type: ignore[assignment]
        start = trio.current_time()
        for what in (b"drop", b"plain", b"double", b"delay", b"behind", b"apart", b"last"):
            dialled.post(DIALLED, what)
        arrived = []
        for _ in range(8):
            frames = await bound.get_frames()
            arrived.append((trio.current_time() - start, frames[0]))
        assert arrived == [
            (0, b"plain"),
            (0, b"double"),
            (0, b"double"),
            (1.5, b"delay"),
            (1.5, b"behind"),
            (1.5, b"apart"),
            (2.0, b"apart"),
            (2.0, b"last"),
        ]


async def test_a_loss_comes_behind_what_was_delayed(autojump_clock: MockClock) -> None:
    bound, dialled = bind(NAME), call(NAME)
    async with running(bound, dialled):
        peer = await greet(bound, dialled)
        current_network().hook = lambda *_: (1.0,)
        dialled.post(DIALLED, b"x")
        dialled.port.close()
        assert await bound.get_frames() == [b"x"]
        assert await bound.get_lost() == peer
        assert trio.current_time() == 1.0


async def test_delayed_messages_fill_the_queue(autojump_clock: MockClock) -> None:
    bound, dialled = bind(NAME), call(NAME)
    async with running(bound, dialled):
        await greet(bound, dialled)
        current_network().hook = lambda *_: (1.0,)
        for _ in range(CAPACITY + 1):
            dialled.post(DIALLED, b"x")
        assert dialled.unsent == 1
        for _ in range(CAPACITY + 1):
            await bound.get_frames()
        assert trio.current_time() == 2.0


@pytest.mark.parametrize("by_name", [False, True])
async def test_killing_the_bound_port(autojump_clock: MockClock, by_name: bool) -> None:
    bound, dialled = bind(NAME), call(NAME)
    async with running(bound, dialled):
        peer = await greet(bound, dialled)
        bound.post(peer, b"last words")
        current_network().kill(NAME if by_name else memory(bound))
        assert await dialled.get_frames() == [b"last words"]
        assert await dialled.get_lost() == DIALLED
        with pytest.raises(PeerGone):
            dialled.port.send(DIALLED, [b"x"])
        # The victim knows nothing of it, and nothing that it does has an effect.
        bound.post(peer, b"ghost")
        await trio.sleep(100)
        assert not bound.received
        assert not dialled.received
        again = bind(NAME)  # its name is free
        again.port.close()


async def test_killing_a_dialled_port(autojump_clock: MockClock) -> None:
    bound, dialled, other = bind(NAME), call(NAME), call(NAME)
    async with running(bound, dialled, other):
        peer, _ = await greet(bound, dialled), await greet(bound, other)
        current_network().kill(memory(dialled))
        assert await bound.get_lost() == peer
        with pytest.raises(PeerGone):
            bound.port.send(peer, [b"x"])
        other.post(DIALLED, b"still here")
        assert await bound.get_frames() == [b"still here"]


async def test_a_partition_is_noticed_by_both_sides_after_their_silence(autojump_clock: MockClock) -> None:
    bound, dialled = bind(NAME, options=OPTIONS), call(NAME, Options(heartbeat=1.0, misses=2))
    async with running(bound, dialled):
        peer = await greet(bound, dialled)
        current_network().partition([memory(bound)], [memory(dialled)])
        bound.post(peer, b"vanishes")
        dialled.post(DIALLED, b"vanishes")
        assert await dialled.get_lost() == DIALLED
        assert trio.current_time() == 2.0
        assert await bound.get_lost() == peer
        assert trio.current_time() == 6.0
        await trio.sleep(100)
        assert not bound.received
        assert not dialled.received


async def test_a_partition_that_heals_in_time(autojump_clock: MockClock) -> None:
    bound, dialled, free = bind(NAME, options=OPTIONS), call(NAME, OPTIONS), call(NAME, OPTIONS)
    network = current_network()
    async with running(bound, dialled, free):
        peer, _ = await greet(bound, dialled), await greet(bound, free)
        for _ in range(3):
            network.partition([memory(bound)], [memory(dialled)])
            network.partition([memory(bound)], [memory(dialled)])  # nothing new
            dialled.post(DIALLED, b"vanishes")
            free.post(DIALLED, b"in no group")
            assert await bound.get_frames() == [b"in no group"]
            await trio.sleep(5.9)
            network.heal()
        dialled.post(DIALLED, b"arrives")
        bound.post(peer, b"arrives")
        assert await bound.get_frames() == [b"arrives"]
        assert await dialled.get_frames() == [b"arrives"]
        await trio.sleep(100)
        assert not bound.received
        assert not dialled.received


async def test_dialling_across_a_partition(autojump_clock: MockClock) -> None:
    bound = bind(NAME, options=OPTIONS)
    host.set("north")
    current_network().partition([NAME], ["north"])
    lost, patient = call(NAME, OPTIONS), call(NAME, Options(heartbeat=100))
    host.set("")
    free = call(NAME, OPTIONS)
    async with running(bound, lost, patient, free):
        await connected(free)
        assert await lost.get_lost() == DIALLED
        assert trio.current_time() == 6.0
        assert not patient.port.send(DIALLED, [b"too soon"])
        current_network().heal()
        await connected(patient)
        patient.post(DIALLED, b"x")
        assert await bound.get_frames() == [b"x"]


async def test_killing_a_host(autojump_clock: MockClock) -> None:
    bound, other = bind(NAME), call(NAME)
    host.set("north")
    ports = [call(NAME), call(NAME), bind("memory://north's own")]
    async with running(bound, other, *ports):
        names = {await greet(bound, end) for end in ports[:2]}
        await greet(bound, other)
        current_network().kill("north")
        assert {await bound.get_lost(), await bound.get_lost()} == names
        await trio.sleep(1)
        assert not bound.received
        assert not other.received


async def test_who_is_killed_during_a_partition_is_missed_after_the_silence(autojump_clock: MockClock) -> None:
    bound, dialled = bind(NAME, options=OPTIONS), call(NAME, OPTIONS)
    async with running(bound, dialled):
        await greet(bound, dialled)
        current_network().partition([memory(bound)], [memory(dialled)])
        await trio.sleep(1)
        current_network().kill(memory(bound))
        assert await dialled.get_lost() == DIALLED
        assert trio.current_time() == 6.0


async def test_without_heartbeats_a_partition_goes_unnoticed(autojump_clock: MockClock) -> None:
    never = Options(heartbeat=math.inf)
    bound, dialled = bind(NAME, options=never), call(NAME, never)
    async with running(bound, dialled):
        await greet(bound, dialled)
        current_network().partition([memory(bound)], [memory(dialled)])
        await trio.sleep(1000)
        current_network().heal()
        dialled.post(DIALLED, b"x")
        assert await bound.get_frames() == [b"x"]


async def test_the_network_forgets_what_is_over(autojump_clock: MockClock) -> None:
    network = current_network()
    for _ in range(10):
        bound, dialled = bind(NAME), call(NAME)
        async with running(bound, dialled):
            await greet(bound, dialled)
            network.partition([memory(bound)], [memory(dialled)])
    network.heal()
    assert not [*network._links, *network._listeners, *network._groups, *network._ports]


def test_repr_and_state() -> None:
    async def main() -> None:
        bound, dialled = bind(NAME), call(NAME)
        assert "open" in repr(bound.port)
        current_network().kill(NAME)
        assert "killed" in repr(bound.port)
        bound.port.close()
        dialled.port.close()
        assert "closed" in repr(dialled.port)

    trio.run(main)


def test_what_a_dialled_port_is_told() -> None:
    async def main() -> None:
        assert call("memory://nobody").port.receive() == [(DIALLED, Lost("connection refused"))]
        bind(NAME)
        assert call(NAME).port.receive() == [(DIALLED, Connected())]

    trio.run(main)

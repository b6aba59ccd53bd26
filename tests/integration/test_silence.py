"""What the kernel tells of a TCP connection, and how one that is silent ends; no other platform is asked."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trio.testing

from zmdp_trio._transport import DIALLED, Connected, Lost, Options, Port, attend, dial, listen
from zmdp_trio._transport.zmq import _silence

pytestmark = pytest.mark.skipif(not _silence.KNOWN, reason="the kernel can't be asked")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with ours, theirs:
            yield ours, theirs


def test_a_connection_over_which_nothing_ever_came_is_not_silent(pair: tuple[socket.socket, socket.socket]) -> None:
    assert _silence.silence(pair[0].fileno()) == 0


def test_silence_grows_until_something_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"x")
    while not 0.02 < _silence.silence(ours.fileno()) < 10:
        assert ours.fileno() >= 0
    theirs.sendall(b"x")
    ours.recv(2)
    while _silence.silence(ours.fileno()) > 0.02:
        theirs.sendall(b"x")


def test_a_connection_that_is_cut_ends_at_both_sides_and_keeps_its_descriptor(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    _silence.cut(ours.fileno())
    assert (ours.recv(1), theirs.recv(1)) == (b"", b"")
    assert ours.fileno() >= 0


def test_what_is_no_tcp_connection_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    descriptor = pair[0].fileno()
    pair[0].close()
    one, other = socket.socketpair()
    with one, other:
        for each in (descriptor, one.fileno()):
            with pytest.raises(OSError, match=r"descriptor|supported|TCP"):
                _silence.silence(each)


async def test_a_port_cuts_off_whoever_has_gone_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is made up here: how it comes about, and that it ends a real one, tests of stopped processes show."""
    quiet: set[int] = set()
    monkeypatch.setattr(
        "zmdp_trio._transport.zmq._router.silence", lambda descriptor: 9.0 if descriptor in quiet else 0.02
    )
    options = Options(heartbeat=0.05, misses=3)
    bound = listen("tcp://127.0.0.1:*", options=options)
    peers = [dial(bound.endpoints[0], options) for _ in range(3)]
    heard: list[bytes] = []
    lost: list[bytes] = []
    all_heard, one_lost = trio.Event(), trio.Event()

    def take() -> None:
        for peer, what in bound.receive():
            (lost if isinstance(what, Lost) else heard).append(peer)
        if len(heard) == 3:
            all_heard.set()
        if lost:
            one_lost.set()

    def greet(port: Port) -> None:
        if any(isinstance(what, Connected) for _, what in port.receive()):
            port.send(DIALLED, [b"hello"])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend, bound, take)
            for port in peers:
                nursery.start_soon(attend, port, partial(greet, port))
            await all_heard.wait()
            assert lost == []
            quiet.add(bound._peers[heard[1]])  # type: ignore[attr-defined]
            await one_lost.wait()
            nursery.cancel_scope.cancel()
    assert lost == [heard[1]]
    for port in (bound, *peers):
        port.close()


async def test_who_was_stopped_himself_first_hears_who_lives(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    """A process that is stopped sends no PINGs, and so nothing comes from peers that only answer them."""
    looks: list[float] = []
    stopped = 0.0

    def silence(descriptor: int) -> float:
        looks.append(trio.current_time())
        if not stopped:
            return 3.7  # it is looked at again at once
        return 100.0 if trio.current_time() < stopped + 100.5 else 0.0

    monkeypatch.setattr("zmdp_trio._transport.zmq._router.silence", silence)
    cut: list[int] = []
    monkeypatch.setattr("zmdp_trio._transport.zmq._router.cut", cut.append)
    options = Options(heartbeat=1, misses=3)
    bound = listen("tcp://127.0.0.1:*", options=options)
    peer = dial(bound.endpoints[0], Options(heartbeat=math.inf))
    heard = trio.Event()

    def take() -> None:
        if bound.receive():
            heard.set()

    def greet() -> None:
        if any(isinstance(what, Connected) for _, what in peer.receive()):
            peer.send(DIALLED, [b"hello"])

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend, bound, take)
            nursery.start_soon(attend, peer, greet)
            await heard.wait()
            while not looks:
                mock_clock.jump(0.125)
                await trio.testing.wait_all_tasks_blocked()
            stopped = trio.current_time()
            mock_clock.jump(100)
            while looks[-1] <= stopped:
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(0.125)
            nursery.cancel_scope.cancel()
    bound.close()
    peer.close()
    assert cut == []

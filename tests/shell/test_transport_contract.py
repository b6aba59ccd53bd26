"""What every transport promises; the same tests over memory and over ZeroMQ's own transports."""

from __future__ import annotations

import os
import random
import resource
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing
import zmq
from transport_ends import OPTIONS, End, bind, call, connected, running

from zmdp_trio._transport import DIALLED, EndpointError, Lost, Options, PeerGone, dial, listen

SECONDS = 20
pytestmark = pytest.mark.usefixtures("within_limit")


@pytest.fixture(params=["memory", "tcp", "ipc", "inproc"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An endpoint that can be bound, whose address may not be known before."""
    addresses = {
        "memory": "memory://*",
        "tcp": "tcp://127.0.0.1:*",
        "ipc": f"ipc://{tmp_path}/socket",
        "inproc": "inproc://*",
    }
    return addresses[request.param]


@pytest.fixture
async def within_limit(nursery: trio.Nursery) -> None:
    """Fail a test that hangs."""
    nursery.start_soon(_expire)


async def _expire() -> None:
    await trio.sleep(SECONDS)
    raise trio.TooSlowError


@asynccontextmanager
async def pair(endpoint: str) -> AsyncIterator[tuple[End, End, bytes]]:
    """A bound and a dialled end that know each other, and what the dialled one is called."""
    bound = bind(endpoint)
    dialled = call(bound.port.endpoints[0])
    async with running(bound, dialled):
        await connected(dialled)
        dialled.post(DIALLED, b"hello")
        peer, what = await bound.get()
        assert what == [b"hello"]
        yield bound, dialled, peer


async def test_messages_arrive_whole_and_in_order(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        for number in range(1000):
            dialled.post(DIALLED, b"%d" % number, *[b"x"] * (number % 5))
            bound.post(peer, b"%d" % number, *[b"y"] * (number % 5))
        for number in range(1000):
            assert await bound.get_frames() == [b"%d" % number, *[b"x"] * (number % 5)]
            assert await dialled.get_frames() == [b"%d" % number, *[b"y"] * (number % 5)]


@pytest.mark.parametrize("size", [0, 1, 2**15 - 1, 2**15, 2**20, 20 * 2**20])
async def test_frames_of_any_size_pass_through(endpoint: str, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with pair(endpoint) as (bound, dialled, _):
        bound.echo = True
        frames = [b"head", b"index", body, b"", body, b"tail"]
        dialled.post(DIALLED, *frames)
        assert await dialled.get_frames() == frames


async def test_a_received_frame_can_be_sent_more_than_once(endpoint: str) -> None:
    body = os.urandom(2**20)
    async with pair(endpoint) as (bound, dialled, peer):
        dialled.post(DIALLED, b"", b"", body)
        _, frames = await bound.get()
        assert isinstance(frames, list)
        for _ in range(3):
            bound.post(peer, *frames)
        for _ in range(3):
            assert await dialled.get_frames() == [b"", b"", body]
        assert bytes(frames[2]) == body


async def test_many_peers_are_kept_apart(endpoint: str) -> None:
    bound = bind(endpoint)
    bound.echo = True
    dialled = [call(bound.port.endpoints[0]) for _ in range(50)]
    async with running(bound, *dialled):
        for number, end in enumerate(dialled):
            await connected(end)
            for part in range(20):
                end.post(DIALLED, b"%d" % number, b"%d" % part)
        for number, end in enumerate(dialled):
            for part in range(20):
                assert await end.get_frames() == [b"%d" % number, b"%d" % part]


@pytest.mark.parametrize("direction", ["to the dialled", "to the bound"])
async def test_a_full_queue_refuses_and_then_wakes(endpoint: str, direction: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        source, target, name = (bound, dialled, peer) if direction == "to the dialled" else (dialled, bound, DIALLED)
        target.reading = False
        posted = 0
        while not source.unsent or not await _settled(source):
            source.post(name, b"%d" % posted, b"", bytes(2**20) if posted < 40 else b"")
            posted += 1
        assert source.refusals
        target.reading = True
        target.turn()
        for number in range(posted):
            assert (await target.get_frames())[0] == b"%d" % number
        assert not source.unsent


@pytest.mark.parametrize("direction", ["to the dialled", "to the bound"])
async def test_a_peer_that_stays_full_costs_next_to_nothing(endpoint: str, direction: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        source, target, name = (bound, dialled, peer) if direction == "to the dialled" else (dialled, bound, DIALLED)
        target.reading = False
        posted = 0
        while not source.unsent or not await _settled(source):
            source.post(name, bytes(2**18))
            posted += 1
        before = source.turns
        await trio.sleep(0.4)
        assert source.turns - before < 20  # after 5 ms at first, then at ever longer intervals
        target.reading = True
        target.turn()
        for _ in range(posted):
            await target.get_frames()
        assert not source.unsent


async def _settled(end: End) -> bool:
    """Wait until what was sent has left or can't; tell whether something can't."""
    with trio.move_on_after(0.1):
        while end.unsent:
            await trio.lowlevel.checkpoint()
    return bool(end.unsent)


@pytest.mark.parametrize("direction", ["to the dialled", "to the bound"])
async def test_news_of_room_is_not_swallowed_outside_of_ready(endpoint: str, direction: str) -> None:
    """Whoever uses the port takes the signal that `run` waits for, and may not offer anything again."""
    async with pair(endpoint) as (bound, dialled, peer):
        source, target, name = (bound, dialled, peer) if direction == "to the dialled" else (dialled, bound, DIALLED)
        await trio.testing.wait_all_tasks_blocked()
        target.reading = False
        posted = 1
        source.post(name, b"")
        while not source.unsent:
            source.post(name, bytes(2**18))
            posted += 1
        target.reading = True
        for _ in range(posted):
            while not target.received:
                target.turn()
                assert not source.port.receive()
                await trio.lowlevel.checkpoint()
            await target.get_frames()
        assert not source.unsent


async def test_one_full_peer_does_not_stop_another(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        other = call(bound.port.endpoints[0])
        async with running(other):
            await connected(other)
            other.post(DIALLED, b"here")
            second, _ = await bound.get()
            dialled.reading = False
            for number in range(3000):
                bound.post(peer, b"%d" % number, b"", bytes(2**16))
            assert bound.unsent
            for number in range(300):
                bound.post(second, b"%d" % number)
                assert await other.get_frames() == [b"%d" % number]
            assert bound.unsent
            dialled.reading = True
            dialled.turn()
            for number in range(3000):
                assert (await dialled.get_frames())[0] == b"%d" % number


async def test_sending_to_an_unknown_peer_is_an_error(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        for port, name in ((bound.port, b"nobody"), (dialled.port, b"nobody"), (bound.port, DIALLED)):
            with pytest.raises(PeerGone):
                port.send(name, [b"x"])
        bound.post(peer, b"still", b"works")
        assert await dialled.get_frames() == [b"still", b"works"]


async def test_a_message_has_a_frame(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        with pytest.raises(ValueError, match="at least one"):
            bound.port.send(peer, [])
        with pytest.raises(ValueError, match="at least one"):
            dialled.port.send(DIALLED, [])
        bound.post(peer, b"still", b"works")
        assert await dialled.get_frames() == [b"still", b"works"]


async def test_the_bound_side_learns_that_a_peer_closed(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        for number in range(10):
            dialled.post(DIALLED, b"%d" % number)
        dialled.port.close()
        for number in range(10):
            assert await bound.get_frames() == [b"%d" % number]
        assert await bound.get_lost() == peer
        with pytest.raises(PeerGone):
            bound.port.send(peer, [b"x"])
        assert not bound.port.receive()


async def test_the_dialled_side_learns_that_the_other_closed(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        for number in range(10):
            bound.post(peer, b"%d" % number)
        bound.port.close()
        for number in range(10):
            assert await dialled.get_frames() == [b"%d" % number]
        assert await dialled.get_lost() == DIALLED
        with pytest.raises(PeerGone):
            dialled.port.send(DIALLED, [b"x"])
        assert not dialled.port.receive()


async def test_what_came_before_the_loss_is_delivered_late_too(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        dialled.reading = False
        for number in range(10):
            bound.post(peer, b"%d" % number)
        assert not bound.unsent
        bound.port.close()
        await _quiet(dialled)
        dialled.reading = True
        dialled.turn()
        for number in range(10):
            assert await dialled.get_frames() == [b"%d" % number]
        assert await dialled.get_lost() == DIALLED


async def _quiet(end: End) -> None:
    """Wait until the end of the connection has come to the port's notice."""
    monitor = getattr(end.port, "_monitor", None)
    if monitor is not None and "inproc" not in end.port.endpoints[0]:
        while not monitor.news:
            await trio.lowlevel.checkpoint()
    else:
        await trio.lowlevel.checkpoint()


async def test_peers_that_never_come_back_leave_nothing(endpoint: str) -> None:
    bound = bind(endpoint)
    async with running(bound):
        seen = set()
        for _ in range(50):
            dialled = call(bound.port.endpoints[0])
            async with running(dialled):
                await connected(dialled)
                dialled.post(DIALLED, b"hello")
                peer, what = await bound.get()
                assert what == [b"hello"]
            assert await bound.get_lost() == peer
            seen.add(peer)
        assert len(seen) == 50
        slots = [name for each in type(bound.port).__mro__ for name in getattr(each, "__slots__", ())]
        tables = [getattr(bound.port, name) for name in (slots or vars(bound.port))]
        assert not any(table for table in tables if isinstance(table, dict | list))


async def test_a_silent_peer_that_leaves_is_not_mentioned(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, _):
        shy = call(bound.port.endpoints[0])
        async with running(shy):
            await connected(shy)
        dialled.post(DIALLED, b"next")
        assert await bound.get_frames() == [b"next"]
        assert not bound.received


async def test_dialling_where_nobody_listens(endpoint: str) -> None:
    if endpoint.startswith("inproc:"):
        pytest.skip("inproc waits for the other side to bind")
    address = endpoint.replace("127.0.0.1:*", "127.0.0.1:1").replace("*", "nobody")
    dialled = call(address)
    async with running(dialled):
        peer, what = await dialled.get()
        assert peer == DIALLED
        assert what == Lost("connection refused")
        with pytest.raises(PeerGone):
            dialled.port.send(DIALLED, [b"x"])


async def test_inproc_may_be_dialled_first() -> None:
    dialled = call("inproc://later")
    bound = bind("inproc://later")
    bound.echo = True
    async with running(dialled, bound):
        await connected(dialled)
        dialled.post(DIALLED, b"x")
        assert await dialled.get_frames() == [b"x"]


async def test_a_name_that_does_not_resolve() -> None:
    dialled = call("tcp://name.invalid:1")
    async with running(dialled):
        assert await dialled.get_lost() == DIALLED


async def test_several_endpoints_on_one_port(endpoint: str) -> None:
    second = endpoint.replace("socket", "second")
    bound = bind(endpoint, second)
    bound.echo = True
    first, other = bound.port.endpoints
    assert first != other
    assert "*" not in first + other
    dialled = [call(first), call(other)]
    async with running(bound, *dialled):
        for end in dialled:
            await connected(end)
            end.post(DIALLED, b"x", b"y")
            assert await end.get_frames() == [b"x", b"y"]


async def test_an_endpoint_that_is_in_use(endpoint: str) -> None:
    bound = bind(endpoint)
    address = bound.port.endpoints[0]
    with pytest.raises(EndpointError, match="in use") as caught:
        listen(address, options=OPTIONS)
    assert str(caught.value).startswith(address)
    dialled = call(address)
    bound.echo = True
    async with running(bound, dialled):  # and the first one still works
        await connected(dialled)
        dialled.post(DIALLED, b"x")
        assert await dialled.get_frames() == [b"x"]


async def test_an_endpoint_can_be_bound_again_after_its_port_closed(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, _):
        address = bound.port.endpoints[0]
        bound.port.close()
        assert await dialled.get_lost() == DIALLED
    again = bind(address)
    again.port.close()


@pytest.mark.parametrize(
    "bad",
    ["", "tcp", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999", "tcp://nosuchinterface:1",
     "http://x", "127.0.0.1:5",
     "tcp://192.0.2.1:5555", "ipc:///nonexistent/folder/socket", f"ipc:///tmp/{'x' * 200}", "ipc:///etc/hostname"],
)  # fmt: skip
async def test_endpoints_that_can_not_be_bound(bad: str) -> None:
    with pytest.raises(EndpointError) as caught:
        listen(bad, options=OPTIONS)
    assert str(caught.value).startswith(bad)
    assert "\n" not in str(caught.value)


async def test_endpoints_that_do_not_go_together() -> None:
    with pytest.raises(EndpointError, match="memory"):
        listen("memory://x", "tcp://127.0.0.1:*", options=OPTIONS)
    with pytest.raises(EndpointError, match="no endpoint"):
        listen(options=OPTIONS)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("tcp://nohost.invalid:5556", "the host name does not resolve to an address of this machine"),
        ("tcp://192.0.2.1:5556", "not an address of this machine"),
        ("tcp://127.0.0.1:x", "malformed; expected tcp://host:port, and a number for the port"),
    ],
)
async def test_why_an_endpoint_can_not_be_bound(bad: str, why: str) -> None:
    with pytest.raises(EndpointError) as caught:
        listen(bad, options=OPTIONS)
    assert str(caught.value) == f"{bad}: {why}"


@pytest.mark.parametrize("bad", ["tcp://127.0.0.1:*", "tcp://*:5556", "ipc://*", "inproc://*", "memory://*"])
async def test_a_wildcard_can_not_be_dialled(bad: str) -> None:
    with pytest.raises(EndpointError, match="can't dial a wildcard") as caught:
        dial(bad, OPTIONS)
    assert str(caught.value).startswith(bad)


async def test_our_own_side_of_a_dialled_endpoint_may_be_a_wildcard() -> None:
    bound = bind("tcp://127.0.0.1:*")
    dialled = call(bound.port.endpoints[0].replace("tcp://", "tcp://127.0.0.1:*;"))
    async with running(bound, dialled):
        await connected(dialled)


@contextmanager
def _descriptors_left(count: int) -> Iterator[None]:
    """Use up all file descriptors but so many."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 1024), limits[1]))
    try:
        with suppress(OSError):
            while True:
                hoard.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(hoard.pop())
        yield
    finally:
        for descriptor in hoard:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_file_descriptors_that_run_out(left: int) -> None:
    """Whichever of a port's three first descriptors is not to be had, `EndpointError` says so."""
    await trio.to_thread.run_sync(_join_contexts)  # they would give some back meanwhile
    bound = bind("tcp://127.0.0.1:*")
    with _descriptors_left(left):
        with pytest.raises(EndpointError, match=r"^tcp://127.0.0.1:5: Too many open files$"):
            dial("tcp://127.0.0.1:5", OPTIONS)
        with pytest.raises(EndpointError, match=r"^inproc://one, inproc://two: Too many open files$"):
            listen("inproc://one", "inproc://two", options=OPTIONS)
    dialled = call(bound.port.endpoints[0])
    async with running(bound, dialled):  # and now it works
        await connected(dialled)


async def test_file_descriptors_that_run_out_before_the_first_port() -> None:
    await trio.to_thread.run_sync(_join_contexts)
    for left in range(10):
        with _descriptors_left(left), pytest.raises(EndpointError, match=r": Too many open files$"):
            dial("tcp://127.0.0.1:5", OPTIONS)
        await trio.to_thread.run_sync(_join_contexts)


@pytest.mark.parametrize(
    "bad", ["", "tcp", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999", "http://x"]
)
async def test_endpoints_that_can_not_be_dialled(bad: str) -> None:
    with pytest.raises(EndpointError) as caught:
        dial(bad, OPTIONS)
    assert str(caught.value).startswith(bad)


async def test_a_frame_that_is_too_large_ends_its_connection(endpoint: str) -> None:
    if endpoint.startswith("inproc:"):
        pytest.skip("inproc has no such limit")
    bound = bind(endpoint, options=Options(max_frame=1000))
    dialled, other = call(bound.port.endpoints[0]), call(bound.port.endpoints[0])
    async with running(bound, dialled, other):
        for end in (dialled, other):
            await connected(end)
            end.post(DIALLED, b"hello")
            await bound.get()
        dialled.post(DIALLED, bytes(1001))
        assert await dialled.get_lost() == DIALLED
        await bound.get_lost()
        other.post(DIALLED, bytes(1000))
        assert await bound.get_frames() == [bytes(1000)]


async def test_a_closed_port(endpoint: str) -> None:
    async with pair(endpoint) as (bound, _, peer):
        bound.port.close()
        bound.port.close()
        with pytest.raises(trio.ClosedResourceError):
            bound.port.send(peer, [b"x"])
        with pytest.raises(trio.ClosedResourceError):
            bound.port.receive()
        with pytest.raises(trio.ClosedResourceError):
            await bound.port.run(lambda: None)
        assert "closed" in repr(bound.port)


async def _interrupted(end: End, rng: random.Random) -> NoReturn:
    """Run a port, but cancel that at random moments and begin again."""
    while True:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end.run)
                for _ in range(rng.randrange(12)):
                    await trio.lowlevel.checkpoint()
                scope.cancel()


async def _post_at_random(end: End, name: bytes, count: int, rng: random.Random) -> None:
    for number in range(count):
        end.post(name, b"%d" % number, *[b"body"] * rng.randrange(4))
        if rng.random() < 0.1:
            await trio.lowlevel.checkpoint()


async def _get_in_order(end: End, count: int) -> None:
    for number in range(count):
        head, *rest = await end.get_frames()
        assert head == b"%d" % number
        assert set(rest) <= {b"body"}


@pytest.mark.parametrize("seed", range(3))
async def test_no_message_is_lost_doubled_torn_or_stuck(endpoint: str, seed: int) -> None:
    rng = random.Random(seed)
    count = 20_000
    bound = bind(endpoint)
    dialled = call(bound.port.endpoints[0])
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_interrupted, bound, rng)
            nursery.start_soon(_interrupted, dialled, rng)
            await connected(dialled)
            dialled.post(DIALLED, b"hello")
            peer, _ = await bound.get()
            async with trio.open_nursery() as work:
                work.start_soon(_post_at_random, bound, peer, count, rng)
                work.start_soon(_post_at_random, dialled, DIALLED, count, rng)
                work.start_soon(_get_in_order, bound, count)
                work.start_soon(_get_in_order, dialled, count)
            nursery.cancel_scope.cancel()
    finally:
        bound.port.close()
        dialled.port.close()


async def test_one_message_at_a_time_never_stalls(endpoint: str) -> None:
    """The smallest traffic leaves no second message to cover a wake-up that was missed."""
    async with pair(endpoint) as (bound, dialled, peer):
        bound.echo = True
        for number in range(3000):
            dialled.post(DIALLED, b"%d" % number)
            assert await dialled.get_frames() == [b"%d" % number]
            if number % 7 == 0:
                bound.post(peer, b"extra")  # a send outside of `ready` uses up an edge
                assert await dialled.get_frames() == [b"extra"]


async def test_closing_gives_back_every_descriptor(endpoint: str) -> None:
    async def once() -> None:
        async with pair(endpoint) as (bound, dialled, _):
            bound.echo = True
            dialled.post(DIALLED, b"x", bytes(2**20))
            await dialled.get_frames()
        await trio.to_thread.run_sync(_join_contexts)

    await once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await once()
    assert len(os.listdir("/proc/self/fd")) == before


def _join_contexts() -> None:
    for thread in threading.enumerate():
        if thread.name == "zmdp-zmq-term":
            thread.join()


async def test_what_was_sent_just_before_closing_arrives(endpoint: str) -> None:
    async with pair(endpoint) as (bound, dialled, peer):
        for number in range(5):
            bound.post(peer, b"%d" % number, bytes(2**20))
        assert not bound.unsent
        bound.port.close()
        for number in range(5):
            assert await dialled.get_frames() == [b"%d" % number, bytes(2**20)]
        assert await dialled.get_lost() == DIALLED


async def test_a_handshake_that_fails() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        dialled = call(f"tcp://127.0.0.1:{port}")
        async with running(dialled):
            _, what = await dialled.get()
            assert isinstance(what, Lost)
            assert "handshake" in what.reason
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert not dialled.received
        nursery.cancel_scope.cancel()


async def test_a_handshake_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a process that is stopped: the kernel accepts the connection for it."""
    monkeypatch.setattr("zmdp_trio._transport.zmq.HANDSHAKE_TIMEOUT", 50)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dialled = call(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        async with running(dialled):
            assert await dialled.get() == (DIALLED, Lost("handshake failed: no answer"))


async def test_a_name_that_a_peer_chose_may_come_back() -> None:
    """Legacy peers may set their routing id; an old connection's end is not the new one's."""
    bound = bind("tcp://127.0.0.1:*")
    with zmq.Context() as context:
        async with running(bound):
            for number in range(30):
                heard = False
                while not heard:  # libzmq ignores a name for as long as it has not cleared the last one away
                    with context.socket(zmq.DEALER) as socket, trio.move_on_after(0.2):
                        socket.setsockopt(zmq.ROUTING_ID, b"named")
                        socket.setsockopt(zmq.LINGER, 0)
                        socket.connect(bound.port.endpoints[0])
                        socket.send(b"%d" % number)
                        assert await bound.get() == (b"named", [b"%d" % number])
                        heard = True
                assert await bound.get() == (b"named", Lost("connection lost"))


async def test_an_inproc_peer_that_comes_and_goes_before_it_is_heard() -> None:
    bound = bind("inproc://*")
    dialled = call(bound.port.endpoints[0])
    dialled.turn()
    dialled.post(DIALLED, b"x")
    dialled.port.close()
    async with running(bound):
        peer, what = await bound.get()
        assert what == [b"x"]
        assert await bound.get_lost() == peer
        with pytest.raises(PeerGone):
            bound.port.send(peer, [b"x"])


async def test_a_peer_that_comes_and_goes_before_it_is_heard() -> None:
    bound = bind("tcp://127.0.0.1:*")
    with zmq.Context() as context:
        for _ in range(20):
            with context.socket(zmq.DEALER) as socket:
                socket.setsockopt(zmq.LINGER, 1000)
                socket.connect(bound.port.endpoints[0])
                socket.send(b"x")
    async with running(bound):
        said: list[bytes] = []
        lost: list[bytes] = []
        while len(lost) < 20:
            peer, what = await bound.get()
            (lost if isinstance(what, Lost) else said).append(peer)
        assert sorted(said) == sorted(lost)
        assert len(set(said)) == 20


async def test_a_forked_child_is_told_that_it_can_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = bind("tcp://127.0.0.1:*")
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="fork"):
            dial("tcp://127.0.0.1:1", OPTIONS)
    bound.port.close()


async def test_pyzmq_is_loaded_when_it_is_needed() -> None:
    code = "import sys, zmdp_trio, zmdp_trio._transport; sys.exit('zmq' in sys.modules)"
    await trio.run_process([sys.executable, "-c", code])

"""What every transport promises, by the public checks; and what is special to each of ours."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
import long_check
import pytest
import transport_ends
import trio
import trio.testing
import zmq
from transport_ends import KINDS, OPTIONS, End, bind, call, connected, greet, transport_of

from zmdp_trio._transport import DIALLED, EndpointError, Lost, PeerGone, dial, listen
from zmdp_trio.testing.transport import CHECKS, Check, Transport, check_random_cancellation

#: Seconds that what is special to ours may take, on a busy machine; the checks have a limit of their own.
LIMIT = 60
#: Seeds of random cancellation beside the one that the checks have.
SEEDS = int(os.environ.get("ZMDP_STRESS", "1"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def transport(kind: str, tmp_path: Path) -> Transport:
    return transport_of(kind, tmp_path)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_every_transport_keeps_the_contract(
    check: Check, kind: str, transport: Transport, checked_at_length: Callable[[str], str | None]
) -> None:
    if check is long_check.CHECK:
        assert checked_at_length(kind) is None
    else:
        await check(transport)


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
async def test_random_cancellation_with_other_seeds(transport: Transport, seed: int) -> None:
    seen = await check_random_cancellation(transport, messages=20_000, seed=seed)
    # How many there are depends on how busy the machine is; these tell that there are some.
    assert seen.cancellations > 200
    assert seen.refusals > 20


# ---- what is special to ours


@asynccontextmanager
async def running(*ends: End) -> AsyncIterator[None]:
    """Run ends for a limited time."""
    with trio.fail_after(LIMIT):
        async with transport_ends.running(*ends):
            yield


async def test_a_dialled_port_is_called_what_it_wants_to_be(transport: Transport) -> None:
    if transport.endpoint().startswith("inproc:"):
        pytest.skip("names there are made up, since inproc would take the same one twice")
    server = bind(transport.endpoint())
    options = attrs.evolve(OPTIONS, routing_id=b"W-1")
    client = call(server.port.endpoints[0], options)
    async with running(server, client):
        assert await greet(server, client) == b"W-1"


async def test_why_nobody_is_there(transport: Transport) -> None:
    if transport.nobody is None:
        pytest.skip("inproc waits for the other side to bind")
    dialled = transport.call(transport.nobody)
    async with running(dialled):
        assert await dialled.get() == (DIALLED, Lost("connection refused"))


async def test_why_an_endpoint_in_use_can_not_be_bound(transport: Transport) -> None:
    bound = transport.bind()
    with pytest.raises(EndpointError, match="in use"):
        listen(*bound.port.endpoints, options=OPTIONS)
    bound.port.close()


async def test_a_port_s_repr_tells_its_state(transport: Transport) -> None:
    bound = transport.bind()
    assert bound.port.endpoints[0] in repr(bound.port)
    assert "open" in repr(bound.port)
    bound.port.close()
    assert "closed" in repr(bound.port)


async def test_peers_that_never_come_back_leave_nothing(transport: Transport) -> None:
    bound = transport.bind()
    async with running(bound):
        for _ in range(50):
            dialled = transport.call(bound.port.endpoints[0])
            async with running(dialled):
                peer = await greet(bound, dialled)
            assert await bound.get_lost() == peer
        slots = [name for each in type(bound.port).__mro__ for name in getattr(each, "__slots__", ())]
        tables = [getattr(bound.port, name) for name in (slots or vars(bound.port))]
        assert not any(table for table in tables if isinstance(table, dict | list))


async def test_closing_gives_back_every_descriptor(transport: Transport) -> None:
    async def once() -> None:
        with trio.fail_after(LIMIT):
            async with transport.pair() as (bound, dialled, _):
                bound.echo = True
                dialled.post(DIALLED, b"x", bytes(2**20))
                await dialled.get_frames()
        await trio.to_thread.run_sync(_join_contexts)

    await once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await once()
    assert len(os.listdir("/proc/self/fd")) == before


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


def _join_contexts() -> None:
    for thread in threading.enumerate():
        if thread.name == "zmdp-zmq-term":
            thread.join()


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
            heard = [0]
            for number in itertools.count(1):
                # libzmq ignores a name for as long as it has not cleared the last one away
                with context.socket(zmq.DEALER) as socket, trio.move_on_after(0.2):
                    socket.setsockopt(zmq.ROUTING_ID, b"named")
                    socket.setsockopt(zmq.LINGER, 0)
                    socket.connect(bound.port.endpoints[0])
                    socket.send(b"%d" % number)
                    await bound.arrival()
                while bound.received:  # on a busy machine, what an earlier one has sent
                    name, frames = await bound.get_message()
                    assert name == b"named"
                    assert heard[-1] < int(frames[0]) <= number
                    heard.append(int(frames[0]))
                    assert await bound.get() == (b"named", Lost("connection lost"))
                if len(heard) > 30:
                    break


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


async def test_a_recall_at_a_closed_port_disturbs_nobody_who_has_its_descriptor_since() -> None:
    port = listen("tcp://127.0.0.1:*", options=OPTIONS)
    descriptor: int = port._fd  # type: ignore[attr-defined]
    port.close()
    with trio.fail_after(20), suppress(OSError):
        while os.fstat(descriptor):  # noqa: ASYNC110
            await trio.sleep(0.01)
    reader, writer = os.pipe()
    os.dup2(reader, descriptor)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, descriptor)
            await trio.testing.wait_all_tasks_blocked()
            port.recall()
            await trio.testing.wait_all_tasks_blocked()
            os.write(writer, b"news")
    finally:
        for each in {descriptor, reader, writer}:
            os.close(each)

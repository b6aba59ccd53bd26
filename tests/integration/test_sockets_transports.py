"""The whole stack over each kind of socket, in one process."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import zmq
from zmq.utils.monitor import recv_monitor_message

from zmdp_trio import (
    Broker,
    Client,
    EndpointError,
    Final,
    InvalidArgument,
    Request,
    ServiceNotFound,
    Settings,
    Worker,
    open_broker,
    open_client,
    open_worker,
    serve_broker,
    serve_worker,
    service,
)
from zmdp_trio._transport import Lost, Options, Port, listen


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)


@service("sync count")
def sync_count(n: int) -> Iterator[int]:
    yield from range(n)
    return n


@service("upper")
def upper(text: str) -> str:
    return text.upper()


@service("relay")
async def relay(payload: Any, request: Request) -> Any:
    return await request.request("echo", payload)


SERVICES = [echo, count, sync_count, upper, relay]


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "tcp": "tcp://127.0.0.1:*",
        "ipc": f"ipc://{tmp_path}/socket",
        "inproc": "inproc://test",
    }[request.param]


@asynccontextmanager
async def cluster(endpoint: str, *services: Any, **settings: Any) -> AsyncIterator[tuple[Broker, Worker, Client]]:
    with trio.fail_after(30):
        async with (
            open_broker(endpoint, **settings) as broker,
            open_worker(services or SERVICES, broker.endpoints[0], **settings) as worker,
            open_client(broker.endpoints[0], **settings) as client,
        ):
            await worker.wait_welcomed()
            yield broker, worker, client
            await nothing_left(broker, worker, client)


async def nothing_left(broker: Broker, worker: Worker, client: Client) -> None:
    """Wait until nobody holds anything of a request any more."""

    def held() -> int:
        services = broker.statistics().services.values()
        mine, theirs = client.statistics(), worker.statistics()
        return (
            sum(each.queued + each.running + each.cancelling for each in services)
            + mine.waiting
            + mine.outstanding
            + mine.timers
            + theirs.running
            + theirs.cancelling
        )

    with trio.fail_after(10):
        while held():  # noqa: ASYNC110  nobody signals it
            await trio.sleep(0.01)
    assert broker.statistics().protocol_errors == 0
    assert client.statistics().protocol_errors == worker.statistics().protocol_errors == 0


async def test_every_shape_of_handler_end_to_end(endpoint: str) -> None:
    async with cluster(endpoint, appear=0.2) as (_, _, client):
        assert await client.request("echo", {"a": [1, None, b"x"]}) == {"a": [1, None, b"x"]}
        assert await client.request("upper", "abc") == "ABC"
        assert await client.request("relay", 5) == 5
        for name in ("count", "sync count"):
            async with client.stream(name, 1_000) as stream:
                assert [i async for i in stream] == list(range(1_000))
            assert stream.final == 1_000
        with pytest.raises(ServiceNotFound):
            await client.request("nobody")
        with pytest.raises(InvalidArgument):
            await client.request("count", "x")


async def test_ten_megabytes_come_back_identical(endpoint: str) -> None:
    data = os.urandom(10 * 2**20)
    async with cluster(endpoint) as (_, _, client):
        assert await client.request("echo", data) == data
        assert await client.request("relay", data) == data


async def test_many_requests_and_streams_at_once(endpoint: str) -> None:
    matched = 0

    async with cluster(endpoint) as (_, _, client):

        async def request(i: int) -> None:
            nonlocal matched
            assert await client.request("echo", i) == i
            matched += 1

        async def stream(n: int) -> None:
            nonlocal matched
            assert [i async for i in client.stream("count", n)] == list(range(n))
            matched += 1

        async with trio.open_nursery() as nursery:
            for i in range(1_000):
                nursery.start_soon(request, i)
            for i in range(100):
                nursery.start_soon(stream, 3 * i)
    assert matched == 1_100


async def test_leaving_cancels_the_handler_soon(endpoint: str) -> None:
    left = trio.Event()

    @service("endless")
    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 0
        finally:
            left.set()

    async with cluster(endpoint, endless) as (_, worker, client):
        for _repeat in range(5):
            left = trio.Event()
            async for _ in client.stream("endless"):
                break
            with trio.fail_after(10):
                await left.wait()
        with trio.fail_after(10):
            while worker.statistics().cancelled < 5:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_stream_dropped_in_another_thread_cancels_the_handler(endpoint: str) -> None:
    left = trio.Event()

    @service("waits")
    async def waits() -> AsyncIterator[int]:
        try:
            yield 0
            await trio.sleep_forever()
        finally:
            left.set()

    async with cluster(endpoint, waits) as (_, _, client):
        streams = [client.stream("waits")]
        await anext(streams[0])
        thread = threading.Thread(target=streams.clear)
        thread.start()
        with trio.fail_after(10):
            await left.wait()
        thread.join()


async def test_a_deadline_ends_the_handler(endpoint: str) -> None:
    seen: list[float] = []
    left = trio.Event()

    @service("waits")
    async def waits(request: Request) -> None:
        seen.append(request.deadline - trio.current_time())
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    async with cluster(endpoint, waits) as (_, _, client):
        with trio.move_on_after(0.5) as scope:
            await client.request("waits")
        assert scope.cancelled_caught
        with trio.fail_after(10):
            await left.wait()
        assert 0 < seen[0] <= 0.5


async def test_the_worker_and_the_client_may_start_first(endpoint: str) -> None:
    if "*" in endpoint:
        with trio.fail_after(10):
            async with open_broker(endpoint) as broker:  # to learn of a free port
                endpoint = broker.endpoints[0]
    with trio.fail_after(20):
        async with (
            open_worker([echo], endpoint) as worker,
            open_client(endpoint) as client,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def call() -> None:
                assert await client.request("echo", 1) == 1
                nursery.cancel_scope.cancel()

            while not client.statistics().waiting:  # noqa: ASYNC110  nobody signals it
                await trio.sleep(0.01)
            async with open_broker(endpoint):
                await worker.wait_welcomed()
                await trio.sleep_forever()


async def test_a_broker_is_opened_again_where_it_was(endpoint: str) -> None:
    if "*" in endpoint:
        async with open_broker(endpoint) as broker:
            endpoint = broker.endpoints[0]
    # What is asked before the news of a broker's end has come crosses with it, and waits for whoever may have it.
    settings = Settings(heartbeat=0.2, resume=0.5, appear=5)
    with trio.fail_after(20):
        async with (
            open_worker([echo], endpoint, settings=settings),
            open_client(endpoint, settings=settings) as client,
        ):
            for generation in range(3):
                async with open_broker(endpoint, settings=settings):
                    assert await client.request("echo", generation, retry=3) == generation


async def test_one_broker_at_several_endpoints_of_every_kind(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_broker(
            "tcp://127.0.0.1:*", "tcp://127.0.0.1:*", f"ipc://{tmp_path}/socket", "inproc://many"
        ) as broker:
            assert len(set(broker.endpoints)) == 4
            async with open_worker([echo], broker.endpoints[2]) as worker:
                await worker.wait_welcomed()
                for endpoint in broker.endpoints:
                    async with open_client(endpoint) as client:
                        assert await client.request("echo", endpoint) == endpoint


async def test_the_serve_functions_as_the_readme_shows_them() -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            broker = await nursery.start(serve_broker, "tcp://127.0.0.1:*")
            await nursery.start(serve_worker, [echo, count], broker.endpoints[0])
            async with open_client(broker.endpoints[0]) as client:
                assert await client.request("echo", {"a": 1}) == {"a": 1}
                assert [chunk async for chunk in client.stream("count", 3)] == [0, 1, 2]
            nursery.cancel_scope.cancel()


async def test_an_endpoint_in_use_is_a_plain_error(endpoint: str) -> None:
    async with open_broker(endpoint) as broker:
        with pytest.raises(EndpointError):
            async with open_broker(broker.endpoints[0]):
                pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_is_told_that_sockets_do_not_survive() -> None:
    async with open_broker("tcp://127.0.0.1:*"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: that is the point
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                listen("tcp://127.0.0.1:*", options=Options())
            except RuntimeError as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        _, status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


async def test_last_words_come_before_the_loss_though_the_descriptor_is_somebody_elses_already() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    port = listen("tcp://127.0.0.1:*", options=Options())
    try:
        with trio.fail_after(30):
            # Which descriptor a connection gets depends on those that are free below it: fill them up one by one.
            for spare in itertools.count():
                if await leave_and_inherit(port, context, spare):
                    break
    finally:
        port.close()
        context.destroy(linger=0)


async def leave_and_inherit(port: Port, context: zmq.Context[zmq.Socket[bytes]], spare: int) -> bool:
    """Have a peer speak and go, and another one come, before we look; tell whether that one got the descriptor."""
    leaver, heir = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    events = heir.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    leaver.connect(port.endpoints[0])
    leaver.send(b"first")
    news: list[Any] = []
    await drain(port, news, 1)
    [(peer, _)] = news
    descriptor = port._peers[peer]  # type: ignore[attr-defined]
    leaver.send(b"last")
    leaver.close(linger=5_000)
    while server_port(descriptor) is not None:  # noqa: ASYNC110  it is closed by a thread of libzmq's
        await trio.sleep(0.001)
    hoard = [os.open(os.devnull, os.O_RDONLY) for _ in range(spare)]
    heir.connect(port.endpoints[0])
    await trio.to_thread.run_sync(recv_monitor_message, events)
    heir.disable_monitor()
    events.close()
    inherited = server_port(descriptor) == int(port.endpoints[0].rpartition(":")[2])
    heir.send(b"heir")
    news.clear()
    await drain(port, news, 3)
    assert [what for who, what in news if who == peer] == [[b"last"], Lost("connection lost")]
    heir.close(linger=0)
    await drain(port, news, 4)
    for each in hoard:
        os.close(each)
    return inherited


async def drain(port: Port, news: list[Any], count: int) -> None:
    """Wait until so many pieces of news have come from a port that nobody runs."""
    while len(news) < count:
        news += port.receive()
        await trio.sleep(0.001)


def server_port(descriptor: int) -> int | None:
    """Return the port number of our side of a descriptor's connection; None if it is none."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        return int(connection.getsockname()[1])
    return None

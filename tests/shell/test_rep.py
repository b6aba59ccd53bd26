"""A REP server that knows nothing of brokers, as a service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from cluster import until
from raw import RawPeer, bind

from zmdp_trio import Code, EndpointError, RequestError, Settings, open_rep_service, open_worker
from zmdp_trio.testing import Cluster, open_cluster


@asynccontextmanager
async def behind(server: RawPeer | str, **options: Any) -> AsyncIterator[Cluster]:
    """Run a cluster that offers a server as `rep`."""
    endpoint = server if isinstance(server, str) else server.endpoint
    async with (
        open_cluster(limit=10_000, workers=0) as cluster,
        open_rep_service("rep", endpoint, **options) as service,
        open_worker([service], cluster.endpoint) as worker,
    ):
        await worker.wait_welcomed()
        yield cluster


async def echo_all(server: RawPeer) -> None:
    """Answer as a REP socket does: one message after the other, with the envelope as it came."""
    while True:
        peer, frames = await server.next()
        server.send(*frames, to=peer)


@pytest.mark.parametrize(
    ("payload", "frames", "reply"),
    [
        (b"bytes", [b"bytes"], b"bytes"),
        (b"", [b""], b""),
        ([b"a", b"b"], [b"a", b"b"], [b"a", b"b"]),
        ([b"a", b""], [b"a", b""], [b"a", b""]),
        ({"a": [1, None]}, [b'{"a":[1,null]}'], b'{"a":[1,null]}'),
        (None, [b"null"], b"null"),
        ("text", [b'"text"'], b'"text"'),
    ],
    ids=repr,
)
async def test_what_the_server_gets_and_what_the_caller_gets(
    payload: Any, frames: list[bytes], reply: Any, autojump_clock: Any
) -> None:
    async with bind() as server, behind(server) as cluster, trio.open_nursery() as nursery:

        async def answer() -> None:
            peer, got = await server.next()
            assert got == [b"", *frames]
            server.send(*got, to=peer)

        nursery.start_soon(answer)
        assert await cluster.client.request("rep", payload) == reply


async def test_what_json_cannot_say_is_the_callers_mistake(autojump_clock: Any) -> None:
    async with bind() as server, behind(server) as cluster:
        with pytest.raises(RequestError) as info:
            await cluster.client.request("rep", {"content": b"bytes"})
        assert info.value.code is Code.INVALID_ARGUMENT
        assert not server.received


async def test_one_connection_serves_many_requests_one_at_a_time(autojump_clock: Any) -> None:
    async with bind() as server, behind(server) as cluster, trio.open_nursery() as nursery:
        replies: list[bytes] = []

        async def ask(number: int) -> None:
            replies.append(await cluster.client.request("rep", b"%d" % number))

        for number in range(20):
            nursery.start_soon(ask, number)
        peers = set()
        for _ in range(20):
            peer, frames = await server.next()
            peers.add(peer)
            await trio.sleep(1)
            assert not server.received  # the next one waits in the broker
            server.send(*frames, to=peer)
        await until(lambda: len(replies) == 20)
        assert sorted(replies, key=int) == [b"%d" % number for number in range(20)]
        assert len(peers) == 1


async def test_several_at_once_have_a_connection_each(autojump_clock: Any) -> None:
    async with bind() as server, behind(server, concurrency=3) as cluster, trio.open_nursery() as nursery:
        replies: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            replies[number] = await cluster.client.request("rep", b"%d" % number)

        for number in range(6):
            nursery.start_soon(ask, number)
        await until(lambda: len(server.received) == 3)
        waiting = [await server.next() for _ in range(3)]
        assert len({peer for peer, _ in waiting}) == 3
        for peer, frames in reversed(waiting):
            server.send(*frames, to=peer)
        nursery.start_soon(echo_all, server)
        await until(lambda: len(replies) == 6)
        assert replies == {number: b"%d" % number for number in range(6)}
        nursery.cancel_scope.cancel()


async def test_the_late_reply_to_a_cancelled_request_is_nobodys(autojump_clock: Any) -> None:
    async with bind() as server, behind(server) as cluster, trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await cluster.client.request("rep", b"first")
        first, frames = await server.next()
        assert frames == [b"", b"first"]
        replies: list[bytes] = []

        async def ask() -> None:
            replies.append(await cluster.client.request("rep", b"second"))

        nursery.start_soon(ask)
        second, frames = await server.next()
        assert second != first
        assert first in server.lost
        server.send(*frames, to=second)
        await until(lambda: replies)
        assert replies == [b"second"]


async def test_a_server_that_does_not_reply_in_time_is_unavailable(autojump_clock: Any) -> None:
    async with bind() as server, behind(server, timeout=7) as cluster:
        start = trio.current_time()
        with pytest.raises(RequestError, match="has not replied within 7 s") as info:
            await cluster.client.request("rep", b"")
        assert info.value.code is Code.UNAVAILABLE
        assert trio.current_time() - start == pytest.approx(7, abs=0.1)
        async with trio.open_nursery() as nursery:
            await server.next()
            nursery.start_soon(echo_all, server)
            assert await cluster.client.request("rep", b"next") == b"next"
            nursery.cancel_scope.cancel()


async def test_a_server_that_is_killed_at_work_is_unavailable_at_once_and_found_again(autojump_clock: Any) -> None:
    endpoint = "memory://server"
    async with trio.open_nursery() as nursery:
        async with bind(endpoint) as server, behind(server) as cluster:
            failures: list[RequestError] = []

            async def ask() -> None:
                with pytest.raises(RequestError) as info:
                    await cluster.client.request("rep", b"")
                failures.append(info.value)

            nursery.start_soon(ask)
            await server.next()
            server.close()
            start = trio.current_time()
            await until(lambda: failures)
            assert failures[0].code is Code.UNAVAILABLE
            assert "was lost before it replied" in failures[0].message
            with pytest.raises(RequestError, match="can't be reached: connection refused") as info:
                await cluster.client.request("rep", b"")
            assert info.value.code is Code.UNAVAILABLE
            assert trio.current_time() - start == pytest.approx(5, abs=0.1)
            async with bind(endpoint) as another:
                nursery.start_soon(echo_all, another)
                assert await cluster.client.request("rep", b"again") == b"again"
                nursery.cancel_scope.cancel()


async def test_a_server_that_was_restarted_between_two_requests_is_not_noticed(autojump_clock: Any) -> None:
    endpoint = "memory://server"
    async with behind(endpoint) as cluster:
        for _ in range(3):
            async with bind(endpoint) as server, trio.open_nursery() as nursery:
                nursery.start_soon(echo_all, server)
                assert await cluster.client.request("rep", b"x") == b"x"
                nursery.cancel_scope.cancel()


async def test_a_request_waits_for_a_server_that_comes_soon(autojump_clock: Any) -> None:
    endpoint = "memory://server"
    async with behind(endpoint) as cluster, trio.open_nursery() as nursery:

        async def come() -> None:
            await trio.sleep(3)
            async with bind(endpoint) as server:
                await echo_all(server)

        nursery.start_soon(come)
        assert await cluster.client.request("rep", b"x") == b"x"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "reply", [[b"no delimiter"], [b""], [b"\0name", b"", b"x"]], ids=["bare", "empty", "addressed"]
)
async def test_what_is_no_reply_is_an_error_and_costs_the_connection(reply: list[bytes], autojump_clock: Any) -> None:
    async with bind() as server, behind(server) as cluster, trio.open_nursery() as nursery:

        async def answer() -> None:
            peer, _ = await server.next()
            server.send(*reply, to=peer)
            await echo_all(server)

        nursery.start_soon(answer)
        with pytest.raises(RequestError, match="is no good") as info:
            await cluster.client.request("rep", b"x")
        assert info.value.code is Code.INTERNAL
        assert await cluster.client.request("rep", b"x") == b"x"
        assert len(server.lost) == 1
        nursery.cancel_scope.cancel()


async def test_what_comes_unasked_costs_the_connection_and_reaches_nobody(autojump_clock: Any) -> None:
    async with bind() as server, behind(server) as cluster, trio.open_nursery() as nursery:

        async def answer() -> None:
            peer, frames = await server.next()
            server.send(*frames, to=peer)
            server.send(b"", b"and one more", to=peer)
            await echo_all(server)

        nursery.start_soon(answer)
        assert await cluster.client.request("rep", b"first") == b"first"
        await trio.testing.wait_all_tasks_blocked()
        assert await cluster.client.request("rep", b"second") == b"second"
        nursery.cancel_scope.cancel()


async def test_nothing_is_left_open(autojump_clock: Any) -> None:
    async with bind() as server:
        async with behind(server) as cluster, trio.open_nursery() as nursery:
            nursery.start_soon(echo_all, server)
            await cluster.client.request("rep", b"x")
            with trio.move_on_after(0):
                await cluster.client.request("rep", b"x")
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        ports = [port for port in cluster.network._ports if port.endpoints == (server.endpoint,)]
        assert ports == [server.port]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"endpoint": "nonsense"}, EndpointError),
        ({"endpoint": "tcp://127.0.0.1:*"}, EndpointError),
        ({"name": ""}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
    ],
    ids=repr,
)
async def test_wrong_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], autojump_clock: Any
) -> None:
    right: dict[str, Any] = {"name": "rep", "endpoint": "memory://server", "settings": Settings()}
    with pytest.raises(error):
        async with open_rep_service(**(right | arguments)):
            raise AssertionError

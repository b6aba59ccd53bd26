"""What a handler learns of its request, and what it can do for it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from cluster import count, echo, open_cluster

from zmdp_trio import Final, Request, RequestError, SyncRequest, open_client, service

TRACE = {"traceparent": "00-abc-def-01", "tracestate": "x=y", "baggage": "k=v"}


async def test_a_handler_knows_who_asks_for_what(autojump_clock: Any) -> None:
    @service("facts")
    async def facts(payload: Any, request: Request) -> Any:
        assert request.deadline == math.inf
        assert request.active
        assert not request.ended
        assert "active" in repr(request)
        return [request.id, request.service, request.peer, dict(request.headers)]

    async with open_cluster(facts) as cluster, open_client(cluster.endpoint, name="somebody") as client:
        first = await client.request("facts", headers={"a": "b"})
        assert first[1:] == ["facts", "somebody", {"a": "b"}]
        second = await cluster.client.request("facts")
        assert second[1:] == ["facts", "client", {}]
        assert first[0] != second[0]


async def test_a_handler_that_goes_on_after_its_caller_left_can_tell(autojump_clock: Any) -> None:
    seen = []
    done = trio.Event()

    @service("tidy")
    async def tidy(request: Request) -> None:
        seen.append((request.active, request.ended))
        try:
            await trio.sleep_forever()
        finally:
            seen.append((request.active, request.ended))
            assert "cancelled" in repr(request)
            done.set()

    async with open_cluster(tidy) as cluster:
        with trio.move_on_after(1):
            await cluster.client.request("tidy", deadline=math.inf)
        await done.wait()
    assert seen == [(True, False), (False, False)]


async def test_a_context_that_outlives_its_request_says_so(autojump_clock: Any) -> None:
    kept: list[Request] = []

    @service("leak")
    async def leak(request: Request) -> str:
        kept.append(request)
        return "done"

    async with open_cluster(leak) as cluster:
        await cluster.client.request("leak")
        (request,) = kept
        assert (request.active, request.ended) == (False, True)
        assert "ended" in repr(request)
        with trio.fail_after(1):
            for _ in range(200):
                await request.send("into the void")
            await request.heartbeat()
        await cluster.settle()


async def test_trace_headers_go_along_and_others_do_not(autojump_clock: Any) -> None:
    @service("outer")
    async def outer(request: Request) -> Any:
        plain = await request.request("headers")
        more = await request.request("headers", headers={"own": "1", "baggage": "mine"})
        streamed = [h async for h in request.stream("headers stream", headers={"s": "t"})]
        return [plain, more, streamed]

    @service("headers")
    async def headers(request: Request) -> Any:
        return dict(request.headers)

    @service("headers stream")
    async def headers_stream(request: Request) -> AsyncIterator[Any]:
        yield dict(request.headers)

    async with open_cluster(outer, headers, headers_stream) as cluster:
        assert await cluster.client.request("outer", headers=TRACE | {"private": "x"}) == [
            TRACE,
            TRACE | {"own": "1", "baggage": "mine"},
            [TRACE | {"s": "t"}],
        ]


async def test_a_handlers_calls_are_cancelled_with_it(autojump_clock: Any) -> None:
    left = trio.Event()

    @service("outer")
    async def outer(request: Request) -> AsyncIterator[Any]:
        async for i in request.stream("inner"):
            yield i

    @service("inner")
    async def inner() -> AsyncIterator[int]:
        try:
            while True:
                yield 0
        finally:
            left.set()

    async with open_cluster(outer, inner) as cluster:
        async for _ in cluster.client.stream("outer"):
            break
        with trio.fail_after(1):
            await left.wait()
        await cluster.settle()
        callers = cluster.worker._callers
        assert callers is not None
        assert callers.statistics().outstanding == callers.statistics().timers == 0


async def test_a_sync_handler_calls_services_and_streams() -> None:
    @service("outer")
    def outer(request: SyncRequest) -> Any:
        total = request.request("echo", 5)
        for i in request.stream("count", 300):
            total += i
        for i in request.stream("count", 1_000_000):
            if i == 3:
                break  # the rest is cancelled
        return total

    async with open_cluster(outer, echo, count, heartbeat=0.05) as cluster:
        with trio.fail_after(10):
            assert await cluster.client.request("outer") == 5 + sum(range(300))
        await cluster.settle()


async def test_a_sync_handler_sees_the_same_facts() -> None:
    @service("facts")
    def facts(payload: Any, request: SyncRequest) -> Any:
        return [request.service, request.peer, dict(request.headers), request.active, request.ended]

    async with open_cluster(facts, heartbeat=0.05) as cluster:
        assert await cluster.client.request("facts", headers={"a": "b"}) == ["facts", "client", {"a": "b"}, True, False]


async def test_an_error_of_a_callee_can_be_caught(autojump_clock: Any) -> None:
    @service("outer")
    async def outer(request: Request) -> AsyncIterator[Any]:
        try:
            await request.request("nobody")
        except RequestError as error:
            yield error.code.value
        yield Final("fine")

    async with open_cluster(outer) as cluster:
        async with cluster.client.stream("outer") as stream:
            assert [x async for x in stream] == ["NOT_FOUND"]
        assert stream.final == "fine"


async def test_options_of_a_call_pass_through(autojump_clock: Any) -> None:
    @service("outer")
    async def outer(request: Request) -> Any:
        got: list[Any] = []
        final = await request.request("count", 3, on_partial=got.append, timeout=5, retry=1)
        return [got, final]

    async with open_cluster(outer, count) as cluster:
        assert await cluster.client.request("outer") == [[0, 1, 2], 3]
        with pytest.raises(RequestError):
            await cluster.client.request("outer", worker="elsewhere")

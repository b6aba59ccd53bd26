"""The shapes that a handler may have, and what each of them replies."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from cluster import Cluster, open_cluster

from zmdp_trio import Final, InvalidArgument, Request, Service, SyncRequest, service


async def collect(cluster: Cluster, name: str, payload: Any = None) -> tuple[list[Any], Any]:
    """All partial replies of a call, and the final one."""
    with trio.fail_after(5):
        async with cluster.client.stream(name, payload) as stream:
            return [partial async for partial in stream], stream.final


@service("coroutine")
async def coroutine(payload: Any) -> Any:
    return {"got": payload}


@service("async generator")
async def async_generator(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final("end")


@service("no final")
async def no_final(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i


@service("function")
def function(payload: Any) -> Any:
    return {"got": payload}


@service("generator")
def generator(n: int) -> Iterator[int]:
    yield from range(n)
    return "end"


@service("final in sync")
def final_in_sync(n: int) -> Iterator[Any]:
    yield from range(n)
    yield Final("end")


SHAPES: list[tuple[Service[..., Any], Any, tuple[list[Any], Any]]] = [
    (coroutine, 5, ([], {"got": 5})),
    (async_generator, 3, ([0, 1, 2], "end")),
    (async_generator, 0, ([], "end")),
    (no_final, 3, ([0, 1, 2], None)),
    (no_final, 0, ([], None)),
    (function, 5, ([], {"got": 5})),
    (generator, 3, ([0, 1, 2], "end")),
    (generator, 0, ([], "end")),
    (generator, 1_000, (list(range(1_000)), "end")),
    (async_generator, 1_000, (list(range(1_000)), "end")),
    (final_in_sync, 2, ([0, 1], "end")),
]


@pytest.mark.parametrize(("handler", "payload", "replies"), SHAPES)
async def test_each_shape_replies_what_it_says(handler: Service[..., Any], payload: Any, replies: Any) -> None:
    async with open_cluster(handler, heartbeat=0.05) as cluster:
        assert await collect(cluster, handler.name, payload) == replies
        assert await cluster.client.request(handler.name, payload) == replies[1]


async def test_nothing_after_final_runs_but_cleanup(autojump_clock: Any) -> None:
    ran: list[str] = []

    @service("final")
    async def final() -> AsyncIterator[Any]:
        try:
            yield Final(1)
            ran.append("code after it")
        finally:
            await trio.sleep(1)
            ran.append("cleanup")

    async with open_cluster(final) as cluster:
        assert await collect(cluster, "final") == ([], 1)
        assert ran == ["cleanup"]


async def test_a_coroutine_sends_partial_replies(autojump_clock: Any) -> None:
    @service("report")
    async def report(payload: Any, request: Request) -> str:
        await request.send({"progress": 0.5})
        await request.send(b"raw")
        return "done"

    async with open_cluster(report) as cluster:
        assert await collect(cluster, "report") == ([{"progress": 0.5}, b"raw"], "done")


async def test_a_sync_function_sends_partial_replies() -> None:
    @service("report")
    def report(payload: Any, request: SyncRequest) -> str:
        for i in range(200):
            request.send(i)
        request.heartbeat()
        return "done"

    async with open_cluster(report, heartbeat=0.05) as cluster:
        assert await collect(cluster, "report") == (list(range(200)), "done")


async def test_a_handler_without_parameters_takes_no_payload(autojump_clock: Any) -> None:
    @service("bare")
    async def bare() -> int:
        return 1

    async with open_cluster(bare) as cluster:
        assert await cluster.client.request("bare") == 1
        with pytest.raises(InvalidArgument):
            await cluster.client.request("bare", {"any": "thing"})


async def test_objects_that_can_be_called_are_handlers(autojump_clock: Any) -> None:
    class Adder:
        async def __call__(self, n: int) -> int:
            return n + 1

    async def add(to: int, n: int) -> int:
        return to + n

    async with open_cluster(service("adder", Adder()), service("partial", functools.partial(add, 10))) as cluster:
        assert await cluster.client.request("adder", 1) == 2
        assert await cluster.client.request("partial", 1) == 11


async def test_a_payload_that_does_not_fit_never_reaches_the_handler(autojump_clock: Any) -> None:
    ran = []

    @service("typed")
    async def typed(n: int) -> None:
        ran.append(n)

    async with open_cluster(typed) as cluster:
        for bad in ("x", None, b"1", [1], {"n": 1}, 1.5, 2**70 * 1.0):
            with pytest.raises(InvalidArgument):
                await cluster.client.request("typed", bad)
        assert ran == []
        await cluster.client.request("typed", 3)
        assert ran == [3]


async def test_1000_small_generators_hold_nothing_afterwards(autojump_clock: Any) -> None:
    async with open_cluster(async_generator) as cluster:
        for _ in range(1_000):
            assert await cluster.client.request("async generator", 2) == "end"
        assert cluster.worker.statistics().replied == 1_000

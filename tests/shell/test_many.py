"""Many requests and streams at once: every reply finds its caller, and nothing is left of any."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from cluster import open_cluster, port_of, until

from zmdp_trio import DeadlineExceeded, Final, Request, RequestError, service
from zmdp_trio._transport.memory import current_network


@service("shuffled", concurrency=1_000)
async def shuffled(payload: Any) -> Any:
    name, delay = payload
    await trio.sleep(delay)
    return name


@service("interleaved")
async def interleaved(payload: Any) -> AsyncIterator[Any]:
    name, delays = payload
    for i, delay in enumerate(delays):
        await trio.sleep(delay)
        yield [name, i]
    yield Final(name)


async def test_1000_requests_and_100_streams_with_replies_in_any_order(autojump_clock: Any) -> None:
    dice = random.Random(1)
    matched = 0

    async with open_cluster(shuffled, interleaved) as cluster:
        client = cluster.client

        async def request(name: str, delay: float) -> None:
            nonlocal matched
            assert await client.request("shuffled", [name, delay]) == name
            matched += 1

        async def stream(name: str, delays: list[float]) -> None:
            nonlocal matched
            async with client.stream("interleaved", [name, delays]) as replies:
                assert [reply async for reply in replies] == [[name, i] for i in range(len(delays))]
            assert replies.final == name
            matched += 1

        async with trio.open_nursery() as nursery:
            for i in range(1_000):
                nursery.start_soon(request, f"request {i}", dice.random())
            for i in range(100):
                nursery.start_soon(stream, f"stream {i}", [dice.random() / 50 for _ in range(dice.randrange(50))])
            await until(lambda: cluster.worker.statistics().running >= 1_000)
        assert matched == 1_100
        assert cluster.client.statistics().started == 1_100
        assert cluster.client.statistics().late_replies == 0


async def test_more_requests_than_slots_are_all_served(autojump_clock: Any) -> None:
    running = most = 0

    @service("narrow", concurrency=3)
    async def narrow(i: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return i

    async with open_cluster(narrow) as cluster:
        got = []

        async def call(i: int) -> None:
            got.append(await cluster.client.request("narrow", i))

        async with trio.open_nursery() as nursery:
            for i in range(60):
                nursery.start_soon(call, i)
        assert sorted(got) == list(range(60))
        assert most == 3
        assert trio.current_time() == pytest.approx(20, abs=0.5)


async def test_10000_timed_out_requests_leave_no_entry(autojump_clock: Any) -> None:
    @service("slow", concurrency=10_000)
    async def slow() -> None:
        await trio.sleep(1)

    @service("stubborn", concurrency=10_000)
    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return "too late"

    async with open_cluster(slow, stubborn) as cluster:

        async def scoped(name: str) -> None:
            with trio.move_on_after(0.5) as scope:
                await cluster.client.request(name)
            assert scope.cancelled_caught

        async def explicit(name: str) -> None:
            with pytest.raises(DeadlineExceeded):
                await cluster.client.request(name, deadline=trio.current_time() + 0.5)

        async def silent(name: str) -> None:
            with pytest.raises(DeadlineExceeded):
                await cluster.client.request(name, timeout=0.5)

        for name in ("slow", "stubborn"):
            async with trio.open_nursery() as nursery:
                for _ in range(1_667):
                    for way in (scoped, explicit, silent):
                        nursery.start_soon(way, name)
            assert cluster.client.statistics().outstanding == 0
            assert cluster.client.statistics().timers == 0
        await cluster.settle()
        assert cluster.worker.statistics().replied == 0
        for numbers in cluster.broker.statistics().services.values():
            assert numbers.received == numbers.cancelled + numbers.expired


async def test_late_replies_only_raise_a_counter(autojump_clock: Any) -> None:
    @service("prompt")
    async def prompt(request: Request) -> int:
        await request.send("partial")
        return 1

    async with open_cluster(prompt) as cluster:
        await cluster.client.request("prompt")
        network, port = current_network(), port_of(cluster.client)
        network.hook = lambda source, target, frames: (1,) if target is port else (0,)
        for _ in range(100):
            with trio.move_on_after(0.5):
                await cluster.client.request("prompt")
            await trio.sleep(1)
        network.hook = None
        assert cluster.client.statistics().late_replies == 200
        assert cluster.client.statistics().protocol_errors == 0


async def test_many_tasks_may_use_one_client_but_only_one_a_stream(autojump_clock: Any) -> None:
    async with open_cluster(interleaved) as cluster:
        async with cluster.client.stream("interleaved", ["x", [1] * 3]) as stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, stream)
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(trio.BusyResourceError):
                    await anext(stream)


async def test_handlers_that_call_each_other_many_levels_deep(autojump_clock: Any) -> None:
    @service("down")
    async def down(n: int, request: Request) -> int:
        return 1 + await request.request("down", n - 1) if n else 0

    async with open_cluster(down) as cluster:
        assert await cluster.client.request("down", 50) == 50


async def test_recursion_deeper_than_the_slots_ends_by_its_deadline(autojump_clock: Any) -> None:
    @service("down", concurrency=5)
    async def down(n: int, request: Request) -> int:
        return 1 + await request.request("down", n - 1) if n else 0

    async with open_cluster(down) as cluster:
        with pytest.raises(trio.TooSlowError), trio.fail_after(10):
            await cluster.client.request("down", 10)
        await cluster.settle()
        with pytest.raises(RequestError):
            await cluster.client.request("down", 10, timeout=1)

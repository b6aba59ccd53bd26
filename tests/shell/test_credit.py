"""A handler gets ahead of its reader by its credit, and no further; nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from cluster import Cluster, Probe, open_cluster, until

from zmdp_trio import Request, Service, service

WINDOW = 64
MIB = 2**20


def endless(probe: Probe, value: Any = 0, name: str = "endless") -> Service[..., Any]:
    @service(name)
    async def handler() -> AsyncIterator[Any]:
        while True:
            yield value
            probe.sent += 1

    return handler


async def test_a_paused_reader_stops_the_handler_at_the_window(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(endless(probe)) as cluster:
        async with cluster.client.stream("endless") as stream:
            await anext(stream)
            await trio.sleep(60)
            assert probe.sent <= WINDOW + 1
            sent = probe.sent
            await trio.sleep(60)
            assert probe.sent == sent


async def test_a_reader_that_never_reads_stops_the_handler_too(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(endless(probe)) as cluster, cluster.client.stream("endless"):
        await trio.sleep(60)
        assert probe.sent == WINDOW


async def test_reading_again_resumes_and_loses_nothing(autojump_clock: Any) -> None:
    @service("numbers")
    async def numbers(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async with open_cluster(numbers) as cluster:
        got = []
        async for i in cluster.client.stream("numbers", 2_000):
            got.append(i)
            if i % 333 == 0:
                await trio.sleep(30)
        assert got == list(range(2_000))


@pytest.mark.parametrize("pauses", [False, True])
async def test_the_handler_is_never_further_ahead_than_the_window(
    pauses: bool, probe: Probe, autojump_clock: Any
) -> None:
    async with open_cluster(endless(probe)) as cluster, cluster.client.stream("endless") as stream:
        for read in range(1, 2_000):
            await anext(stream)
            if pauses and read % 50 == 0:
                await trio.sleep(0.001)
            assert probe.sent - read <= max(WINDOW, read // 16) + 1


async def test_bytes_are_credit_too(probe: Probe, autojump_clock: Any) -> None:
    chunk = bytes(300_000)
    async with open_cluster(endless(probe, chunk)) as cluster, cluster.client.stream("endless") as stream:
        await trio.sleep(10)
        assert probe.sent == 4  # three are below 1 MiB, so the fourth may overdraw it
        await anext(stream)
        await trio.sleep(10)
        assert probe.sent <= 5
        for _ in range(100):
            await anext(stream)
        await trio.sleep(10)
        assert 101 + 4 < probe.sent <= 101 + 7  # a sixteenth of what was read is 1.9 MB by now


async def test_one_message_may_be_larger_than_all_the_credit(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(endless(probe, bytes(5 * MIB))) as cluster, cluster.client.stream("endless") as stream:
        for read in range(1, 20):
            assert len(await anext(stream)) == 5 * MIB
            await trio.sleep(1)
            assert probe.sent <= read + 1


async def test_many_paused_streams_share_one_connections_credit(probe: Probe, autojump_clock: Any) -> None:
    chunk = bytes(65_536)
    async with open_cluster(endless(probe, chunk)) as cluster:
        streams = [cluster.client.stream("endless") for _ in range(90)]
        for stream in streams:
            await anext(stream)
        await trio.sleep(60)
        assert probe.sent * len(chunk) <= 16 * MIB + 90 * 2 * len(chunk)
        for stream in streams:  # each of them goes on when it is read
            for _ in range(30):
                await anext(stream)
        for stream in streams:
            await stream.aclose()


async def test_a_stream_beside_a_paused_one_is_not_disturbed(probe: Probe, autojump_clock: Any) -> None:
    other = Probe()
    paused, lively = endless(probe, bytes(50_000)), endless(other, bytes(50_000), "lively")
    async with open_cluster(paused, lively) as cluster, cluster.client.stream("endless") as stream:
        await anext(stream)
        await trio.sleep(10)
        sent = probe.sent
        start = trio.current_time()
        async with cluster.client.stream("lively") as second:
            for _ in range(2_000):
                await anext(second)
        assert trio.current_time() == start
        assert probe.sent == sent


async def test_a_request_drops_partial_replies_without_stalling(probe: Probe, autojump_clock: Any) -> None:
    @service("chatty")
    async def chatty() -> AsyncIterator[Any]:
        for _ in range(5_000):
            yield bytes(1_000)

    async with open_cluster(chatty) as cluster:
        start = trio.current_time()
        assert await cluster.client.request("chatty") is None
        assert trio.current_time() == start


async def test_on_partial_gets_every_partial_reply_in_order(cluster: Cluster, autojump_clock: Any) -> None:
    got: list[int] = []
    assert await cluster.client.request("count", 1_000, on_partial=got.append) == 1_000
    assert got == list(range(1_000))


async def test_an_async_on_partial_is_awaited_and_slows_the_handler(probe: Probe, autojump_clock: Any) -> None:
    @service("numbers")
    async def numbers() -> AsyncIterator[int]:
        for i in range(200):
            yield i
            probe.sent += 1

    got = []

    async def on_partial(i: int) -> None:
        await trio.sleep(0.125)
        got.append(i)
        assert probe.sent - len(got) <= WINDOW + 1

    async with open_cluster(numbers) as cluster:
        start = trio.current_time()
        await cluster.client.request("numbers", on_partial=on_partial)
        assert got == list(range(200))
        assert trio.current_time() == start + 200 * 0.125


async def test_an_on_partial_that_fails_cancels_the_handler(probe: Probe, autojump_clock: Any) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError

    async with open_cluster(endless(probe)) as cluster:
        with pytest.raises(ZeroDivisionError):
            await cluster.client.request("endless", on_partial=fail)
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 1


async def test_request_send_waits_for_credit_as_yield_does(probe: Probe, autojump_clock: Any) -> None:
    @service("sender")
    async def sender(request: Request) -> None:
        while True:
            await request.send(0)
            probe.sent += 1

    async with open_cluster(sender) as cluster, cluster.client.stream("sender") as stream:
        await anext(stream)
        await trio.sleep(60)
        assert probe.sent <= WINDOW + 1


async def test_several_tasks_of_a_handler_may_send_at_once(autojump_clock: Any) -> None:
    @service("fan")
    async def fan(request: Request) -> str:
        async def send(i: int) -> None:
            for j in range(100):
                await request.send([i, j])

        async with trio.open_nursery() as nursery:
            for i in range(5):
                nursery.start_soon(send, i)
        return "done"

    async with open_cluster(fan) as cluster:
        with trio.fail_after(60):
            async with cluster.client.stream("fan") as stream:
                got = []
                async for pair in stream:
                    got.append(tuple(pair))
                    if len(got) % 60 == 0:
                        await trio.sleep(1)
        assert stream.final == "done"
        assert sorted(got) == [(i, j) for i in range(5) for j in range(100)]


async def test_the_window_is_a_setting(probe: Probe, autojump_clock: Any) -> None:
    async with (
        open_cluster(endless(probe), credit_messages=3) as cluster,
        cluster.client.stream("endless") as stream,
    ):
        await trio.sleep(10)
        assert probe.sent == 3
        for _ in range(10):
            await anext(stream)
        await trio.sleep(10)
        assert 11 <= probe.sent <= 14


async def test_a_sync_generator_waits_for_credit_in_its_thread() -> None:
    sent = 0

    @service("endless")
    def endless() -> Iterator[int]:
        nonlocal sent
        while True:
            sent += 1
            yield 0

    async with open_cluster(endless, heartbeat=0.05) as cluster:
        async with cluster.client.stream("endless") as stream:
            await anext(stream)
            await until(lambda: sent >= WINDOW)
            await trio.sleep(0.05)
            assert sent <= WINDOW + 2
            for _ in range(1_000):
                await anext(stream)
            assert sent <= 1_001 + WINDOW + 1

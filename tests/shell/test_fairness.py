"""Nobody is starved, no slot is filled twice, and who does not read is alone with it; in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import pytest
import trio
from cluster import Probe, open_cluster, until

from zmdp_trio import Client, Overloaded, service, testing
from zmdp_trio._settings import KIB, MIB
from zmdp_trio._transport import Frames
from zmdp_trio._transport.memory import MemoryPort

#: Seconds that the handler of `work` takes, and requests of the client that floods it.
SERVICE_TIME = 0.01
FLOOD = 10_000
#: Calls of the other client.
CALLS = 100


# ---- floods


@service("work")
async def work(payload: Any) -> Any:
    await trio.sleep(SERVICE_TIME)
    return payload


async def waits(client: Client, rng: random.Random) -> list[float]:
    """Make single calls at random moments; return the seconds that each took, shortest first."""
    took = []
    for number in range(CALLS):
        await trio.sleep(rng.uniform(0, 2 * SERVICE_TIME))
        begin = trio.current_time()
        assert await client.request("work", number, retry=0) == number
        took.append(trio.current_time() - begin)
    return sorted(took)


@pytest.mark.parametrize(
    ("slots", "limits"),
    [
        pytest.param(1, {}, id="what the defaults refuse"),
        pytest.param(4, {"client_queue": FLOOD, "queue_requests": 2 * FLOOD}, id="all of it queued"),
    ],
)
async def test_a_flood_costs_another_client_one_turn(slots: int, limits: dict[str, int], autojump_clock: Any) -> None:
    outcomes: Counter[str] = Counter()

    async def flood(client: Client, number: int) -> None:
        try:
            assert await client.request("work", number, timeout=None) == number
            outcomes["replied"] += 1
        except Overloaded:
            outcomes["refused"] += 1

    async with (
        open_cluster(work, concurrency=slots, **limits) as cluster,
        trio.open_nursery() as nursery,
    ):
        usual = await waits(cluster.client, random.Random(1))
        flooder = await cluster.add_client()
        for number in range(FLOOD):
            nursery.start_soon(flood, flooder, number)
        await until(lambda: cluster.broker.statistics().services["work"].received == CALLS + FLOOD)
        flooded = await waits(cluster.client, random.Random(2))
        assert cluster.broker.statistics().services["work"].queued  # the flood lasted longer
        p99 = usual[CALLS * 99 // 100]
        assert flooded[-1] <= 2 * p99 + SERVICE_TIME + 1e-6
    assert outcomes.total() == FLOOD
    assert bool(outcomes["refused"]) == (not limits)


# ---- slots


async def test_handlers_that_were_cancelled_keep_their_slots_until_they_end(autojump_clock: Any) -> None:
    """Callers leave at random moments, and every other handler takes its time to clean up."""
    slots = 3
    rng = random.Random(5)
    busy: Counter[str] = Counter()
    most: Counter[str] = Counter()
    cleaned = 0

    def make(worker: str) -> Any:
        @service("slow", concurrency=slots)
        async def slow(number: int) -> None:
            nonlocal cleaned
            busy[worker] += 1
            most[worker] = max(most[worker], busy[worker])
            try:
                await trio.sleep(rng.expovariate(10))
            finally:
                if number % 2:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(rng.expovariate(5))
                        cleaned += 1
                busy[worker] -= 1

        return slow

    async with testing.open_cluster(workers=0, clients=2) as cluster:
        for worker in ("one", "two"):
            await cluster.add_worker(make(worker), name=worker)

        async def call(client: Client, number: int) -> None:
            with trio.move_on_after(rng.expovariate(2)):
                await client.request("slow", number)

        async def look() -> None:
            while True:
                numbers = cluster.broker.statistics().services["slow"]
                assert numbers.running + numbers.cancelling <= numbers.slots == 2 * slots
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            async with trio.open_nursery() as callers:
                for number in range(600):
                    callers.start_soon(call, cluster.clients[number % 2], number)
                    await trio.sleep(rng.expovariate(50))
            nursery.cancel_scope.cancel()
    assert most == {"one": slots, "two": slots}
    assert cleaned > 50
    assert not +busy


async def test_of_idle_workers_the_longest_idle_is_next(autojump_clock: Any) -> None:
    ran: list[str] = []

    def make(worker: str) -> Any:
        @service("hold")
        async def hold(seconds: float) -> None:
            ran.append(worker)
            await trio.sleep(seconds)

        return hold

    async with testing.open_cluster(workers=0) as cluster:
        for worker in ("a", "b", "c"):
            await cluster.add_worker(make(worker), name=worker)
        for seconds in ({"a": 3, "b": 1, "c": 2}, {"a": 2, "b": 3, "c": 1}):
            async with trio.open_nursery() as nursery:
                for worker in sorted(seconds):
                    nursery.start_soon(partial(cluster.client.request, "hold", seconds[worker], worker=worker))
            ran.clear()
            async with trio.open_nursery() as nursery:
                for _ in seconds:
                    nursery.start_soon(cluster.client.request, "hold", 1)
                    await trio.sleep(0.1)
            assert ran == sorted(seconds, key=lambda worker: seconds[worker])


# ---- readers

CHUNK = bytes(16 * KIB)
#: Bytes that the broker may hold for a client that does not read.
OUTBOX = 4 * MIB
#: Bytes in a second that reach the slow client, and chunks that each of its streams asks for.
RATE = 256 * KIB
CHUNKS = 60
STREAMS = 8


async def test_who_does_not_read_is_cut_off_alone_and_who_reads_slowly_is_not(
    probe: Probe, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmdp_trio._transport.memory.CAPACITY", 2)  # what can't leave is the broker's to hold

    @service("endless")
    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield CHUNK
        finally:
            probe.leave()

    @service("chunks")
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield CHUNK

    async with testing.open_cluster(endless, chunks, work, check=False, outbox=OUTBOX) as cluster:
        slow = await cluster.add_client(name="slow", connection_credit=OUTBOX)
        # It grants more than the broker is ready to hold, and then never takes it.
        greedy = {"credit_messages": 10_000, "credit_bytes": 2**30, "connection_credit": 2**30}
        deaf = await cluster.add_client(name="deaf", **greedy)
        cluster.network.hook = line = Line()
        took: list[float] = []

        async def ignore() -> None:
            async with deaf.stream("endless", timeout=None) as stream:
                await anext(stream)
                line.deaf.add("deaf")
                await trio.sleep_forever()

        async def read() -> None:
            async with slow.stream("chunks", CHUNKS) as stream:
                assert [chunk async for chunk in stream] == [CHUNK] * CHUNKS

        async def call() -> None:
            while True:
                took.extend(await waits(cluster.client, random.Random(1)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ignore)
            nursery.start_soon(call)
            begin = trio.current_time()
            async with trio.open_nursery() as readers:
                for _ in range(STREAMS):
                    readers.start_soon(read)
            assert trio.current_time() - begin > STREAMS * CHUNKS * len(CHUNK) / RATE * 0.9
            assert probe.left_at is not None
            assert probe.left_at - begin < 1
            nursery.cancel_scope.cancel()
        assert took
        assert max(took) <= SERVICE_TIME + 1e-6
        numbers = cluster.broker.statistics()
        assert numbers.clients == 2
        assert numbers.services["chunks"].replied == STREAMS
        assert numbers.services["endless"].cancelled == 1


class Line:
    """A network where one client's line is thin, and another's stops altogether."""

    def __init__(self) -> None:
        self.deaf: set[str] = set()
        self._free_at = 0.0

    def __call__(self, source: MemoryPort, target: MemoryPort, frames: Frames) -> Iterable[float]:
        if target._names & self.deaf:
            return (1e6,)
        if "slow" not in target._names:
            return (0,)
        now = trio.current_time()
        self._free_at = max(self._free_at, now) + sum(map(len, frames)) / RATE
        return (self._free_at - now,)

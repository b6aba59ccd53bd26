"""Clusters of any size: who is in them, who leaves them how, and what is checked at the end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from zmdp_trio import (
    Broker,
    Client,
    Final,
    Request,
    RequestCancelled,
    Service,
    ServiceNotFound,
    Settings,
    Worker,
    WorkerLost,
    service,
)
from zmdp_trio.testing import Cluster, Hook, VirtualClock, current_network, host, open_cluster


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)


@service("add")
def add(numbers: list[int]) -> int:
    time.sleep(0.001)
    return sum(numbers)


@service("words")
def words(text: str) -> Iterator[str]:
    yield from text.split()


@service("asks")
async def asks(payload: Any, request: Request) -> Any:
    return await request.request("echo", payload)


@service("waits")
async def waits() -> None:
    await trio.sleep_forever()


@service("who")
async def who() -> str:
    return host.get()


@service("stubborn")
async def stubborn(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


SHAPES = [
    (echo, 7, [], 7),
    (count, 2, [0, 1], 2),
    (add, [1, 2], [], 3),
    (words, "a b", ["a", "b"], None),
    (asks, 5, [], 5),
]


def names(cluster: Cluster) -> list[str]:
    assert {*cluster.brokers, *cluster.workers, *cluster.clients} == set(cluster.peers)
    return [each.name for kind in (Broker, Worker, Client) for each in cluster.peers if isinstance(each, kind)]


@pytest.mark.parametrize(("called", "payload", "partials", "final"), SHAPES, ids=lambda each: getattr(each, "name", ""))
async def test_every_shape_of_service(
    called: Service[..., Any], payload: Any, partials: list[Any], final: Any, clock: VirtualClock
) -> None:
    async with open_cluster(called, echo) if called is not echo else open_cluster(echo) as cluster:
        got: list[Any] = []
        assert await cluster.client.request(called.name, payload, on_partial=got.append) == final
        assert got == partials
        assert trio.current_time() == 0


async def test_it_begins_when_everybody_knows_everybody(clock: VirtualClock) -> None:
    async with open_cluster(echo, brokers=3, workers=2, clients=4, heartbeat=1) as cluster:
        assert names(cluster) == [
            *("broker", "broker-2", "broker-3"),
            *("worker", "worker-2"),
            *("client", "client-2", "client-3", "client-4"),
        ]
        assert cluster.endpoints == tuple(broker.endpoints[0] for broker in cluster.brokers)
        for broker in cluster.brokers:
            statistics = broker.statistics()
            assert (statistics.workers, statistics.clients) == (2, 4)
        assert {each.settings.heartbeat for each in cluster.peers} == {1}
        assert trio.current_time() == 0
        assert (cluster.broker, cluster.worker, cluster.client) == (
            cluster.brokers[0],
            cluster.workers[0],
            cluster.clients[0],
        )


async def test_each_peer_has_a_host_of_its_own(clock: VirtualClock) -> None:
    async with open_cluster(who, workers=2) as cluster:
        for worker in cluster.workers:
            assert await cluster.client.request("who", worker=worker.name) == worker.name
        assert host.get() == ""
        assert {port.name for port in cluster.network._ports} == set(names(cluster))


async def test_brokers_alone(clock: VirtualClock) -> None:
    async with open_cluster(workers=0, clients=0) as cluster:
        with pytest.raises(LookupError, match="no worker at the moment: <Cluster of broker>"):
            cluster.worker  # noqa: B018
        client = await cluster.add_client(timeout=5)
        with pytest.raises(ServiceNotFound):
            await client.request("echo")
        await cluster.add_worker(echo, concurrency=3)
        assert cluster.worker.settings.concurrency == 3
        assert await client.request("echo", 1) == 1


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"brokers": 0}, ValueError, "at least one broker, not 0"),
        ({"workers": -1}, ValueError, "none or more are wanted, not workers=-1"),
        ({"clients": -2}, ValueError, "none or more are wanted, .* clients=-2"),
        ({"transport": "udp"}, ValueError, "transport is one of 'memory', 'tcp', not 'udp'"),
        ({"heartbaet": 1}, TypeError, "there is no setting 'heartbaet'; is 'heartbeat' meant?"),
    ],
    ids=str,
)
async def test_a_cluster_that_cannot_be_is_refused(options: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        async with open_cluster(echo, **options):
            pass


# ---- kill, stop, restart


async def test_a_killed_worker_is_missed_at_once(clock: VirtualClock) -> None:
    async with open_cluster(waits, workers=2) as cluster, trio.open_nursery() as nursery:
        lost = trio.Event()

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(WorkerLost):
                await cluster.client.request("waits", worker="worker")
            lost.set()

        await trio.sleep(1)
        killed = cluster.worker
        cluster.kill(killed)
        assert names(cluster) == ["broker", "worker-2", "client"]
        await lost.wait()
        assert trio.current_time() == 1
        for gone in (killed, "worker"):
            with pytest.raises(LookupError, match="is not up"):
                cluster.kill(gone)
        again = await cluster.add_worker(name="worker")
        assert again is cluster.workers[1] is not killed
        with pytest.raises(ValueError, match="there is a 'worker' already"):
            await cluster.add_worker(name="worker")


async def test_nobody_hears_of_what_a_killed_worker_still_does(clock: VirtualClock) -> None:
    async with open_cluster(stubborn) as cluster:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(WorkerLost):
                    await cluster.client.request("stubborn", 100)

            await trio.sleep(1)
            cluster.kill("worker")
        assert trio.current_time() == 1
        await trio.sleep(110)
        statistics = cluster.broker.statistics()
        assert (statistics.total.lost, statistics.total.replied, statistics.late_replies) == (1, 0, 0)


async def test_a_killed_client_leaves_nothing(clock: VirtualClock) -> None:
    async with open_cluster(waits, clients=2) as cluster, trio.open_nursery() as nursery:
        victim = cluster.clients[1]

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(RequestCancelled):
                await victim.request("waits", timeout=None)

        await trio.sleep(1)
        assert cluster.worker.statistics().running == 1
        cluster.kill(victim)
        await cluster.settle()
        # It was lost without a word: the handler is cancelled when it might have been back.
        assert trio.current_time() == pytest.approx(1 + cluster.settings.silence, abs=cluster.settings.heartbeat)
        assert cluster.worker.statistics().cancelled == 1


async def test_a_worker_that_is_stopped_ends_what_it_runs(clock: VirtualClock) -> None:
    @service("slow")
    async def slow() -> str:
        await trio.sleep(10)
        return "done"

    async with open_cluster(slow, workers=2) as cluster, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            assert await cluster.client.request("slow", worker="worker") == "done"

        await trio.sleep(1)
        await cluster.stop("worker")
        assert trio.current_time() == 10
        assert names(cluster) == ["broker", "worker-2", "client"]


async def test_a_restarted_broker_is_where_it_was_and_another_one(clock: VirtualClock) -> None:
    async with open_cluster(echo) as cluster:
        before, endpoints = cluster.broker, cluster.endpoints
        after = await cluster.restart_broker()
        assert after is cluster.broker is not before
        assert (after.name, after.endpoints) == (before.name, before.endpoints)
        assert after._machine.epoch != before._machine.epoch
        assert cluster.endpoints == endpoints
        await trio.sleep(5)
        assert await cluster.client.request("echo", 1) == 1
        cluster.kill(after)
        with pytest.raises(LookupError, match="no broker"):
            cluster.broker  # noqa: B018
        await trio.sleep(1)
        await cluster.restart_broker(after)
        await trio.sleep(5)
        assert await cluster.client.request("echo", 2) == 2


async def test_of_several_brokers_one_is_named(clock: VirtualClock) -> None:
    async with open_cluster(echo, brokers=2) as cluster:
        with pytest.raises(LookupError, match=r"which broker\? there are broker, broker-2, not None"):
            await cluster.restart_broker()
        with pytest.raises(LookupError, match="not 'worker'"):
            await cluster.restart_broker("worker")
        cluster.kill("broker-2")
        await trio.sleep(1)
        for i in range(4):
            assert await cluster.client.request("echo", i) == i
        await cluster.restart_broker("broker-2")
        await trio.sleep(5)
        for i in range(4):
            assert await cluster.client.request("echo", i) == i
        assert [broker.statistics().services["echo"].replied for broker in cluster.brokers] == [6, 2]


async def test_a_partition_is_given_by_peers_or_names(clock: VirtualClock) -> None:
    async with open_cluster(echo, brokers=2, clients=2) as cluster:
        cluster.partition([cluster.broker], ["client"])
        await trio.sleep(60)
        for client in cluster.clients:
            for i in range(4):
                assert await client.request("echo", i) == i
        before, after = cluster.brokers
        assert (before.statistics().clients, after.statistics().clients) == (1, 2)
        cluster.heal()
        await trio.sleep(10)
        assert before.statistics().clients == 2


@pytest.mark.parametrize(
    ("groups", "error", "why"),
    [
        ([["broker"], ["cleint"]], LookupError, "'cleint' was never up: <Cluster of broker, worker, client>"),
        ([["broker"], "client"], TypeError, "a group is a list of peers or names, not 'client'"),
        ([["broker"], 7], TypeError, "a group is a list of peers or names, not 7"),
        ([["broker"], [echo]], TypeError, "a peer or its name is wanted, not <"),
        ([], ValueError, "two groups or more"),
        ([["broker", "client"]], ValueError, "two groups or more"),
        ([["broker"], []], ValueError, "each with one peer or more"),
        ([["broker"], ["worker"], ["client", "broker"]], ValueError, "'broker' is in two groups"),
    ],
    ids=lambda each: str(each) if isinstance(each, list) else "",
)
async def test_a_partition_that_parts_nothing_is_refused(
    groups: Any, error: type[Exception], why: str, clock: VirtualClock
) -> None:
    async with open_cluster(echo) as cluster:
        cluster.partition(["broker"], ["client"])
        before = cluster.network._groups
        with pytest.raises(error, match=why):
            cluster.partition(*groups)
        assert cluster.network._groups is before
        cluster.heal()


async def test_what_is_down_comes_back_on_its_side_of_a_partition(clock: VirtualClock) -> None:
    async with open_cluster(echo) as cluster:
        broker = cluster.broker
        cluster.kill(broker)
        cluster.kill("worker")
        cluster.partition([broker, "client"], ["worker"])
        await cluster.restart_broker()
        await cluster.add_worker(name="worker", wait=False)
        await trio.sleep(30)
        assert (cluster.broker.statistics().clients, cluster.broker.statistics().workers) == (1, 0)
        cluster.heal()
        await trio.sleep(5)
        assert cluster.broker.statistics().workers == 1


# ---- hooks that fail


def raises(*_: Any) -> Any:
    raise ZeroDivisionError("what the hook raised")


def answers(answer: Any) -> Any:
    return lambda source, target, frames: answer


@pytest.mark.parametrize(
    ("hook", "error", "why"),
    [
        (raises, ZeroDivisionError, "what the hook raised"),
        (answers((-1,)), ValueError, "the hook answers.<locals>.<lambda> returns seconds from 0 up, not -1"),
        (answers((0, float("nan"))), ValueError, "seconds from 0 up, not nan"),
        (answers("0"), ValueError, "seconds from 0 up, not '0'"),
        (answers(None), TypeError, r"the hook answers.<locals>.<lambda> returns .* such as \(0,\), not None"),
        (answers(1.5), TypeError, "not 1.5"),
    ],
)
async def test_what_a_hook_raises_comes_out_as_it_is(
    hook: Hook, error: type[Exception], why: str, clock: VirtualClock
) -> None:
    async def call() -> None:
        async with open_cluster(echo, workers=2, clients=2) as cluster:
            cluster.network.hook = hook
            async with trio.open_nursery() as nursery:
                for client in cluster.clients:
                    nursery.start_soon(client.request, "echo")

    async def join() -> None:
        async with open_cluster(echo) as cluster:
            cluster.network.hook = hook
            await cluster.add_client()
            await trio.sleep_forever()

    async def begin() -> None:
        current_network().hook = hook
        async with open_cluster(echo):
            pass

    for fails in (call, join, begin):
        with pytest.raises(error, match=why):
            await fails()
        assert current_network().hook is None


async def test_other_groups_come_out_beside_a_hook_that_failed_before(clock: VirtualClock) -> None:
    async def fail() -> None:
        raise KeyError

    async def main() -> None:
        async with open_cluster(echo), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)

    current_network().hook_error = ZeroDivisionError()
    with pytest.raises(ExceptionGroup) as raised:
        await main()
    assert raised.value.subgroup(ZeroDivisionError) is None


# ---- the end


async def test_what_is_left_is_told(clock: VirtualClock) -> None:
    kept: list[Any] = []
    with pytest.raises(AssertionError) as raised:
        await leave_a_stream_open(kept, settle_within=30)
    assert trio.current_time() == 30
    assert str(raised.value).splitlines()[0] == "after 30 s something is left of requests:"
    for line in ("  broker: waits.running: 1", "  worker: running: 1", "  client: outstanding: 1"):
        assert line in str(raised.value).splitlines()
    await leave_a_stream_open(kept, check=False)
    assert len(kept) == 2


async def leave_a_stream_open(kept: list[Any], **options: Any) -> None:
    async with open_cluster(waits, **options) as cluster:
        kept.append(cluster.client.stream("waits", timeout=None))
        await kept[-1].__aenter__()


async def test_what_its_own_client_holds_is_left_too(clock: VirtualClock) -> None:
    @service("forgets")
    async def forgets(request: Request) -> None:
        stream = request.stream("waits", timeout=None)
        await stream.__aenter__()
        kept.append(stream)

    kept: list[Any] = []
    async with open_cluster(forgets, waits) as cluster:
        await cluster.client.request("forgets")
        await trio.sleep(1)
        assert cluster.leftovers()["worker: calls.outstanding"] == 1
        kept.pop().cancel()


async def test_an_exception_comes_out_as_it_is(clock: VirtualClock) -> None:
    with pytest.raises(ZeroDivisionError):
        await fail(after=1)
    assert trio.current_time() == 1


async def fail(after: float) -> None:
    async with open_cluster(waits) as cluster, cluster.client.stream("waits"):
        await trio.sleep(after)
        raise ZeroDivisionError


async def test_whoever_cancels_the_block_ends_its_requests_first(clock: VirtualClock) -> None:
    """They see the cancellation, not that their client was closed."""
    for _ in range(10):
        with trio.move_on_after(1) as scope:
            async with open_cluster(waits) as cluster, trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(cluster.client.request, "waits")
        assert scope.cancelled_caught


async def test_who_waits_for_ever_is_ended(clock: VirtualClock) -> None:
    with pytest.raises(trio.TooSlowError, match="the cluster was up for 1,000 s"):
        async with open_cluster(waits, limit=1_000) as cluster:
            await cluster.client.request("waits", timeout=None)
    assert trio.current_time() == 1_000


async def test_settings_as_a_record_and_one_by_one(clock: VirtualClock) -> None:
    async with open_cluster(echo, settings=Settings(heartbeat=1, misses=5), misses=2) as cluster:
        assert (cluster.settings.heartbeat, cluster.settings.misses) == (1, 2)
        client: Client = await cluster.add_client(misses=7)
        assert (client.settings.heartbeat, client.settings.misses) == (1, 7)


async def test_the_same_over_tcp() -> None:
    async with open_cluster(echo, words, brokers=2, workers=2, clients=2, transport="tcp", heartbeat=0.5) as cluster:
        assert all(endpoint.startswith("tcp://127.0.0.1:") for endpoint in cluster.endpoints)
        for client in cluster.clients:
            assert await client.request("echo", 1) == 1
            assert [word async for word in client.stream("words", "a b")] == ["a", "b"]
        await cluster.stop("worker-2")
        assert await cluster.client.request("echo", 2) == 2
        with pytest.raises(RuntimeError, match="faults need transport='memory'"):
            await cluster.restart_broker("broker")
        for fault in (cluster.heal, lambda: cluster.kill("worker"), lambda: cluster.partition(["client"], ["worker"])):
            with pytest.raises(RuntimeError, match="faults need transport='memory'"):
                fault()
        assert await cluster.client.request("echo", 3) == 3

"""Connections and brokers come and go; the worker and the client stay, and nothing is lost twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import trio
import trio.testing
from cluster import Cluster, count, echo, open_cluster, port_of, until

from zmdp_trio import (
    BrokerLost,
    Final,
    RequestError,
    WorkerLost,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._transport.memory import MemoryPort, current_network

ENDPOINT = "memory://b"


async def broker_at(endpoint: str, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """Run a broker until its scope is cancelled: that is, until it stops without draining."""
    with trio.CancelScope() as scope:
        async with open_broker(endpoint):
            task_status.started(scope)
            await trio.sleep_forever()


# ---- a broker that is restarted


async def test_worker_and_client_survive_a_restart_of_the_broker(autojump_clock: Any) -> None:
    async with open_worker([echo], ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:
        for generation in range(4):
            broker = await nursery.start(broker_at, ENDPOINT)
            await serves(client, generation)
            broker.cancel()
            await trio.testing.wait_all_tasks_blocked()  # then it has left its endpoint
            await trio.sleep(generation * 10)
        assert client.statistics().outstanding == client.statistics().timers == 0


async def serves(client: Any, payload: Any) -> None:
    """Soon, if not at once: the worker may take longer to come back than the client waits for a service."""
    with trio.fail_after(10):
        while True:
            try:
                assert await client.request("echo", payload) == payload
                return
            except RequestError:
                await trio.sleep(0.1)


async def test_they_survive_a_broker_that_was_killed(autojump_clock: Any) -> None:
    async with open_worker([echo], ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:
        broker = await nursery.start(broker_at, ENDPOINT)
        await serves(client, 1)
        current_network().kill(ENDPOINT)
        await trio.testing.wait_all_tasks_blocked()  # then they know: what is sent before that may be lost with it
        await nursery.start(broker_at, ENDPOINT)
        await serves(client, 2)
        broker.cancel()
        await serves(client, 3)
        nursery.cancel_scope.cancel()


async def test_a_broker_that_stays_away_is_worth_one_warning(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_worker([echo], ENDPOINT, name="north") as worker, trio.open_nursery() as nursery:
        for away in (5, 60):
            caplog.clear()
            broker = await nursery.start(broker_at, ENDPOINT)
            await worker.wait_welcomed()
            await trio.sleep(2)
            caplog.clear()
            broker.cancel()
            await trio.sleep(away)
            warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
            assert warnings == ["north at memory://b: away for 10 s: connection refused"][: away > 10]


async def test_either_order_of_start(autojump_clock: Any) -> None:
    async with open_client(ENDPOINT) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            assert await client.request("echo", 1) == 1
            nursery.cancel_scope.cancel()

        await trio.sleep(1)
        async with open_broker(ENDPOINT), open_worker([echo], ENDPOINT):
            await trio.sleep_forever()


async def test_requests_in_hand_when_the_broker_restarts_end_as_broker_lost(autojump_clock: Any) -> None:
    entered = left = 0

    @service("waits")
    async def waits() -> None:
        nonlocal entered, left
        entered += 1
        try:
            await trio.sleep_forever()
        finally:
            left += 1

    async with open_worker([waits], ENDPOINT) as worker, open_client(ENDPOINT) as client:
        async with trio.open_nursery() as brokers:
            broker = await brokers.start(broker_at, ENDPOINT)
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(BrokerLost):
                        await client.request("waits")

                for _ in range(5):
                    nursery.start_soon(call)
                await until(lambda: entered == 5)
                broker.cancel()
            await until(lambda: left == 5)
        assert client.statistics().outstanding == client.statistics().waiting == 0
        assert (worker.statistics().running, worker.statistics().cancelling) == (0, 0)
        assert client._machine.credit.left == client.settings.connection_credit


async def test_retry_runs_them_again_on_a_broker_that_comes_too_late_for_them(autojump_clock: Any) -> None:
    runs = 0

    @service("waits at first")
    async def waits_at_first() -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            await trio.sleep_forever()
        return "done"

    async with open_worker([waits_at_first], ENDPOINT), open_client(ENDPOINT) as client:
        async with trio.open_nursery() as nursery:
            broker = await nursery.start(broker_at, ENDPOINT)

            @nursery.start_soon
            async def restart() -> None:
                await until(lambda: runs == 1)
                broker.cancel()
                await trio.sleep(client.settings.resume + 0.1)
                await nursery.start(broker_at, ENDPOINT)

            assert await client.request("waits at first", retry=3) == "done"
            assert runs == 2
            nursery.cancel_scope.cancel()


async def test_retry_runs_them_again_on_another_worker(autojump_clock: Any) -> None:
    runs = []

    @service("where")
    async def where() -> str:
        runs.append(trio.current_time())
        if len(runs) == 1:
            current_network().kill(port_of(workers[-1]))
            await trio.sleep_forever()
        return "done"

    workers: list[Any] = []
    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client:
        async with open_worker([where], ENDPOINT, name="doomed") as doomed:
            workers.append(doomed)
            await doomed.wait_welcomed()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def second() -> None:
                    await until(lambda: runs)
                    async with open_worker([where], ENDPOINT, name="second"):
                        await done.wait()

                done = trio.Event()
                assert await client.request("where", retry=1) == "done"
                done.set()
            assert len(runs) == 2
            doomed._machine.cancel_all()
            doomed._handlers.cancel_scope.cancel()


async def test_a_request_is_never_retried_after_a_first_partial_reply(autojump_clock: Any) -> None:
    runs = 0

    @service("half")
    async def half() -> AsyncIterator[int]:
        nonlocal runs
        runs += 1
        yield 1
        await trio.sleep_forever()

    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client, open_worker([half], ENDPOINT) as worker:
        await worker.wait_welcomed()
        stream = client.stream("half", retry=5)
        assert await anext(stream) == 1
        current_network().kill(port_of(worker))
        with pytest.raises(WorkerLost):
            await anext(stream)
        assert runs == 1
        worker._machine.cancel_all()
        worker._handlers.cancel_scope.cancel()


# ---- connections that are lost and messages that go astray


@service("busy")
async def busy(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield [i, bytes(i % 700)]
        if i % 7 == 0:
            await trio.sleep(0.01)
    yield Final(n)


async def exercise(cluster: Cluster) -> None:
    """Requests and streams whose every reply is checked."""

    async def stream(n: int) -> None:
        async with cluster.client.stream("busy", n) as replies:
            assert [reply async for reply in replies] == [[i, bytes(i % 700)] for i in range(n)]
        assert replies.final == n

    async def requests(name: str) -> None:
        for i in range(20):
            assert await cluster.client.request("echo", [name, i]) == [name, i]
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for n in (0, 1, 100, 1_000):
            nursery.start_soon(stream, n)
        for name in "abc":
            nursery.start_soon(requests, name)


async def test_a_clients_connection_is_cut_again_and_again(autojump_clock: Any) -> None:
    async with open_cluster(echo, busy) as cluster, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def cut() -> None:
            while True:
                await trio.sleep(0.3)
                for link in list(current_network()._links):
                    if link.dialler in [each.port for each in cluster.client._engine._connections.values()]:
                        link.end("cut by the test")

        await exercise(cluster)
        nursery.cancel_scope.cancel()
        assert cluster.worker.statistics().received == 64


async def test_a_worker_whose_connection_is_cut_loses_what_it_runs_and_comes_back(autojump_clock: Any) -> None:
    """A broker does not wait for a worker: what it held is lost, or runs again, at once."""
    left = 0

    @service("waits")
    async def waits() -> AsyncIterator[int]:
        nonlocal left
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            left += 1

    async with open_cluster(waits, echo) as cluster:
        for generation in range(1, 4):
            async with cluster.client.stream("waits") as stream:
                assert await anext(stream) == 1
                start = trio.current_time()
                for link in list(current_network()._links):
                    if link.dialler is port_of(cluster.worker):
                        link.end("cut by the test")
                with pytest.raises(WorkerLost):
                    await anext(stream)
                assert trio.current_time() == start
            await serves(cluster.client, generation)
            await until(lambda generation=generation: left == generation)
            await cluster.settle()


def faults(dice: random.Random, kind: str) -> Any:
    def hook(source: MemoryPort, target: MemoryPort, frames: Any) -> Iterable[float]:
        fault = dice.random() < 0.05
        if not fault:
            return (0,)
        return {"drop": (), "double": (0, 0), "delay": (dice.random(),), "late twin": (0, 0.5)}[kind]

    return hook


@pytest.mark.parametrize("kind", ["drop", "double", "delay", "late twin"])
@pytest.mark.parametrize("seed", range(3))
async def test_messages_that_go_astray_lose_and_double_nothing(kind: str, seed: int, autojump_clock: Any) -> None:
    async with open_cluster(echo, busy) as cluster:
        current_network().hook = faults(random.Random(seed), kind)
        await exercise(cluster)
        current_network().hook = None
        assert cluster.worker.statistics().received == 64
        assert cluster.client.statistics().late_replies == 0


async def test_a_short_partition_is_survived(autojump_clock: Any) -> None:
    async with open_cluster(echo, count) as cluster:
        network = current_network()
        async with cluster.client.stream("count", 500) as stream:
            got = [await anext(stream)]
            network.partition([port_of(cluster.client)], [cluster.broker._engine._port])
            await trio.sleep(3)
            network.heal()
            got += [i async for i in stream]
        assert got == list(range(500))
        assert stream.final == 500


async def test_a_partition_that_outlasts_the_silence_but_not_the_resume_limit(autojump_clock: Any) -> None:
    async with open_cluster(echo, count) as cluster:
        network = current_network()
        async with cluster.client.stream("count", 500) as stream:
            got = [await anext(stream)]
            network.partition([port_of(cluster.client)], [cluster.broker._engine._port])
            await trio.sleep(8)  # both sides have noticed by now; a new connection is possible
            got += [i async for i in stream]
        assert got == list(range(500))


# ---- several endpoints, several brokers


async def test_a_broker_listens_at_several_endpoints(autojump_clock: Any) -> None:
    async with (
        open_broker("memory://a", "memory://b", "memory://*") as broker,
        open_worker([echo], broker.endpoints[0]) as worker,
        open_client(broker.endpoints[1]) as one,
        open_client(broker.endpoints[2]) as two,
    ):
        await worker.wait_welcomed()
        assert len(set(broker.endpoints)) == 3
        assert await one.request("echo", 1) == 1
        assert await two.request("echo", 2) == 2


async def test_a_worker_serves_several_brokers_within_its_slots(autojump_clock: Any) -> None:
    running = most = 0

    @service("narrow", concurrency=4)
    async def narrow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    async with (
        open_broker("memory://a"),
        open_broker("memory://b"),
        open_worker([narrow], "memory://a", "memory://b") as worker,
        open_client("memory://a") as one,
        open_client("memory://b") as two,
    ):
        await worker.wait_welcomed()
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one.request, "narrow")
                nursery.start_soon(two.request, "narrow")
        assert most == 4


async def test_a_client_of_several_brokers_goes_on_when_one_is_away(autojump_clock: Any) -> None:
    async with (
        open_broker("memory://a"),
        open_worker([echo], "memory://a", "memory://b") as worker,
        open_client("memory://a", "memory://b") as client,
    ):
        await worker.wait_welcomed()
        assert await client.request("echo", 1) == 1
        async with open_broker("memory://b"):
            await trio.sleep(5)
            for i in range(10):
                assert await client.request("echo", i) == i
        await trio.sleep(1)
        for i in range(10):
            assert await client.request("echo", i) == i

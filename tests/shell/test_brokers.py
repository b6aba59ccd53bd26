"""Several brokers: none is a bottleneck, and none is missed for long when it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from cluster import echo, until

from zmdp_trio import (
    Broker,
    BrokerLost,
    Client,
    RequestError,
    Service,
    ServiceNotFound,
    Unavailable,
    Worker,
    WorkerLost,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._core.client.choice import RETURN
from zmdp_trio._core.client.ranking import weight_of
from zmdp_trio._transport.memory import current_network, host

NAMES = ("memory://one", "memory://two", "memory://three")
#: Within so many seconds all is well again.
STEADY = 3.0


class Brokers:
    """Three of them, each of which may be stopped, killed, and started again."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}
        self.running: dict[str, Broker] = {}

    async def start(self, name: str) -> Broker:
        broker: Broker = await self._nursery.start(self._run, name)
        return broker

    async def _run(self, name: str, *, task_status: trio.TaskStatus[Broker]) -> None:
        host.set("")
        with trio.CancelScope() as self._scopes[name]:
            async with open_broker(name, name=name) as broker:
                self.running[name] = broker
                task_status.started(broker)
                await trio.sleep_forever()

    async def kill(self, name: str) -> None:
        """As `kill -9` does."""
        current_network().kill(name)
        self._scopes[name].cancel()
        del self.running[name]
        await trio.testing.wait_all_tasks_blocked()

    def received(self, name: str) -> int:
        """Requests that a broker has had, and did not refuse."""
        total = self.running[name].statistics().total
        return total.received - total.refused


@asynccontextmanager
async def open_brokers() -> AsyncIterator[Brokers]:
    async with trio.open_nursery() as nursery:
        brokers = Brokers(nursery)
        for name in NAMES:
            await brokers.start(name)
        yield brokers
        nursery.cancel_scope.cancel()


@attrs.frozen
class Play:
    brokers: Brokers
    workers: list[Worker]
    client: Client


@asynccontextmanager
async def open_play(*services: Service[..., Any], workers: int = 1, **settings: Any) -> AsyncIterator[Play]:
    async with open_brokers() as brokers, AsyncExitStack() as stack:
        host.set("peers")
        some = [await stack.enter_async_context(open_worker(services, *NAMES, **settings)) for _ in range(workers)]
        client = await stack.enter_async_context(open_client(*NAMES, **settings))
        await until(lambda: all(is_up(peer, *NAMES) for peer in (*some, client)))
        yield Play(brokers, some, client)


def is_up(peer: Worker | Client, *names: str) -> bool:
    return all(peer._machine.uplinks[name].up for name in names)


class Load:
    """Requests at a steady rate, each of them counted by what became of it and when."""

    def __init__(self, client: Client, **options: Any) -> None:
        self._client = client
        self._options = options
        self.outcomes: list[tuple[float, float, RequestError | None]] = []
        self.sent = 0

    async def run(self, seconds: float, rate: float = 100.0) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(round(seconds * rate)):
                self.sent += 1
                nursery.start_soon(self._one, self.sent)
                await trio.sleep(1 / rate)

    async def _one(self, number: int) -> None:
        begin, failure = trio.current_time(), None
        try:
            assert await self._client.request("job", number, **self._options) == number
        except RequestError as error:
            failure = error
        self.outcomes.append((begin, trio.current_time() - begin, failure))

    def failures(self) -> set[type[RequestError]]:
        return {type(failure) for _, _, failure in self.outcomes if failure}

    def unsteady_after(self, when: float) -> list[tuple[float, float, RequestError | None]]:
        """The requests made since then that failed, or took long."""
        return [each for each in self.outcomes if each[0] >= when and (each[2] or each[1] > 0.5)]


def job_service() -> tuple[Service[..., Any], Counter[int]]:
    """A service that takes a moment, and how often each of its requests was run."""
    runs: Counter[int] = Counter()

    @service("job")
    async def job(number: int) -> int:
        runs[number] += 1
        await trio.sleep(0.02)
        return number

    return job, runs


# ---- one goes


@pytest.mark.parametrize("retry", [0, 3])
async def test_a_broker_is_killed_under_load(retry: int, autojump_clock: Any) -> None:
    job, runs = job_service()
    async with open_play(job, workers=2) as play:
        load = Load(play.client, retry=retry)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, 25.0)
            await trio.sleep(5)
            before = [play.brokers.received(name) for name in NAMES]
            assert min(before) > sum(before) / 4, "all have their part"
            await play.brokers.kill(NAMES[1])
            killed = trio.current_time()
            await trio.sleep(7)
            assert not is_up(play.client, NAMES[1])
            await play.brokers.start(NAMES[1])
            await until(lambda: is_up(play.client, NAMES[1]))
            await trio.sleep(RETURN + 2)
            assert play.brokers.received(NAMES[1]) > 50, "it is one of them again"
        assert len(load.outcomes) == load.sent
        assert load.unsteady_after(killed + STEADY) == []
        assert load.failures() <= (set() if retry else {BrokerLost})
        assert max(runs.values()) <= 1 + (retry > 0)
        again = [number for number, times in runs.items() if times > 1]
        assert len(again) < 10, "what the broker had when it died, and no more"


async def test_one_is_cut_off_from_all_others(autojump_clock: Any) -> None:
    """Nobody is told: until the silence is noticed, a request may go there, but few do."""
    job, runs = job_service()
    async with open_play(job) as play:
        load = Load(play.client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, 60.0)
            await trio.sleep(5)
            current_network().partition([NAMES[2]], ["peers"])
            cut = trio.current_time()
            await trio.sleep(30)
            current_network().heal()
            healed = trio.current_time()
        stuck = [each for each in load.outcomes if each[1] > 0.5 or each[2]]
        assert len(stuck) < 10
        assert all(cut - 0.1 <= begin for begin, _, _ in stuck)
        assert load.failures() <= {BrokerLost, WorkerLost}
        assert [each for each in load.unsteady_after(cut + STEADY) if each[0] < healed] == []
        assert load.unsteady_after(healed + STEADY) == []
        assert set(runs.values()) == {1}
        assert is_up(play.client, *NAMES)
        assert is_up(play.workers[0], *NAMES)


async def test_a_partition_wanders(autojump_clock: Any) -> None:
    job, runs = job_service()
    async with open_play(job, workers=2, heartbeat=0.5) as play:
        load = Load(play.client, retry=3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, 40.0)
            for name in NAMES:
                await trio.sleep(2)
                current_network().partition([name], ["peers"])
                await trio.sleep(4)
                current_network().heal()
            healed = trio.current_time()
        assert load.failures() == set()
        assert load.unsteady_after(healed + STEADY) == []
        assert max(runs.values()) <= 3


async def test_brokers_are_restarted_one_after_the_other_without_a_failure(autojump_clock: Any) -> None:
    job, runs = job_service()
    async with open_play(job) as play:
        load = Load(play.client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, 20.0)
            for name in NAMES:
                await trio.sleep(1)
                await play.brokers.running[name].drain()
                play.brokers._scopes[name].cancel()
                await trio.sleep(1)
                await play.brokers.start(name)
                await until(lambda name=name: is_up(play.client, name) and is_up(play.workers[0], name))
        assert load.failures() == set()
        assert set(runs.values()) == {1}
        assert min(play.brokers.received(name) for name in NAMES) > 0


# ---- a request is refused in one place and served in another


async def test_a_request_that_a_draining_broker_refused_goes_to_another(autojump_clock: Any) -> None:
    async with open_play(echo) as play:
        for name in NAMES[:2]:
            play.brokers.running[name]._machine.drain()  # and nobody has heard of it yet
        for i in range(10):
            assert await play.client.request("echo", i) == i


async def test_when_all_are_draining_the_caller_is_told(autojump_clock: Any) -> None:
    async with open_play(echo) as play:
        for broker in play.brokers.running.values():
            broker._machine.drain()
        with pytest.raises(Unavailable, match="the broker is draining"):
            await play.client.request("echo")


async def test_a_service_that_one_broker_alone_has_is_found(autojump_clock: Any) -> None:
    async with open_brokers(), open_client(*NAMES) as client, open_worker([echo], NAMES[1]) as worker:
        await worker.wait_welcomed()
        await until(lambda: is_up(client, *NAMES))
        begin = trio.current_time()
        for i in range(10):
            assert await client.request("echo", i) == i
        assert trio.current_time() - begin <= 2.5, "at each broker that lacks it, a second at the first time"
        with pytest.raises(ServiceNotFound):
            await client.request("nobody's")


async def test_two_endpoints_may_lead_to_one_broker(autojump_clock: Any) -> None:
    async with (
        open_broker(*NAMES[:2]) as broker,
        open_worker([echo], *NAMES[:2]) as worker,
        open_client(*NAMES[:2]) as client,
    ):
        await until(lambda: is_up(client, *NAMES[:2]) and is_up(worker, *NAMES[:2]))
        for i in range(100):
            assert await client.request("echo", i) == i
            await trio.sleep(0.1)
        statistics = broker.statistics()
        assert (statistics.clients, statistics.workers, statistics.protocol_errors) == (2, 2, 0)
        assert statistics.services["echo"].slots == worker.settings.concurrency


# ---- slots


async def test_a_worker_with_one_slot_serves_whoever_has_work(autojump_clock: Any) -> None:
    running = most = 0

    @service("narrow", concurrency=1)
    async def narrow(name: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.01)
        running -= 1
        return name

    async with open_brokers(), open_worker([narrow], *NAMES) as worker, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(name)) for name in NAMES]
        await until(lambda: is_up(worker, *NAMES) and all(is_up(c, n) for c, n in zip(clients, NAMES, strict=True)))
        for client, name in zip(clients, NAMES, strict=True):
            await trio.sleep(1)
            begin = trio.current_time()
            assert await client.request("narrow", name) == name
            assert trio.current_time() - begin < 0.02, "no time passes but the handler's"
        done: Counter[str] = Counter()

        async def call_again_and_again(client: Client, name: str) -> None:
            while True:
                await client.request("narrow", name)
                done[name] += 1

        async with trio.open_nursery() as nursery:
            for client, name in zip(clients, NAMES, strict=True):
                nursery.start_soon(call_again_and_again, client, name)
                nursery.start_soon(call_again_and_again, client, name)
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
        assert most == 1
        assert sum(done.values()) > 2_500, "the slot is hardly ever idle"
        assert min(done.values()) > 0.8 * max(done.values()), "and they take turns"


async def test_slots_follow_the_demand(autojump_clock: Any) -> None:
    running: Counter[str] = Counter()

    @service("wide", concurrency=12)
    async def wide(name: str) -> None:
        running[name] += 1
        await trio.sleep(1)
        running[name] -= 1

    async with open_brokers(), open_worker([wide], *NAMES) as worker, AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(open_client(name)) for name in NAMES[:2]]
        await until(lambda: is_up(worker, *NAMES) and is_up(one, NAMES[0]) and is_up(two, NAMES[1]))
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one.request, "wide", "one")
            await trio.sleep(0.5)
            assert running == {"one": 10}, "one slot each is left to the others"
            for _ in range(100):
                nursery.start_soon(two.request, "wide", "two")
            await trio.sleep(2.2)
            assert running["one"] + running["two"] == 11
            assert abs(running["one"] - running["two"]) <= 1
            nursery.cancel_scope.cancel()


async def test_the_slots_of_a_broker_that_is_lost_are_the_others_at_once(autojump_clock: Any) -> None:
    async with open_play(echo, concurrency=9) as play:
        await play.brokers.kill(NAMES[0])
        await trio.sleep(0.1)
        slots = [play.brokers.running[name].statistics().services["echo"].slots for name in NAMES[1:]]
        assert sorted(slots) == [4, 5]


# ---- keys


def first_choice(key: str) -> str:
    return max(NAMES, key=lambda name: weight_of(name, "once", key))


def once_service() -> tuple[Service[..., Any], Callable[[], int]]:
    runs = 0

    @service("once")
    async def once() -> int:
        nonlocal runs
        runs += 1
        mine = runs
        await trio.sleep(1)
        return mine

    return once, lambda: runs


async def test_clients_that_spell_the_brokers_in_any_order_share_a_keyed_execution(autojump_clock: Any) -> None:
    once, runs = once_service()
    async with open_play(once) as play, AsyncExitStack() as stack:
        orders = [NAMES[i:] + NAMES[:i] for i in range(3)]
        clients = [await stack.enter_async_context(open_client(*order)) for order in orders]
        answers: list[int] = []

        async def call(client: Client, key: str) -> None:
            answers.append(await client.request("once", key=key))

        for number in range(10):
            async with trio.open_nursery() as nursery:
                for client in (*clients, play.client):
                    nursery.start_soon(call, client, f"key {number}")
            assert runs() == number + 1
            assert answers[-4:] == [number + 1] * 4
        assert sum(broker.statistics().total.joined for broker in play.brokers.running.values()) == 30


async def test_a_client_that_has_just_begun_asks_the_right_broker(autojump_clock: Any) -> None:
    once, runs = once_service()
    async with open_play(once) as play:
        for number in range(10):
            await play.client.request("once", key=f"key {number}")
            async with open_client(*NAMES) as client:
                await client.request("once", key=f"key {number}")
            assert runs() == number + 1


async def test_while_its_broker_is_away_a_key_runs_on_the_next_one(autojump_clock: Any) -> None:
    """What the guide says of it, to the letter."""
    once, runs = once_service()
    async with open_play(once) as play, open_client(*NAMES) as other:
        first = first_choice("k")
        assert await play.client.request("once", key="k") == 1
        await play.brokers.kill(first)
        await until(lambda: not is_up(play.client, first) and not is_up(other, first))
        assert await play.client.request("once", key="k") == 2, "the next broker does not know what the first did"
        assert await other.request("once", key="k") == 2
        await play.brokers.start(first)
        await until(lambda: is_up(play.client, first) and is_up(other, first) and is_up(play.workers[0], first))
        assert await play.client.request("once", key="k") == 1, "the first one has learned it anew from the worker"
        assert await other.request("once", key="k") == 1
        assert runs() == 2


async def test_a_key_waits_a_moment_for_its_broker_to_be_started_again(autojump_clock: Any) -> None:
    once, runs = once_service()
    async with open_play(once) as play:
        for number in range(6):
            key = f"key {number}"
            assert await play.client.request("once", key=key) == number + 1
            await play.brokers.kill(first_choice(key))
            await play.brokers.start(first_choice(key))
            assert await play.client.request("once", key=key) == number + 1
        assert runs() == 6

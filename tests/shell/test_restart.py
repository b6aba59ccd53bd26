"""A broker is killed or stopped, and another one started in its place: what ran goes on, and is answered, once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from cluster import until

from zmdp_trio import (
    Broker,
    BrokerLost,
    Client,
    Final,
    InvalidArgument,
    Service,
    Worker,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._transport.memory import current_network

ENDPOINT = "memory://b"


@attrs.define
class Scene:
    """A worker and a client, and a broker that can be replaced."""

    worker: Worker
    client: Client
    nursery: trio.Nursery
    broker: Broker | None = None
    scope: trio.CancelScope | None = None
    ended: trio.Event | None = None

    async def start_broker(self) -> None:
        if self.ended is not None:
            # That its scope was cancelled does not mean that it has left its endpoint.
            await self.ended.wait()
        self.ended = trio.Event()
        await self.nursery.start(self._run_broker, self.ended)

    async def _run_broker(self, ended: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self.scope:
            async with open_broker(ENDPOINT) as self.broker:
                task_status.started()
                await trio.sleep_forever()
        ended.set()

    def kill_broker(self) -> None:
        """As `kill -9` would: nobody is told a word."""
        current_network().kill(ENDPOINT)
        assert self.scope is not None
        self.scope.cancel()

    def stop_broker(self) -> None:
        """As a second SIGTERM would: it says goodbye."""
        assert self.scope is not None
        self.scope.cancel()

    @property
    def leftovers(self) -> Any:
        """What anybody still has of any request."""
        assert self.broker is not None
        broker, worker, client = self.broker.statistics(), self.worker.statistics(), self.client.statistics()
        total = broker.total
        recovery = self.broker._machine
        return {
            name: value
            for name, value in {
                "queued": total.queued,
                "running": total.running,
                "cancelling": total.cancelling,
                "claims": len(recovery._claims),
                "timers": broker.timers - len(recovery._holdings),
                "worker": worker.running + worker.cancelling,
                "client": client.outstanding + client.waiting + client.timers,
                "credit": self.client.settings.connection_credit - self.client._machine.credit.left,
                "protocol errors": broker.protocol_errors + worker.protocol_errors + client.protocol_errors,
                "unaccounted": total.received
                - total.refused
                - total.replied
                - total.failed
                - total.cancelled
                - total.expired
                - total.lost,
            }.items()
            if value
        }


@asynccontextmanager
async def scene(*services: Service[..., Any], **settings: Any) -> AsyncIterator[Scene]:
    async with (
        trio.open_nursery() as nursery,
        open_worker(services, ENDPOINT, name="worker", **settings) as worker,
        open_client(ENDPOINT, name="client", **settings) as client,
    ):
        scene = Scene(worker, client, nursery)
        await scene.start_broker()
        await worker.wait_welcomed()
        with trio.fail_after(1_000):
            yield scene
            await trio.sleep(30)
            assert scene.leftovers == {}
        nursery.cancel_scope.cancel()


class Slow:
    """A service that says when it is called, and ends when it is told to."""

    def __init__(self) -> None:
        self.entered: list[Any] = []
        self.left: list[float] = []
        self.go = trio.Event()

        @service("slow", concurrency=4)
        async def slow(payload: Any) -> Any:
            self.entered.append(payload)
            try:
                await self.go.wait()
            finally:
                self.left.append(trio.current_time())
            return payload

        self.service = slow


@pytest.fixture
async def slow() -> Slow:
    return Slow()


Ending = Callable[[Scene], None]
ENDINGS = [pytest.param(Scene.kill_broker, id="killed"), pytest.param(Scene.stop_broker, id="stopped")]


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("away", [0, 1, 8])
async def test_what_runs_goes_on_and_is_answered(end: Ending, away: float, slow: Slow, autojump_clock: Any) -> None:
    async with scene(slow.service) as s:
        replies = []

        async def call(i: int) -> None:
            replies.append(await s.client.request("slow", i))

        async with trio.open_nursery() as nursery:
            for i in range(4):
                nursery.start_soon(call, i)
            await until(lambda: len(slow.entered) == 4)
            end(s)
            await trio.sleep(away)
            await s.start_broker()
            await trio.sleep(3)
            assert s.broker
            assert s.broker.statistics().services["slow"].running == 4
            slow.go.set()
        assert sorted(replies) == sorted(slow.entered) == [0, 1, 2, 3]


@pytest.mark.parametrize("end", ENDINGS)
async def test_what_ended_while_no_broker_was_there_is_answered(end: Ending, slow: Slow, autojump_clock: Any) -> None:
    async with scene(slow.service) as s, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def restart() -> None:
            await until(lambda: slow.entered)
            end(s)
            slow.go.set()
            await until(lambda: slow.left)
            await trio.sleep(2)
            await s.start_broker()

        assert await s.client.request("slow", "x") == "x"
        assert slow.entered == ["x"]


async def test_a_reply_that_the_broker_took_and_did_not_pass_on_is_delivered(slow: Slow, autojump_clock: Any) -> None:
    async with scene(slow.service) as s, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def restart() -> None:
            await until(lambda: slow.entered)
            network = current_network()
            client = next(iter(s.client._engine._connections.values())).port
            network.hook = lambda source, target, frames: () if target is client else (0,)
            slow.go.set()
            await trio.sleep(0.1)
            assert s.broker
            assert s.broker.statistics().total.replied == 1
            network.hook = None
            s.kill_broker()
            await s.start_broker()

        assert await s.client.request("slow", "x") == "x"
        assert slow.entered == ["x"]


@service("numbers")
async def numbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
        if i % 10 == 0:
            await trio.sleep(0.05)
    yield Final(n)


@pytest.mark.parametrize("seed", range(10))
async def test_streams_go_on_without_a_gap(seed: int, autojump_clock: Any) -> None:
    dice = random.Random(seed)
    async with scene(numbers) as s, trio.open_nursery() as nursery:
        done = trio.Event()

        @nursery.start_soon
        async def restart_again_and_again() -> None:
            while not done.is_set():
                await trio.sleep(dice.uniform(2, 4))
                dice.choice((s.kill_broker, s.stop_broker))()
                await trio.sleep(dice.uniform(0, 3))
                await s.start_broker()

        async def read(pause: float) -> None:
            async with s.client.stream("numbers", 1_000) as stream:
                got = []
                async for i in stream:
                    got.append(i)
                    if i % 20 == 0:
                        await trio.sleep(pause)
            assert got == list(range(1_000))
            assert stream.final == 1_000

        async with trio.open_nursery() as readers:
            for pause in (0, 0.01, 0.3):
                readers.start_soon(read, pause)
        done.set()
        assert s.worker.statistics().received == 3


async def test_partial_replies_that_nobody_reads_need_not_come_again(autojump_clock: Any) -> None:
    async with scene(numbers) as s, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def restart() -> None:
            await trio.sleep(1)
            s.kill_broker()
            await s.start_broker()

        assert await s.client.request("numbers", 1_000) == 1_000
        assert s.worker.statistics().received == 1


# ---- who does not come back


async def test_without_its_worker_a_request_ends_as_broker_lost_after_the_resume_limit(
    slow: Slow, autojump_clock: Any
) -> None:
    async with trio.open_nursery() as nursery, open_client(ENDPOINT) as client:
        brokers = trio.CancelScope()

        async def broker() -> None:
            with brokers:
                async with open_broker(ENDPOINT):
                    await trio.sleep_forever()

        async def worker(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                async with open_worker([slow.service], ENDPOINT) as worker:
                    await worker.wait_welcomed()
                    task_status.started(scope)
                    await trio.sleep_forever()

        nursery.start_soon(broker)
        working = await nursery.start(worker)
        outcomes: list[Any] = []

        async def call(retry: int) -> None:
            try:
                outcomes.append(await client.request("slow", retry, retry=retry))
            except BrokerLost as error:
                outcomes.append(error)

        nursery.start_soon(call, 0)
        nursery.start_soon(call, 1)
        await until(lambda: len(slow.entered) == 2)
        current_network().kill(ENDPOINT)
        brokers.cancel()
        working.cancel()
        await trio.lowlevel.checkpoint()
        brokers = trio.CancelScope()
        nursery.start_soon(broker)
        start = trio.current_time()
        slow.go.set()
        await nursery.start(worker)
        await until(lambda: outcomes, within=20)
        assert 10 <= trio.current_time() - start < 12
        await until(lambda: len(outcomes) == 2)
        assert sorted(slow.entered) == [0, 1, 1]
        assert [type(outcome) for outcome in outcomes] == [BrokerLost, int]
        nursery.cancel_scope.cancel()


async def test_what_its_caller_left_meanwhile_is_cancelled_at_the_resume_limit(slow: Slow, autojump_clock: Any) -> None:
    async with scene(slow.service) as s:
        with trio.CancelScope() as caller:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(s.client.request, "slow")
                await until(lambda: slow.entered)
                s.kill_broker()
                await trio.sleep(0.1)
                caller.cancel()
        await s.start_broker()
        start = trio.current_time()
        await until(lambda: slow.left, within=20)
        assert 10 <= trio.current_time() - start < 14


async def test_what_was_never_sent_is_sent_at_once(slow: Slow, autojump_clock: Any) -> None:
    slow.go.set()
    async with scene(slow.service) as s:
        s.kill_broker()
        await s.start_broker()
        start = trio.current_time()
        assert await s.client.request("slow", 1) == 1
        assert trio.current_time() - start < 5


async def test_the_deadline_of_what_goes_on_can_be_moved(slow: Slow, autojump_clock: Any) -> None:
    async with scene(slow.service) as s, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            with trio.move_on_after(60) as scope:
                scopes.append(scope)
                await s.client.request("slow")

        scopes: list[trio.CancelScope] = []
        await until(lambda: slow.entered)
        s.kill_broker()
        await trio.sleep(0.5)
        await s.start_broker()
        await trio.sleep(3)
        scopes[0].deadline = trio.current_time() + 1
        start = trio.current_time()
        await until(lambda: slow.left)
        assert trio.current_time() - start < 4


async def test_slots_are_never_exceeded(autojump_clock: Any) -> None:
    running = most = 0

    @service("narrow", concurrency=3)
    async def narrow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await trio.sleep(1.3)
        finally:
            running -= 1

    async with scene(narrow) as s:
        async with trio.open_nursery() as nursery:

            async def calls() -> None:
                for _ in range(20):
                    # A restart may take what was queued, and then says so.
                    with trio.move_on_after(15):
                        try:
                            await s.client.request("narrow", retry=5)
                        except BrokerLost:
                            pass

            for _ in range(6):
                nursery.start_soon(calls)
            for _ in range(8):
                await trio.sleep(2.9)
                s.kill_broker()
                await s.start_broker()
        assert most == 3


# ---- keys


async def test_a_key_is_known_to_the_next_broker(slow: Slow, autojump_clock: Any) -> None:
    """Those who waited, those who come anew, and those who come when all is over: one execution."""
    async with scene(slow.service) as s, open_client(ENDPOINT) as other, trio.open_nursery() as nursery:
        replies = []

        async def call(client: Client) -> None:
            replies.append(await client.request("slow", "x", key="k"))

        async with trio.open_nursery() as callers:
            callers.start_soon(call, s.client)
            await until(lambda: slow.entered)
            callers.start_soon(call, other)
            await trio.sleep(0.1)
            s.kill_broker()
            await s.start_broker()
            callers.start_soon(call, other)
            await trio.sleep(2)
            callers.start_soon(call, s.client)
            await trio.sleep(1)
            slow.go.set()
        assert replies == ["x"] * 4
        s.kill_broker()
        await trio.sleep(30)
        await s.start_broker()
        await trio.sleep(3)
        await call(s.client)
        await call(other)
        assert slow.entered == ["x"]
        with pytest.raises(InvalidArgument, match="another payload"):
            await s.client.request("slow", "y", key="k")
        nursery.cancel_scope.cancel()


async def test_those_who_joined_have_the_outcome_also_without_the_first(slow: Slow, autojump_clock: Any) -> None:
    async with scene(slow.service) as s, trio.open_nursery() as nursery:
        async with open_client(ENDPOINT) as first:
            nursery.start_soon(swallow, first, "slow", "x")
            await until(lambda: slow.entered)

            @nursery.start_soon
            async def call() -> None:
                assert await s.client.request("slow", "x", key="k") == "x"
                assert slow.entered == ["x"]

            await trio.sleep(0.1)
            s.kill_broker()
        await s.start_broker()
        await trio.sleep(8)
        slow.go.set()


async def swallow(client: Client, *args: Any) -> None:
    """A request whose client is closed."""
    with pytest.raises(Exception, match="closed"):
        await client.request(*args, key="k")


async def test_a_key_that_nobody_knows_is_run_when_all_workers_had_time_to_come_back(
    slow: Slow, autojump_clock: Any
) -> None:
    slow.go.set()
    async with scene(slow.service) as s:
        s.kill_broker()
        await s.start_broker()
        start = trio.current_time()
        await trio.sleep(2)
        assert await s.client.request("slow", 1, key="k") == 1
        assert 10 <= trio.current_time() - start < 14
        assert await s.client.request("slow", 1, key="l") == 1
        assert trio.current_time() - start < 14


async def test_a_stream_with_a_key_goes_on_for_its_reader(autojump_clock: Any) -> None:
    async with scene(numbers) as s, open_client(ENDPOINT) as other, trio.open_nursery() as nursery:
        async with s.client.stream("numbers", 1_000, key="k") as stream:
            got = [await anext(stream) for _ in range(10)]

            @nursery.start_soon
            async def join() -> None:
                assert await other.request("numbers", 1_000, key="k") == 1_000

            await trio.sleep(0.1)
            s.kill_broker()
            await s.start_broker()
            got += [i async for i in stream]
        assert got == list(range(1_000))
        assert stream.final == 1_000
        assert s.worker.statistics().received == 1


async def test_a_stream_that_was_let_far_ahead_goes_on_without_a_gap(autojump_clock: Any) -> None:
    many = 30_000
    read: list[int] = []

    @service("rush")
    async def rush() -> AsyncIterator[int]:
        for number in range(many):
            yield number

    async with scene(rush) as s, trio.open_nursery() as nursery:

        async def lose_what_is_under_way() -> None:
            (connection,) = s.client._engine._connections.values()
            current_network().hook = lambda _, target, __: (3,) if target is connection.port else (0,)
            await trio.sleep(1)
            current_network().hook = None
            s.kill_broker()
            await s.start_broker()

        async with s.client.stream("rush") as stream:
            async for number in stream:
                read.append(number)
                if number == many // 2:
                    nursery.start_soon(lose_what_is_under_way)
    assert read == list(range(many))

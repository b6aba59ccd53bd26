"""Leaving a block drains: what runs is finished within the grace time, what is new goes elsewhere."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import trio
from cluster import Probe, open_cluster, until

from zmdp_trio import (
    BrokerLost,
    Client,
    Reject,
    Request,
    RequestError,
    RequestRejected,
    Service,
    ServiceNotFound,
    SyncRequest,
    Unavailable,
    WorkerLost,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio.cli._serve import _Command, _drain

ENDPOINT = "memory://b"


@service("slow")
async def slow(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


async def test_leaving_a_worker_finishes_what_runs(autojump_clock: Any) -> None:
    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            assert await client.request("slow", 10) == "done"

        async with open_worker([slow], ENDPOINT) as worker:
            await until(lambda: worker.statistics().running)
            start = trio.current_time()
        assert trio.current_time() == pytest.approx(start + 10, abs=0.1)
        assert worker.statistics().replied == 1


async def test_a_worker_that_drains_takes_nothing_new_and_another_does(autojump_clock: Any) -> None:
    @service("who")
    async def who(request: Request) -> str:
        return "never asked"

    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:
        async with open_worker([slow], ENDPOINT, name="old") as old:
            await old.wait_welcomed()
            nursery.start_soon(client.request, "slow", 10)
            await until(lambda: old.statistics().running)
            nursery.start_soon(old.drain)
            await trio.sleep(1)
            with pytest.raises(ServiceNotFound):
                await client.request("slow", 1)
            async with open_worker([slow], ENDPOINT, name="new") as new:
                await new.wait_welcomed()
                for _ in range(10):
                    assert await client.request("slow", 0) == "done"
                assert new.statistics().received == 10
            assert old.statistics().received == 1


async def test_what_outlasts_the_grace_is_cancelled(probe: Probe, autojump_clock: Any) -> None:
    @service("endless")
    async def endless() -> None:
        try:
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(RequestError):
                await client.request("endless")

        async with open_worker([endless], ENDPOINT, drain_grace=5) as worker:
            await until(lambda: worker.statistics().running)
            start = trio.current_time()
        assert probe.left_at == trio.current_time() == start + 5


@service("stubborn")
async def stubborn(how: str) -> str:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        if how == "raises":
            raise ValueError("half done") from None
        if how == "returns":
            return "half a result"
        raise
    raise AssertionError("unreachable")


@service("stubborn in a thread")
def stubborn_in_a_thread(how: str, request: SyncRequest) -> str:
    pause = threading.Event()
    while request.active:
        pause.wait(0.001)
    if how == "raises":
        raise ValueError("half done")
    if how == "cancelled":
        trio.from_thread.check_cancelled()
    return "half a result"


async def cut_off(handler: Service[..., Any], grace: float | None, *hows: str) -> None:
    """Have handlers cut off, at the end of the grace or at once: what they say then is half a result, or none."""
    async with open_broker(ENDPOINT) as broker, open_client(ENDPOINT) as client, trio.open_nursery() as nursery:

        async def call(how: str) -> None:
            with pytest.raises(WorkerLost):
                await client.request(handler.name, how)

        for how in hows:
            nursery.start_soon(call, how)
        with trio.CancelScope() as scope:
            async with open_worker([handler], ENDPOINT, drain_grace=grace or 30) as worker:
                await until(lambda: worker.statistics().running == len(hows))
                if grace is None:
                    scope.cancel()
        await until(lambda: broker.statistics().total.lost == len(hows))


async def test_what_outlasts_the_grace_is_lost_to_its_caller_whatever_the_handler_says(autojump_clock: Any) -> None:
    await cut_off(stubborn, 5, "cancelled", "raises", "returns")


async def test_what_is_cancelled_is_lost_to_its_caller_unless_the_handler_replies(autojump_clock: Any) -> None:
    await cut_off(stubborn, None, "cancelled", "raises")


@pytest.mark.parametrize("grace", [0.01, None])
async def test_a_thread_that_is_cut_off_is_lost_to_its_caller_whatever_it_says(grace: float | None) -> None:
    await cut_off(stubborn_in_a_thread, grace, "cancelled", "raises", "returns")


async def test_what_is_cut_off_runs_again_elsewhere_if_it_may(autojump_clock: Any) -> None:
    @service("which")
    async def which(request: Request) -> str:
        if not others:
            await trio.sleep_forever()
        return "another one"

    others: list[Any] = []
    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            assert await client.request("which", retry=1) == "another one"

        async with open_worker([which], ENDPOINT, drain_grace=5) as worker:
            await until(lambda: worker.statistics().running)
        async with open_worker([which], ENDPOINT) as other:
            others.append(other)
            await until(lambda: other.statistics().replied)


async def test_cancelling_means_now(probe: Probe, autojump_clock: Any) -> None:
    @service("endless")
    async def endless() -> None:
        try:
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with open_broker(ENDPOINT), open_client(ENDPOINT) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(RequestError):
                await client.request("endless")

        with trio.CancelScope() as scope:
            async with open_worker([endless], ENDPOINT) as worker:
                await until(lambda: worker.statistics().running)
                scope.cancel()
                start = trio.current_time()
        assert probe.left_at == trio.current_time() == start


async def test_drain_tells_whether_all_ended(autojump_clock: Any) -> None:
    async with open_broker(ENDPOINT) as broker, open_client(ENDPOINT) as client, trio.open_nursery() as nursery:
        async with open_worker([slow], ENDPOINT) as worker:
            await worker.wait_welcomed()
            nursery.start_soon(client.request, "slow", 3)
            await until(lambda: worker.statistics().running)
            assert not await worker.drain(1)
            assert not await broker.drain(1)
            assert await broker.drain(2)
            assert await worker.drain(2)
            assert await worker.drain(0)


async def test_a_worker_that_was_never_welcomed_leaves_at_once(autojump_clock: Any) -> None:
    start = trio.current_time()
    async with open_worker([slow], ENDPOINT):
        pass
    assert trio.current_time() == start


async def test_a_worker_whose_broker_is_away_leaves_when_its_handlers_have(autojump_clock: Any) -> None:
    async with open_client(ENDPOINT) as client, trio.open_nursery() as nursery:
        broker_scope = trio.CancelScope()

        @nursery.start_soon
        async def broker() -> None:
            with broker_scope:
                async with open_broker(ENDPOINT):
                    await trio.sleep_forever()

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(BrokerLost):
                await client.request("slow", 1_000)

        async with open_worker([slow], ENDPOINT) as worker:
            await until(lambda: worker.statistics().running)
            broker_scope.cancel()
            await until(lambda: not worker.statistics().running, within=worker.settings.resume + 1)
            start = trio.current_time()
        assert trio.current_time() == start


# ---- the broker


async def test_leaving_a_broker_runs_what_it_accepted_and_refuses_what_is_new(autojump_clock: Any) -> None:
    served = []

    @service("narrow", concurrency=1)
    async def narrow(i: int) -> int:
        await trio.sleep(1)
        served.append(i)
        return i

    async with trio.open_nursery() as nursery:
        async with open_broker(ENDPOINT) as broker:
            worker = await nursery.start(worker_until_cancelled, narrow)
            client = await nursery.start(client_until_cancelled)
            for i in range(5):
                nursery.start_soon(client.request, "narrow", i)
                await until(lambda i=i: broker.statistics().services["narrow"].received == i + 1)

            @nursery.start_soon
            async def late() -> None:
                await trio.sleep(2)
                with pytest.raises(Unavailable):
                    await client.request("narrow", 99)

        assert sorted(served) == list(range(5))
        assert worker.statistics().received == 5
        nursery.cancel_scope.cancel()


async def worker_until_cancelled(handler: Service[..., Any], task_status: trio.TaskStatus[Any]) -> None:
    async with open_worker([handler], ENDPOINT) as worker:
        await worker.wait_welcomed()
        task_status.started(worker)
        await trio.sleep_forever()


async def client_until_cancelled(task_status: trio.TaskStatus[Client]) -> None:
    async with open_client(ENDPOINT) as client:
        task_status.started(client)
        await trio.sleep_forever()


async def test_a_brokers_grace_ends(autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        async with open_broker(ENDPOINT, drain_grace=3) as broker:
            await nursery.start(worker_until_cancelled, slow)
            client = await nursery.start(client_until_cancelled)

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(BrokerLost):
                    await client.request("slow", 1_000)

            await until(lambda: "slow" in broker.statistics().services and broker.statistics().services["slow"].running)
            start = trio.current_time()
        assert trio.current_time() == start + 3
        await trio.sleep(client.settings.resume + 1)
        assert client.statistics().outstanding == 0
        nursery.cancel_scope.cancel()


async def test_a_broker_that_drains_still_takes_cancels_and_credit(autojump_clock: Any) -> None:
    @service("endless")
    async def endless() -> Any:
        while True:
            yield 0

    async with open_cluster(endless) as cluster, trio.open_nursery() as nursery:
        async with cluster.client.stream("endless") as stream:
            await anext(stream)
            nursery.start_soon(cluster.broker.drain)
            for _ in range(1_000):
                await anext(stream)
        await cluster.settle()


# ---- which worker


def picky(name: str, rejects: list[str], log: list[str]) -> Service[..., Any]:
    @service("picky")
    async def handler(payload: Any, request: Request) -> str:
        log.append(name)
        if name in rejects:
            raise Reject("not me")
        return name

    return handler


async def test_a_rejected_request_goes_to_another_worker_but_never_to_the_same_one(autojump_clock: Any) -> None:
    log: list[str] = []
    rejects = ["a", "b"]
    async with (
        open_broker(ENDPOINT),
        open_worker([picky("a", rejects, log)], ENDPOINT, name="a") as a,
        open_worker([picky("b", rejects, log)], ENDPOINT, name="b") as b,
        open_worker([picky("c", rejects, log)], ENDPOINT, name="c") as c,
        open_client(ENDPOINT) as client,
    ):
        for worker in (a, b, c):
            await worker.wait_welcomed()
        for _ in range(20):
            log.clear()
            assert await client.request("picky") == "c"
            assert log.count("a") <= 1
            assert log.count("b") <= 1
        rejects.append("c")
        log.clear()
        with pytest.raises(RequestRejected):
            await client.request("picky")
        assert sorted(log) == ["a", "b", "c"]
        assert a.statistics().rejected > 0


async def test_a_rejection_after_a_partial_reply_is_a_failure(autojump_clock: Any) -> None:
    @service("late")
    async def late(request: Request) -> None:
        await request.send(1)
        raise Reject

    async with open_cluster(late) as cluster:
        with pytest.raises(RequestError, match="Reject"):
            await cluster.client.request("late")


async def test_a_request_for_one_worker_runs_there_or_not_at_all(autojump_clock: Any) -> None:
    log: list[str] = []
    async with (
        open_broker(ENDPOINT),
        open_worker([picky("a", [], log)], ENDPOINT, name="a") as a,
        open_worker([picky("b", [], log)], ENDPOINT, name="b") as b,
        open_client(ENDPOINT) as client,
    ):
        await a.wait_welcomed()
        await b.wait_welcomed()
        for name in "abbaab":
            assert await client.request("picky", worker=name) == name
        log.clear()
        with pytest.raises(ServiceNotFound, match="'c'"):
            await client.request("picky", worker="c")
        assert log == []


async def test_a_request_for_one_worker_waits_for_it_to_appear(autojump_clock: Any) -> None:
    log: list[str] = []
    async with (
        open_broker(ENDPOINT),
        open_worker([picky("a", [], log)], ENDPOINT, name="a"),
        open_client(ENDPOINT) as client,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def call() -> None:
            assert await client.request("picky", worker="b") == "b"
            nursery.cancel_scope.cancel()

        await trio.sleep(0.5)
        async with open_worker([picky("b", [], log)], ENDPOINT, name="b"):
            await trio.sleep_forever()


@pytest.mark.parametrize(("concurrency", "apart"), [(10, 0), (40, 0), (100, 4)])
async def test_work_goes_to_the_least_loaded_worker(autojump_clock: Any, concurrency: int, apart: int) -> None:
    """Of requests that come together, one with many slots may be given a few more."""
    async with (
        open_broker(ENDPOINT),
        open_worker([slow], ENDPOINT, concurrency=concurrency) as a,
        open_worker([slow], ENDPOINT, concurrency=concurrency) as b,
        open_client(ENDPOINT) as client,
    ):
        await a.wait_welcomed()
        await b.wait_welcomed()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.request, "slow", 1)
        received = a.statistics().received, b.statistics().received
        assert sum(received) == 20
        assert abs(received[0] - received[1]) <= apart


async def test_unshielded_cleanup_of_a_client_does_not_wait(autojump_clock: Any) -> None:
    """Leaving a client never waits, whatever is outstanding."""
    async with open_cluster(slow) as cluster, trio.open_nursery() as nursery:
        start = trio.current_time()
        async with open_client(cluster.endpoint) as client:

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(RequestError):
                    await client.request("slow", 100, deadline=math.inf)

            await until(lambda: cluster.worker.statistics().running)
        assert trio.current_time() - start < 0.1


# ---- what the commands say


class Slow:
    """A server whose drain takes 12 seconds, one request after the other."""

    def __init__(self, *, finishes: bool) -> None:
        self.held = 3
        self.finishes = finishes

    async def drain(self) -> bool:
        for _ in range(3):
            await trio.sleep(4)
            self.held -= self.finishes
        return self.finishes


@pytest.mark.parametrize(
    ("finishes", "lines"),
    [
        (
            True,
            [
                "finishing 3 requests; a second signal ends it now",
                "still finishing 2 requests",
                "still finishing 1 request",
            ],
        ),
        (
            False,
            [
                "finishing 3 requests; a second signal ends it now",
                "still finishing 3 requests",
                "still finishing 3 requests",
                "the grace time is over; cancelling 3 requests",
            ],
        ),
    ],
)
async def test_a_command_tells_how_many_requests_its_drain_waits_for(
    finishes: bool, lines: list[str], autojump_clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Slow(finishes=finishes)
    command: Any = _Command("worker", "nobody", lambda: None, lambda _: None, lambda server: server.held)
    assert await _drain(command, server) is finishes
    assert capsys.readouterr().err.splitlines() == [f"zmdp worker: {line}" for line in lines]

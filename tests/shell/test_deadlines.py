"""A caller's deadline is the handler's, and the handler's callees'; silence and totals are two limits."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from cluster import Cluster, Probe, open_cluster, until

from zmdp_trio import Code, DeadlineExceeded, Request, RequestError, Service, SyncRequest, service


@service("left")
async def left(request: Request) -> float:
    """The time left, in seconds."""
    return request.deadline - trio.current_time()


def watched(probe: Probe, name: str = "watched") -> Service[..., Any]:
    """Yields once, then waits until it is cancelled."""

    @service(name)
    async def handler() -> AsyncIterator[int]:
        try:
            yield 0
            probe.enter()
            await trio.sleep_forever()
        finally:
            probe.leave()

    return handler


# ---- what the handler sees


async def test_without_a_deadline_there_is_none(autojump_clock: Any) -> None:
    async with open_cluster(left) as cluster:
        assert await cluster.client.request("left") == math.inf


async def test_the_callers_deadline_is_the_handlers(autojump_clock: Any) -> None:
    async with open_cluster(left) as cluster:
        with trio.fail_after(3):
            assert await cluster.client.request("left") == 3
            await trio.sleep(1)
            assert await cluster.client.request("left") == 2
            with trio.move_on_after(1), trio.CancelScope(shield=True):
                assert await cluster.client.request("left") == math.inf


async def test_an_explicit_deadline_goes_before_the_callers(autojump_clock: Any) -> None:
    async with open_cluster(left) as cluster:
        with trio.fail_after(3):
            assert await cluster.client.request("left", deadline=trio.current_time() + 2) == 2
            assert await cluster.client.request("left", deadline=trio.current_time() + 20) == 20
            assert await cluster.client.request("left", deadline=math.inf) == math.inf


async def test_a_chain_of_handlers_shares_one_deadline(autojump_clock: Any) -> None:
    seen = {}

    @service("a")
    async def a(request: Request) -> Any:
        seen["a"] = request.deadline
        await trio.sleep(0.25)
        return await request.request("b")

    @service("b")
    async def b(request: Request) -> Any:
        seen["b"] = request.deadline
        async with request.stream("c") as stream:
            return [x async for x in stream]

    @service("c")
    async def c(request: Request) -> AsyncIterator[float]:
        seen["c"] = request.deadline
        yield request.deadline - trio.current_time()

    async with open_cluster(a, b, c) as cluster:
        deadline = trio.current_time() + 1
        with trio.fail_at(deadline):
            assert await cluster.client.request("a") == [0.75]
        assert seen == {"a": deadline, "b": deadline, "c": deadline}


async def test_a_chain_is_cancelled_as_one(probe: Probe, autojump_clock: Any) -> None:
    @service("a")
    async def a(request: Request) -> Any:
        return await request.request("watched")

    async with open_cluster(a, watched(probe)) as cluster:
        with trio.move_on_after(1):
            await cluster.client.request("a", deadline=math.inf)
        await probe.left.wait()
        assert probe.left_at == trio.current_time()
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 2


async def test_a_sync_handlers_calls_carry_its_deadline() -> None:
    @service("relay")
    def relay(request: SyncRequest) -> Any:
        return [request.request("left"), *request.stream("lefts")]

    @service("lefts")
    async def lefts(request: Request) -> AsyncIterator[float]:
        yield request.deadline - trio.current_time()

    async with open_cluster(relay, left, lefts, heartbeat=0.05) as cluster:
        with trio.fail_after(5):
            first, second = await cluster.client.request("relay")
        assert 4 < second <= first <= 5


# ---- when it passes


async def test_the_handler_ends_when_the_callers_scope_does(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(2):
            await cluster.client.request("watched")
        await probe.left.wait()
        assert probe.left_at == trio.current_time() == start + 2


def hurried(seconds: float) -> Service[..., Any]:
    """A handler whose worker thinks that its time is up too early: it read its clock, and the request much later."""

    @service("hurried")
    async def handler(request: Request) -> None:
        request._runner.scope.deadline -= seconds  # type: ignore[attr-defined]
        await trio.sleep_forever()

    return handler


async def test_the_callers_scope_ends_the_call_also_where_the_worker_is_the_first_to_give_up(
    autojump_clock: Any,
) -> None:
    async with open_cluster(hurried(0.01)) as cluster:
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(2):
            await cluster.client.request("hurried")
        with trio.move_on_after(2) as scope:
            async for _ in cluster.client.stream("hurried"):
                pass
        assert scope.cancelled_caught
        assert trio.current_time() == start + 4
        assert cluster.broker.statistics().services["hurried"].expired == 2


async def test_a_worker_that_gives_up_much_too_early_is_not_waited_for(autojump_clock: Any) -> None:
    async with open_cluster(hurried(5)) as cluster:
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded), trio.fail_after(10):
            await cluster.client.request("hurried")
        assert trio.current_time() == start + 5


async def test_an_explicit_deadline_ends_the_request_as_deadline_exceeded(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await cluster.client.request("watched", deadline=start + 2)
        assert trio.current_time() == start + 2
        await probe.left.wait()
        assert probe.left_at == start + 2


async def test_a_deadline_in_the_past_fails_at_once_and_runs_nothing(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        start = trio.current_time()
        for deadline in (start, start - 1, -math.inf):
            with pytest.raises(DeadlineExceeded):
                await cluster.client.request("watched", deadline=deadline)
        assert trio.current_time() == start
        assert not probe.entered.is_set()


async def test_work_that_expired_in_the_queue_is_never_dispatched(probe: Probe, autojump_clock: Any) -> None:
    ran = []

    @service("one at a time", concurrency=1)
    async def one_at_a_time(name: str) -> None:
        ran.append(name)
        await probe.left.wait()

    async with open_cluster(one_at_a_time) as cluster, trio.open_nursery() as nursery:
        nursery.start_soon(cluster.client.request, "one at a time", "first")
        await until(lambda: ran)
        with pytest.raises(DeadlineExceeded):
            await cluster.client.request("one at a time", "explicit", deadline=trio.current_time() + 1)
        with trio.move_on_after(1):
            await cluster.client.request("one at a time", "scoped")
        await trio.sleep(1)
        numbers = cluster.broker.statistics().services["one at a time"]
        assert numbers.queued == 0
        assert numbers.expired + numbers.cancelled == 2
        probe.leave()
        await trio.sleep(1)
        assert ran == ["first"]


async def test_a_client_that_vanished_does_not_stop_the_handlers_deadline(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        start = trio.current_time()
        stream = cluster.client.stream("watched", deadline=start + 2)
        assert await anext(stream) == 0
        await probe.left.wait()  # nobody reads meanwhile
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
        assert probe.left_at == start + 2


async def test_a_handler_may_catch_nothing_and_end_late_under_a_shield(probe: Probe, autojump_clock: Any) -> None:
    @service("slow to go")
    async def slow_to_go() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            probe.leave()

    async with open_cluster(slow_to_go) as cluster:
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await cluster.client.request("slow to go", deadline=start + 1)
        assert trio.current_time() == start + 1
        await probe.left.wait()
        assert probe.left_at == start + 6


async def test_a_sync_generators_deadline_passes_while_it_waits_for_credit() -> None:
    closed = threading.Event()

    @service("endless")
    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    async with open_cluster(endless, heartbeat=0.05) as cluster:
        async with cluster.client.stream("endless", deadline=trio.current_time() + 0.5) as stream:
            await anext(stream)
            await until(closed.is_set)
            with pytest.raises(DeadlineExceeded):
                async for _ in stream:
                    pass


async def test_a_sync_generator_that_never_waits_is_closed_at_its_deadline() -> None:
    closed = threading.Event()

    @service("endless")
    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    async with open_cluster(endless, heartbeat=0.05) as cluster:
        with trio.move_on_after(0.5):
            await cluster.client.request("endless", deadline=math.inf)
        await until(closed.is_set)


# ---- when it is moved


async def test_a_later_deadline_reaches_the_handler(autojump_clock: Any) -> None:
    @service("ticks")
    async def ticks(request: Request) -> AsyncIterator[float]:
        for _ in range(10):
            await trio.sleep(1)
            yield request.deadline

    async with open_cluster(ticks) as cluster:
        with trio.fail_after(2) as scope:
            async with cluster.client.stream("ticks") as stream:
                async for _ in stream:
                    scope.deadline = trio.current_time() + 2
        assert stream.final is None


async def test_a_later_deadline_reaches_the_handler_of_a_slow_reader(autojump_clock: Any) -> None:
    @service("ticks")
    async def ticks(request: Request) -> AsyncIterator[int]:
        for i in range(40):
            yield i
        await trio.sleep(30)

    async with open_cluster(ticks) as cluster:
        with trio.fail_after(2) as scope:
            async with cluster.client.stream("ticks") as stream:
                async for _ in stream:
                    scope.deadline = trio.current_time() + 2
                    await trio.sleep(1)
                    scope.deadline = math.inf
        assert stream.final is None


async def test_a_deadline_moved_while_the_caller_waits_reaches_the_handler(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster, trio.open_nursery() as nursery:
        scope = trio.CancelScope(deadline=trio.current_time() + 100)

        @nursery.start_soon
        async def call() -> None:
            with scope:
                await cluster.client.request("watched")

        await probe.entered.wait()
        start = trio.current_time()
        scope.deadline = start + 10
        await probe.left.wait()
        assert probe.left_at == start + 10


async def test_an_extended_deadline_keeps_the_handler_alive(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster, trio.open_nursery() as nursery:
        start = trio.current_time()
        scope = trio.CancelScope(deadline=start + 10)

        @nursery.start_soon
        async def call() -> None:
            with scope:
                await cluster.client.request("watched", timeout=None)

        await probe.entered.wait()
        await trio.sleep(5)
        scope.deadline = start + 200
        await probe.left.wait()
        assert probe.left_at == start + 200


async def test_an_earlier_deadline_reaches_the_handler_before_the_scope_ends(autojump_clock: Any) -> None:
    seen = []

    @service("watch")
    async def watch(request: Request) -> None:
        for _ in range(18):
            await trio.sleep(0.5)
            seen.append(request.deadline)

    async with open_cluster(watch) as cluster, trio.open_nursery() as nursery:
        start = trio.current_time()
        scope = trio.CancelScope(deadline=start + 100)

        @nursery.start_soon
        async def call() -> None:
            with scope:
                await cluster.client.request("watch")

        await trio.sleep(1)
        scope.deadline = start + 20
    # The caller's scope is looked at once per heartbeat interval.
    assert seen[0] == start + 100
    assert seen[7:] == pytest.approx([start + 20] * 11)


# ---- silence


async def test_silence_ends_the_request(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        for timeout in (0.5, 5, 60):
            probe.__init__()
            start = trio.current_time()
            stream = cluster.client.stream("watched", timeout=timeout)
            assert await anext(stream) == 0
            with pytest.raises(DeadlineExceeded, match=f"{timeout:g} s"):
                await anext(stream)
            await probe.left.wait()
            assert probe.left_at == trio.current_time() == start + timeout


async def test_silence_ends_the_request_under_a_moving_deadline(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        start = trio.current_time()
        with trio.fail_after(100), pytest.raises(DeadlineExceeded):
            await cluster.client.request("watched", timeout=20)
        assert trio.current_time() == start + 20


async def test_the_timeout_of_a_request_that_left_at_once_ends_it_in_time(autojump_clock: Any) -> None:
    @service("silent")
    async def silent() -> None:
        await trio.sleep_forever()

    async with open_cluster(left, silent) as cluster:
        for timeout in (0.5, 0.25):
            await cluster.client.request("left")
            start = trio.current_time()
            with pytest.raises(DeadlineExceeded):
                await cluster.client.request("silent", timeout=timeout)
            assert trio.current_time() == start + timeout


async def test_the_default_timeout_is_a_minute(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded) as caught:
            await cluster.client.request("watched")
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert trio.current_time() == start + 60


@pytest.mark.parametrize("none", [None, -1, math.inf])
async def test_no_timeout_waits_for_ever(none: Any, probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(watched(probe)) as cluster:
        with trio.move_on_after(1_000) as scope:
            await cluster.client.request("watched", timeout=none)
        assert scope.cancelled_caught


async def test_every_reply_starts_the_timeout_anew(autojump_clock: Any) -> None:
    @service("slow")
    async def slow() -> AsyncIterator[int]:
        for i in range(10):
            await trio.sleep(4)
            yield i

    async with open_cluster(slow) as cluster:
        assert [i async for i in cluster.client.stream("slow", timeout=5)] == list(range(10))
        await cluster.client.request("slow", timeout=5)


async def test_a_heartbeat_of_the_handler_starts_the_timeout_anew(autojump_clock: Any) -> None:
    @service("busy")
    async def busy(request: Request) -> str:
        for _ in range(10):
            await trio.sleep(4)
            await request.heartbeat()
        await trio.sleep(100)
        return "never"

    async with open_cluster(busy) as cluster:
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await cluster.client.request("busy", timeout=5)
        assert trio.current_time() == start + 45


async def test_a_paused_reader_does_not_time_itself_out(autojump_clock: Any) -> None:
    @service("few")
    async def few() -> AsyncIterator[int]:
        for i in range(200):
            yield i

    async with open_cluster(few) as cluster:
        got = []
        async with cluster.client.stream("few", timeout=5) as stream:
            async for i in stream:
                got.append(i)
                if i % 50 == 0:
                    await trio.sleep(100)
        assert got == list(range(200))


async def test_waiting_in_the_queue_is_silence_too(cluster: Cluster, autojump_clock: Any) -> None:
    start = trio.current_time()
    with pytest.raises(RequestError):
        await cluster.client.request("nobody offers this", timeout=0.5)
    assert trio.current_time() == start + 0.5

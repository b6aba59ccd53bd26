"""Handlers that yield inside scopes and nurseries of their own behave as Trio's rules say."""

from __future__ import annotations

import contextvars
import logging
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from cluster import Cluster, Probe, open_cluster, read_into, until

from zmdp_trio import Code, DeadlineExceeded, Final, ReplyStream, RequestError, Service, service

WINDOW = 64


async def read(cluster: Cluster, name: str, **options: Any) -> tuple[list[Any], Any]:
    async with cluster.client.stream(name, **options) as stream:
        return [partial async for partial in stream], stream.final


async def read_rest(stream: ReplyStream) -> list[Any]:
    return [partial async for partial in stream]


#: Seconds that `check_scopes` takes.
SCOPES = 0.25 + 0.125 + 0.0625


async def check_scopes() -> None:
    """That the task's stack of scopes is sound: each scope, and only it, catches its own timeout."""
    with trio.move_on_after(0.5) as outer:
        with trio.move_on_after(0.25) as inner:
            await trio.sleep_forever()
        assert inner.cancelled_caught
        await trio.sleep(0.125)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.0625)
    assert not outer.cancelled_caught
    await trio.lowlevel.checkpoint()


# ---- the handler's own scope times out first, while it waits for a slow reader


def scoped(probe: Probe) -> Service[..., Any]:
    """Yields without end inside its own `move_on_after`, then tells how that ended."""

    @service("scoped")
    async def handler(limit: float) -> AsyncIterator[Any]:
        try:
            with trio.move_on_after(limit) as scope:
                while True:
                    yield "partial"
                    probe.sent += 1
            await check_scopes()
            yield Final(["scope", scope.cancelled_caught])
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.125)
            probe.leave()

    return handler


async def test_the_handlers_scope_times_out_at_a_yield(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(scoped(probe)) as cluster:
        start = trio.current_time()
        async with cluster.client.stream("scoped", 2) as stream:
            await anext(stream)
            await trio.sleep(10)
            assert probe.left_at == start + 2 + SCOPES + 0.125  # a final reply needs no credit
            rest = await read_rest(stream)
            assert stream.final == ["scope", True]
        assert probe.sent == len(rest) + 1 == WINDOW


async def test_the_callers_deadline_comes_before_the_handlers_scope(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(scoped(probe)) as cluster:
        start = trio.current_time()
        stream = cluster.client.stream("scoped", 5, deadline=start + 2)
        await anext(stream)
        await probe.left.wait()
        assert probe.left_at == start + 2 + 0.125
        with pytest.raises(DeadlineExceeded):
            await read_rest(stream)


async def test_the_caller_leaves_before_the_handlers_scope_ends(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(scoped(probe)) as cluster:
        start = trio.current_time()
        async with cluster.client.stream("scoped", 5) as stream:
            await anext(stream)
            await trio.sleep(1)
        await probe.left.wait()
        assert probe.left_at == start + 1 + 0.125
        assert probe.sent == WINDOW


async def test_all_three_at_the_same_moment(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(scoped(probe)) as cluster:
        start = trio.current_time()
        with trio.move_on_after(2):
            async with cluster.client.stream("scoped", 2) as stream:
                await anext(stream)
                await trio.sleep_forever()
        await probe.left.wait()
        assert start + 2 <= probe.left_at <= start + 3


async def test_fail_after_at_a_yield_is_the_handlers_own_error(autojump_clock: Any) -> None:
    @service("failing")
    async def failing(catch: bool) -> AsyncIterator[Any]:
        try:
            with trio.fail_after(1):
                while True:
                    yield 0
        except trio.TooSlowError:
            if not catch:
                raise
            await check_scopes()
            yield Final("caught")

    async with open_cluster(failing) as cluster:
        for catch in (True, False):
            async with cluster.client.stream("failing", catch) as stream:
                await anext(stream)
                await trio.sleep(5)
                if catch:
                    assert await read_rest(stream) == [0] * (WINDOW - 1)
                    assert stream.final == "caught"
                else:
                    with pytest.raises(RequestError, match="TooSlowError") as caught:
                        await read_rest(stream)
                    assert caught.value.code is Code.INTERNAL


async def test_scopes_around_every_single_yield(autojump_clock: Any) -> None:
    """A slow reader lets each of them time out; what was not sent in time is skipped."""

    @service("impatient")
    async def impatient() -> AsyncIterator[Any]:
        skipped = 0
        for i in range(WINDOW + 3):
            with trio.move_on_after(1) as scope:
                yield i
            skipped += scope.cancelled_caught
        await check_scopes()
        yield Final(skipped)

    async with open_cluster(impatient) as cluster, cluster.client.stream("impatient") as stream:
        await anext(stream)
        await trio.sleep(2.5)  # two time out, the third has credit again before its time is over
        assert await read_rest(stream) == [*range(1, WINDOW), WINDOW + 2]
        assert stream.final == 2


# ---- nurseries


def nursed(probe: Probe, outcome: list[Any]) -> Service[..., Any]:
    """Yields what tasks of its own nursery make."""

    @service("nursed")
    async def handler(n: float) -> AsyncIterator[Any]:
        try:
            async with trio.open_nursery() as nursery:
                send, receive = trio.open_memory_channel[int](0)
                nursery.start_soon(produce, send)
                async for i in receive:
                    yield i
                    if i == n:
                        yield Final("enough")
        finally:
            with trio.CancelScope(shield=True):
                await check_scopes()
            probe.leave()

    async def produce(send: trio.MemorySendChannel[int]) -> None:
        i = 0
        try:
            while True:
                await send.send(i)
                i += 1
        except BaseException as error:
            outcome.append(type(error))
            raise

    return handler


async def test_final_inside_a_nursery_cancels_its_tasks(probe: Probe, autojump_clock: Any) -> None:
    outcome: list[Any] = []
    async with open_cluster(nursed(probe, outcome)) as cluster:
        async with cluster.client.stream("nursed", 3) as stream:
            assert await read_rest(stream) == [0, 1, 2, 3]
        assert stream.final == "enough"
        assert outcome == [trio.Cancelled]
        assert probe.left.is_set()


async def test_leaving_a_generator_inside_a_nursery_cancels_its_tasks(probe: Probe, autojump_clock: Any) -> None:
    outcome: list[Any] = []
    async with open_cluster(nursed(probe, outcome)) as cluster:
        async for i in cluster.client.stream("nursed", math.inf):
            if i == 200:
                break
        await probe.left.wait()
        assert outcome == [trio.Cancelled]
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 1


async def test_a_task_that_fails_while_the_generator_waits_for_credit(probe: Probe, autojump_clock: Any) -> None:
    @service("doomed")
    async def doomed() -> AsyncIterator[Any]:
        async def fail() -> None:
            await trio.sleep(1)
            raise LookupError("secret")

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                while True:
                    yield 0
        finally:
            probe.leave()

    async with open_cluster(doomed) as cluster, cluster.client.stream("doomed") as stream:
        start = trio.current_time()
        await anext(stream)
        await probe.left.wait()
        assert probe.left_at == start + 1
        with pytest.raises(RequestError, match="LookupError") as caught:
            await read_rest(stream)
        assert caught.value.code is Code.INTERNAL
        assert "secret" not in str(caught.value)


async def test_a_nursery_inside_a_scope_that_times_out(autojump_clock: Any) -> None:
    @service("nested")
    async def nested() -> AsyncIterator[Any]:
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                with trio.CancelScope():
                    while True:
                        yield 0
        await check_scopes()
        yield Final(scope.cancelled_caught)

    async with open_cluster(nested) as cluster, cluster.client.stream("nested") as stream:
        await anext(stream)
        await trio.sleep(5)
        assert await read_rest(stream) == [0] * (WINDOW - 1)
        assert stream.final is True


# ---- cleanup


async def test_an_exception_in_the_cleanup_after_final_is_internal(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @service("clumsy")
    async def clumsy() -> AsyncIterator[Any]:
        try:
            yield 1
            yield Final(2)
        finally:
            raise ZeroDivisionError("in the cleanup")

    async with open_cluster(clumsy) as cluster:
        with pytest.raises(RequestError, match="ZeroDivisionError"):
            await read(cluster, "clumsy")
    assert "in the cleanup" in caplog.text


async def test_an_exception_in_the_cleanup_of_a_cancelled_generator_is_logged(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    @service("clumsy")
    async def clumsy() -> AsyncIterator[Any]:
        try:
            while True:
                yield 1
        finally:
            raise ZeroDivisionError("in the cleanup")

    async with open_cluster(clumsy) as cluster:
        async for _ in cluster.client.stream("clumsy"):
            break
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 1
    assert "in the cleanup" in caplog.text


async def test_unshielded_awaits_in_the_cleanup_follow_trios_rule(autojump_clock: Any) -> None:
    seen = []

    @service("polite")
    async def polite() -> AsyncIterator[Any]:
        try:
            while True:
                yield 1
        finally:
            try:
                await trio.sleep(5)
            except trio.Cancelled:
                seen.append("cancelled at once")
                raise

    async with open_cluster(polite) as cluster:
        start = trio.current_time()
        async for _ in cluster.client.stream("polite"):
            break
        await until(lambda: seen)
        assert seen == ["cancelled at once"]
        assert trio.current_time() - start < 0.1


async def test_a_generator_that_swallows_the_cancellation_ends_when_it_ends(probe: Probe, autojump_clock: Any) -> None:
    @service("deaf")
    async def deaf() -> AsyncIterator[Any]:
        for _ in range(1_000):
            try:
                yield 1
            except trio.Cancelled:
                probe.sent += 1
        probe.leave()

    async with open_cluster(deaf) as cluster:
        async for _ in cluster.client.stream("deaf"):
            break
        await probe.left.wait()
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 1


async def test_a_generator_that_fails_midway_ends_the_stream_after_what_it_sent(autojump_clock: Any) -> None:
    @service("half")
    async def half() -> AsyncIterator[Any]:
        yield 1
        yield 2
        raise KeyError("three")

    async with open_cluster(half) as cluster:
        got: list[Any] = []
        with pytest.raises(RequestError, match="KeyError"):
            await read_into(got, cluster.client.stream("half"))
        assert got == [1, 2]


async def test_an_error_at_a_yield_is_thrown_in_there_and_may_be_caught(autojump_clock: Any) -> None:
    @service("careful")
    async def careful() -> AsyncIterator[Any]:
        try:
            yield object()
        except RequestError as error:
            yield error.code.value
        yield Final("went on")

    async with open_cluster(careful) as cluster:
        assert await read(cluster, "careful") == (["INVALID_ARGUMENT"], "went on")


# ---- sync generators: on the real clock


async def test_a_sync_generator_keeps_thread_and_context_across_yields() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    @service("rows")
    def rows(n: int) -> Iterator[Any]:
        variable.set("mine")
        threads = {threading.get_ident()}
        with sqlite3.connect(":memory:") as connection:
            connection.execute("create table t (i integer)")
            connection.executemany("insert into t values (?)", [(i,) for i in range(n)])
            for (i,) in connection.execute("select i from t order by i"):
                yield i
                threads.add(threading.get_ident())
                assert variable.get() == "mine"
        connection.close()
        return [len(threads), threading.main_thread().ident in threads]

    async with open_cluster(rows, heartbeat=0.05) as cluster, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def another() -> None:
            await cluster.client.request("rows", 300)

        async with cluster.client.stream("rows", 300) as stream:
            got = []
            async for i in stream:
                got.append(i)
                if i == 100:
                    await trio.sleep(0.02)  # let it run out of credit
            assert got == list(range(300))
            assert stream.final == [1, False]


async def test_a_sync_generators_errors_are_thrown_in_at_the_yield() -> None:
    @service("careful")
    def careful() -> Iterator[Any]:
        try:
            yield object()
        except RequestError as error:
            yield error.code.value
        return "went on"

    async with open_cluster(careful, heartbeat=0.05) as cluster:
        assert await read(cluster, "careful") == (["INVALID_ARGUMENT"], "went on")


async def test_a_sync_generator_that_fails_in_its_cleanup_is_internal() -> None:
    @service("clumsy")
    def clumsy() -> Iterator[Any]:
        try:
            yield 1
            yield Final(2)
        finally:
            raise ZeroDivisionError

    async with open_cluster(clumsy, heartbeat=0.05) as cluster:
        with pytest.raises(RequestError, match="ZeroDivisionError"):
            await read(cluster, "clumsy")


async def test_sync_handlers_of_one_service_run_side_by_side_up_to_its_concurrency() -> None:
    barrier = threading.Barrier(3)

    @service("meet", concurrency=3)
    def meet() -> int:
        return barrier.wait(5)

    async with open_cluster(meet, heartbeat=0.05) as cluster:
        got = []
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                got.append(await cluster.client.request("meet"))

            for _ in range(6):
                nursery.start_soon(call)
        assert sorted(got) == [0, 0, 1, 1, 2, 2]

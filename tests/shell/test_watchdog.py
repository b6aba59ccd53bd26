"""The watchdog reports a blocked event loop: who blocks it, where, and for how long."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import trio
from cluster import open_cluster, until

from zmdp_trio import Final, Service, open_broker, open_worker, service
from zmdp_trio import _watchdog as module
from zmdp_trio._watchdog import EXIT_HUNG, Stopwatch, Watchdog, Watched

#: Seconds in which a report must come, on a machine that has other things to do.
LIMIT = 20.0
#: The blocks here last until they were reported, so the limit may be short.
QUICK = {"blocked_after": 0.5, "heartbeat": 0.3}


class Reports(logging.Handler):
    """What the watchdog said, and a way to block until it has."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.lines.append((record.levelno, record.getMessage()))
            self.changed.notify_all()

    def block_until(self, number: int) -> None:
        """Block this thread until so many reports have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.lines) >= number, LIMIT)


@pytest.fixture
def reports() -> Iterator[Reports]:
    reports = Reports()
    module.logger.addHandler(reports)
    yield reports
    module.logger.removeHandler(reports)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "zmdp watchdog"]


# ---- real blocks


async def test_a_handler_that_blocks_is_reported_once_and_when_it_is_over(reports: Reports) -> None:
    @service("stuck")
    async def stuck(n: int) -> int:
        reports.block_until(1)
        return n

    async with open_cluster(stuck, **QUICK) as cluster:
        assert await cluster.client.request("stuck", 7) == 7
        await until(lambda: len(reports.lines) == 2, within=LIMIT)
        statistics = cluster.worker.statistics()
        assert statistics.blocks == 1
        assert statistics.longest_block >= QUICK["blocked_after"]
        assert await cluster.client.request("stuck", 8) == 8
    assert [level for level, _ in reports.lines] == [logging.WARNING] * 2
    first, last = (line for _, line in reports.lines)
    head, *stack = first.splitlines()
    assert head.startswith("the event loop has been blocked for ")
    assert head.endswith("by service 'stuck' of worker, request 1 of client")
    assert "in _handle" in stack[0]
    assert any("in stuck" in line for line in stack)
    assert "reports.block_until(1)" in first
    assert last.endswith("by service 'stuck' of worker, request 1 of client; it turns again")


def child_blocks(reports: Reports) -> Service[..., Any]:
    @service("parent")
    async def parent(payload: dict[str, int]) -> int:
        async def child() -> None:
            reports.block_until(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        return payload["n"]

    return parent


def generator_blocks(reports: Reports) -> Service[..., Any]:
    @service("generator")
    async def generator(payload: dict[str, int]) -> AsyncIterator[Any]:
        yield 0
        reports.block_until(1)
        yield Final(payload["n"])

    return generator


def annotation_blocks(reports: Reports) -> Service[..., Any]:
    class Query(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            reports.block_until(1)

    @service("annotated")
    async def annotated(query: Query) -> int:
        return query.n

    return annotated


@pytest.mark.parametrize("make", [child_blocks, generator_blocks, annotation_blocks])
async def test_the_handler_is_named_wherever_in_it_the_block_is(make: Any, reports: Reports) -> None:
    blocking = make(reports)
    async with open_cluster(blocking, **QUICK) as cluster:
        assert await cluster.client.request(blocking.name, {"n": 1}) == 1
        await until(lambda: len(reports.lines) == 2, within=LIMIT)
    assert f"by service {blocking.name!r} of worker, request 1 of client\n" in reports.lines[0][1]
    assert "reports.block_until(1)" in reports.lines[0][1]


async def test_what_is_no_handler_is_named_as_what_it_is(reports: Reports) -> None:
    @service("idle")
    async def idle() -> None:
        pass

    async def of_the_user() -> None:
        reports.block_until(1)

    async with open_cluster(idle, **QUICK), trio.open_nursery() as nursery:
        nursery.start_soon(of_the_user, name="the user's own")
        await until(lambda: len(reports.lines) == 2, within=LIMIT)
    assert "by the task \"the user's own\", which is no handler's\n" in reports.lines[0][1]
    assert "in of_the_user" in reports.lines[0][1]


async def test_every_worker_of_the_run_counts_the_block_that_is_too_long_for_it(reports: Reports) -> None:
    @service("stuck")
    async def stuck() -> None:
        reports.block_until(1)

    async with (
        open_cluster(stuck, **QUICK) as cluster,
        open_worker([stuck], cluster.endpoint, **QUICK) as neighbour,
        open_worker([stuck], cluster.endpoint, blocked_after=100) as patient,
        open_worker([stuck], cluster.endpoint, blocked_after=math.inf) as careless,
    ):
        await cluster.client.request("stuck", worker="worker")
        await until(lambda: len(reports.lines) == 2, within=LIMIT)
        workers = (cluster.worker, neighbour, patient, careless)
        assert [worker.statistics().blocks for worker in workers] == [1, 1, 0, 0]


async def test_a_less_patient_worker_is_heard_though_it_came_later(reports: Reports) -> None:
    @service("stuck")
    async def stuck() -> None:
        reports.block_until(1)

    async with open_broker("memory://b"), open_worker([stuck], "memory://b", blocked_after=1000):
        async with open_cluster(stuck, **QUICK) as cluster:
            await cluster.client.request("stuck")
            await until(lambda: len(reports.lines) == 2, within=LIMIT)


async def test_a_thread_at_work_is_no_block(reports: Reports) -> None:
    """While a sync handler computes, the loop waits, and the watchdog sleeps."""
    watchdogs: list[Watchdog | None] = []
    pause = threading.Event()

    @service("grind")
    def grind() -> bool:
        (watchdog,) = watchdogs
        assert watchdog is not None
        for _ in range(int(1000 * LIMIT)):
            if watchdog._parked:
                return True
            pause.wait(0.001)
        return False

    async with open_cluster(grind, **QUICK) as cluster:
        watchdogs.append(module._of_this_run.get())
        assert await cluster.client.request("grind")


async def test_a_busy_loop_does_not_wake_the_thread_at_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    look = Watchdog._look
    monkeypatch.setattr(Watchdog, "_look", lambda self, lap: (looks.append(lap), look(self, lap)))

    @service("idle")
    async def idle() -> None:
        pass

    def wait_until_parked() -> bool:
        watchdog = watchdogs[0]
        assert watchdog is not None
        return any(watchdog._parked or pause.wait(0.001) for _ in range(int(1000 * LIMIT)))

    watchdogs: list[Watchdog | None] = []
    pause = threading.Event()
    async with open_cluster(idle, blocked_after=0.4):
        watchdogs.append(module._of_this_run.get())
        assert await trio.to_thread.run_sync(wait_until_parked)
        looks.clear()
        for _ in range(5000):
            await trio.lowlevel.checkpoint()
        assert len(looks) < 100


# ---- one thread


async def test_many_workers_cost_one_thread(autojump_clock: Any) -> None:
    @service("idle")
    async def idle() -> None:
        pass

    before = set(threads())
    async with open_broker("memory://b"), AsyncExitStack() as stack:
        for _ in range(100):
            await stack.enter_async_context(open_worker([idle], "memory://b", blocked_after=1000))
        (thread,) = set(threads()) - before
    await trio.to_thread.run_sync(thread.join, LIMIT)
    assert not thread.is_alive()


async def test_off_costs_no_thread() -> None:
    @service("idle")
    async def idle() -> None:
        pass

    before = set(threads())
    async with open_cluster(idle, blocked_after=math.inf):
        assert set(threads()) <= before, "those of earlier runs may be about to end"
        async with open_cluster(idle, blocked_after=math.inf, hung_after=1000):
            assert len(set(threads()) - before) == 1


async def test_hours_of_virtual_time_are_no_block(autojump_clock: Any, reports: Reports) -> None:
    @service("slow")
    async def slow() -> str:
        await trio.sleep(3600)
        return "done"

    async with open_cluster(slow) as cluster:
        assert await cluster.client.request("slow", timeout=None) == "done"
        assert cluster.worker.statistics().blocks == 0
    assert reports.lines == []


async def test_a_run_that_ends_without_a_word_ends_the_thread() -> None:
    watchdog = Watchdog()
    watchdog.join(Watched(1, math.inf, lambda task: None))
    (thread,) = [thread for thread in threads() if thread._target.__self__ is watchdog]  # type: ignore[attr-defined]
    watchdog.after_run()
    await trio.to_thread.run_sync(thread.join, LIMIT)
    assert not thread.is_alive()


# ---- how time is counted


class Time:
    """The clocks that the watchdog reads."""

    def __init__(self) -> None:
        self.real = 1000.0
        self.cpu = 0.0

    def monotonic(self) -> float:
        return self.real

    def process_time(self) -> float:
        return self.cpu


class Bench:
    """A watchdog without a thread, whose looks the test takes."""

    def __init__(self, time: Time, **limits: float) -> None:
        self.time = time
        self.watched = Watched(**({"blocked_after": 1.0, "hung_after": math.inf} | limits), describe=lambda task: "me")
        self.watchdog = Watchdog()
        self.watchdog._watched = (self.watched,)
        self.stopwatch = Stopwatch()

    def turn(self) -> None:
        self.watchdog.before_io_wait(0)
        self.watchdog.after_io_wait(0)

    def wait(self) -> None:
        self.watchdog.before_io_wait(0)

    def look_after(self, seconds: float, *, cpu: float = 0.0) -> None:
        self.time.real += seconds
        self.time.cpu += cpu
        self.watchdog._look(self.stopwatch.lap(self.watchdog._interval()))
        self.watchdog._write_reports()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(module, "time", time)
    return time


async def test_a_turn_is_blocked_after_the_limit_and_not_before(time: Time, reports: Reports) -> None:
    bench = Bench(time)
    bench.turn()
    for _ in range(3):
        bench.look_after(0.25)
    assert (bench.watched.blocks, reports.lines) == (0, [])
    bench.look_after(0.25)
    bench.look_after(0.25)
    assert (bench.watched.blocks, bench.watched.longest) == (1, 1.25)
    time.real += 0.0625
    bench.turn()
    bench.look_after(0.125)
    assert (bench.watched.blocks, bench.watched.longest) == (1, 1.3125)
    assert [line.splitlines()[0] for _, line in reports.lines] == [
        "the event loop has been blocked for 1.0 s by me",
        "the event loop was blocked for 1.3 s by me; it turns again",
    ]


async def test_a_loop_that_turns_or_waits_is_not_blocked(time: Time, reports: Reports) -> None:
    bench = Bench(time)
    for _ in range(100):
        bench.turn()
        bench.look_after(0.25, cpu=0.25)
    bench.wait()
    for _ in range(100):
        bench.look_after(0.25)
    bench.turn()
    bench.look_after(0)
    assert (bench.watched.blocks, reports.lines) == (0, [])


async def test_a_process_that_was_stopped_was_not_blocked(time: Time, reports: Reports) -> None:
    bench = Bench(time)
    bench.turn()
    bench.look_after(0.25)
    bench.look_after(3600)
    bench.turn()
    bench.look_after(0.25)
    bench.look_after(3600)
    bench.look_after(0.125)
    assert (bench.watched.blocks, reports.lines) == (0, [])
    bench.look_after(0.25)
    assert (bench.watched.blocks, bench.watched.longest) == (1, 1.125)


async def test_code_that_holds_the_gil_blocks_though_nobody_could_look(time: Time, reports: Reports) -> None:
    bench = Bench(time)
    bench.turn()
    bench.look_after(5, cpu=4)
    assert (bench.watched.blocks, bench.watched.longest) == (1, 5)


async def test_a_hung_loop_ends_the_process(time: Time, reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(module.os, "_exit", statuses.append)
    monkeypatch.setattr(module.logging, "shutdown", lambda: None)
    bench = Bench(time, hung_after=2)
    bench.turn()
    for _ in range(7):
        bench.look_after(0.25)
    assert statuses == []
    bench.look_after(0.25)
    assert statuses == [EXIT_HUNG] == [70]
    level, line = reports.lines[-1]
    assert level == logging.CRITICAL
    assert line.startswith("the event loop has been blocked for 2.0 s by me; the process ends with status 70\n")
    assert "test_a_hung_loop_ends_the_process" in line


async def test_a_log_that_is_stuck_keeps_nobody_from_ending_the_process(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []
    stuck = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stuck.wait(LIMIT)

    handler = Stuck()
    monkeypatch.setattr(module.os, "_exit", statuses.append)
    monkeypatch.setattr(module.logging, "shutdown", lambda: None)
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    module.logger.addHandler(handler)
    try:
        bench = Bench(time, hung_after=1)
        bench.turn()
        bench.look_after(2, cpu=2)
        assert statuses == [EXIT_HUNG]
    finally:
        stuck.set()
        module.logger.removeHandler(handler)

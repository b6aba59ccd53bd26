"""Virtual time: it jumps when nothing can happen, and stands still while anything is at work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from zmdp_trio import SyncRequest, service
from zmdp_trio.testing import VirtualClock, _clock, open_cluster

HOUR = 3600.0


async def test_it_starts_at_0_and_jumps_to_each_deadline_exactly(clock: VirtualClock) -> None:
    assert trio.current_time() == 0
    for seconds in (0.1, 0.2, 1e-9, HOUR, 1e6):
        deadline = trio.current_time() + seconds
        await trio.sleep_until(deadline)
        assert trio.current_time() == deadline
    assert "1.0036e+06" in repr(clock)


async def test_tasks_wake_in_the_order_of_their_deadlines(clock: VirtualClock) -> None:
    woken = []

    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)
        woken.append((seconds, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for seconds in (3.0, 1.0, 2.0, 1.0):
            nursery.start_soon(sleep, seconds)
    assert woken == [(1, 1), (1, 1), (2, 2), (3, 3)]


async def test_a_task_that_goes_on_keeps_the_time(clock: VirtualClock) -> None:
    with trio.move_on_after(HOUR) as scope:
        for _ in range(1_000):
            await trio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert trio.current_time() == 0


async def test_whoever_waits_for_all_to_block_goes_first(clock: VirtualClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, HOUR)
        for cushion in (0.0, 0.01):
            await trio.testing.wait_all_tasks_blocked(cushion)
            assert trio.current_time() == 0


async def test_one_clock_may_serve_several_runs(clock: VirtualClock) -> None:
    other = VirtualClock()
    for hours in (1, 2):
        await trio.to_thread.run_sync(lambda: trio.run(trio.sleep, HOUR, clock=other))
        assert repr(other) == f"<VirtualClock at {hours * HOUR:g} s>"
    assert trio.current_time() == 0


# ---- threads


async def test_it_stands_still_while_a_thread_works(clock: VirtualClock) -> None:
    with trio.fail_after(1):
        await trio.to_thread.run_sync(time.sleep, 0.05)
    assert trio.current_time() == 0


async def test_deadlines_come_after_the_thread_is_done(clock: VirtualClock) -> None:
    done = threading.Event()

    def end() -> None:
        time.sleep(0.05)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: trio.to_thread.run_sync(done.wait))
        nursery.start_soon(trio.to_thread.run_sync, end)
        await trio.sleep(1)
        assert done.is_set()
    assert trio.current_time() == 1


@pytest.mark.parametrize("abandon", [False, True])
async def test_a_thread_that_waits_for_trio_is_not_at_work(clock: VirtualClock, abandon: bool) -> None:
    def call_back() -> None:
        trio.from_thread.run(trio.sleep, HOUR)

    await trio.to_thread.run_sync(call_back, abandon_on_cancel=abandon)
    assert trio.current_time() == HOUR


@pytest.mark.parametrize("abandon", [False, True])
async def test_it_is_at_work_again_when_trio_has_answered(clock: VirtualClock, abandon: bool) -> None:
    def call_back_and_work() -> None:
        trio.from_thread.run(trio.sleep, 1)
        time.sleep(0.05)
        trio.from_thread.run(trio.sleep, 1)
        time.sleep(0.05)

    with trio.fail_after(2.5):
        await trio.to_thread.run_sync(call_back_and_work, abandon_on_cancel=abandon)
    assert trio.current_time() == 2


async def test_what_a_thread_calls_may_use_a_thread_itself(clock: VirtualClock) -> None:
    def outer() -> None:
        trio.from_thread.run(trio.to_thread.run_sync, time.sleep, 0.05)

    with trio.fail_after(1):
        await trio.to_thread.run_sync(outer)
    assert trio.current_time() == 0


async def test_of_several_threads_one_at_work_is_enough(clock: VirtualClock) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trio.to_thread.run_sync, lambda: trio.from_thread.run(trio.sleep, HOUR))
        await trio.to_thread.run_sync(time.sleep, 0.05)
        assert trio.current_time() == 0
    assert trio.current_time() == HOUR


async def test_an_abandoned_thread_holds_nothing_up(clock: VirtualClock) -> None:
    done = threading.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: trio.to_thread.run_sync(done.wait, abandon_on_cancel=True))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    await trio.sleep(HOUR)
    assert trio.current_time() == HOUR
    done.set()


async def test_a_thread_that_is_cancelled_is_waited_for(clock: VirtualClock) -> None:
    begun = trio.Event()

    def work() -> None:
        trio.from_thread.run_sync(begun.set)
        while True:
            trio.from_thread.check_cancelled()
            time.sleep(0.01)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work)
            await begun.wait()
            scope.cancel()
    assert trio.current_time() == 0


async def test_waiting_for_a_thread_s_turn_holds_nothing_up(clock: VirtualClock) -> None:
    limiter = trio.CapacityLimiter(1)
    async with trio.open_nursery() as nursery, limiter:
        nursery.start_soon(lambda: trio.to_thread.run_sync(time.sleep, 0, limiter=limiter))
        await trio.sleep(HOUR)


async def test_a_hold_is_for_what_the_clock_does_not_see(clock: VirtualClock) -> None:
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()
    thread = threading.Timer(0.05, lambda: token.run_sync_soon(ended.set))
    thread.start()
    with clock.hold(), clock.hold(), trio.fail_after(1):
        await ended.wait()
    thread.join()
    assert trio.current_time() == 0
    await trio.sleep(1)


async def test_it_says_for_whom_it_stands_still(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_clock, "PATIENCE", 0.02)
    told = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    handler = Handler()
    logging.getLogger("zmdp_trio.testing").addHandler(handler)
    with clock.hold():
        assert await trio.to_thread.run_sync(told.wait, 10)
    logging.getLogger("zmdp_trio.testing").removeHandler(handler)
    (record,) = caplog.records
    assert "stands still: a thread is at work for" in record.getMessage()
    assert "test_it_says_for_whom" in record.getMessage()
    assert "hold()" in record.getMessage()


# ---- handlers


@service("compute")
def compute(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@service("numbers")
def numbers(n: int) -> Iterator[int]:
    for i in range(n):
        time.sleep(0.0001)
        yield i


@service("sender")
def sender(n: int, request: SyncRequest) -> None:
    for i in range(n):
        request.send(i)


async def test_a_sync_handler_takes_no_time(clock: VirtualClock) -> None:
    async with open_cluster(compute) as cluster:
        assert await cluster.client.request("compute", 0.05, timeout=0.01) == 0.05
        assert trio.current_time() == 0


@pytest.mark.parametrize("name", ["numbers", "sender"])
async def test_a_sync_handler_without_credit_holds_nothing_up(clock: VirtualClock, name: str) -> None:
    """Its thread waits for a reader that takes its time: a second for each reply, far more than the window."""
    got = []
    async with open_cluster(numbers, sender) as cluster:
        async with cluster.client.stream(name, 300) as stream:
            async for i in stream:
                await trio.sleep(1)
                got.append((i, trio.current_time()))
    assert got == [(i, i + 1) for i in range(300)]


async def test_a_sync_handler_that_waits_for_credit_ends_at_its_deadline(clock: VirtualClock) -> None:
    async with open_cluster(numbers) as cluster:
        with trio.move_on_after(HOUR):
            async with cluster.client.stream("numbers", 1_000):
                await trio.sleep_forever()
        assert trio.current_time() == HOUR
        await cluster.settle()
        assert cluster.worker.statistics().running == 0


def jumps(clock: trio.abc.Clock, number: int) -> float:
    """Real seconds that so many jumps take."""

    async def main() -> None:
        for _ in range(number):
            await trio.sleep(1)

    start = time.perf_counter()
    trio.run(main, clock=clock)
    return time.perf_counter() - start


def test_a_jump_costs_no_more_than_one_of_trio_s_own_clock() -> None:
    # In turn, so that whatever else the machine does is in the way of both.
    pairs = [(jumps(VirtualClock(), 500), jumps(trio.testing.MockClock(autojump_threshold=0), 500)) for _ in range(10)]
    ours, trios = (min(each) for each in zip(*pairs, strict=True))
    assert ours < 3 * trios

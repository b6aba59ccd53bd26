"""A worker's tasks run one handler after the other, and nothing of one is seen by the next."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from cluster import open_cluster

from zmdp_trio import Request, RequestError, service
from zmdp_trio import _crew as module
from zmdp_trio._crew import Crew, Hand
from zmdp_trio._handlers import Run


class LoneEngine:
    """An engine at which nobody can stand in."""

    lonely = False


ALONE: Any = LoneEngine()
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
tasks: contextvars.ContextVar[list[trio.lowlevel.Task]] = contextvars.ContextVar("tasks")


@service("note")
async def note(payload: str) -> str:
    """Set the variable, and tell what it was before; note the task."""
    tasks.get().append(trio.lowlevel.current_task())
    before = variable.get()
    variable.set(payload)
    return before


async def test_handlers_share_a_task_and_no_context(autojump_clock: Any) -> None:
    variable.set("outside")
    tasks.set([])
    async with open_cluster(note) as cluster:
        for name in ("one", "two", "three"):
            assert await cluster.client.request("note", name) == "outside"
    assert len(tasks.get()) == 3
    assert len(set(tasks.get())) == 1


@service("doomed")
async def doomed(payload: str) -> float:
    """End as the payload says; else return the deadline."""
    tasks.get().append(trio.lowlevel.current_task())
    if payload == "raise":
        raise ValueError("as told")
    if payload == "wait":
        await trio.sleep_forever()
    await trio.lowlevel.checkpoint()
    return trio.current_effective_deadline()


async def test_a_scope_that_was_used_is_not_used_again(autojump_clock: Any) -> None:
    tasks.set([])
    async with open_cluster(doomed) as cluster:
        for _ in range(2):
            with pytest.raises(RequestError):
                await cluster.client.request("doomed", "raise")
            with trio.move_on_after(3) as scope:
                await cluster.client.request("doomed", "wait")
            assert scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked()
            assert await cluster.client.request("doomed", "return", deadline=trio.current_time() + 5) < 100
            await trio.sleep(10)
            assert await cluster.client.request("doomed", "return") == float("inf")
        assert cluster.worker.statistics().running == cluster.worker.statistics().cancelling == 0
    assert len(set(tasks.get())) == 1


async def test_a_cancellation_that_comes_too_late_is_not_the_next_requests(autojump_clock: Any) -> None:
    runs: list[Any] = []

    @service("kept")
    async def kept(request: Request) -> int:
        runs.append(request._runner)
        await trio.sleep(1)
        return len(runs)

    async with open_cluster(kept) as cluster:
        assert await cluster.client.request("kept") == 1
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                assert await cluster.client.request("kept") == 2

            await trio.sleep(0.5)
            assert len(runs) == 2
            runs[0].on_cancel()
            runs[0].execution.deadline = trio.current_time()
            runs[0].on_deadline()


async def test_a_task_that_waits_keeps_nothing_of_what_it_did(autojump_clock: Any) -> None:
    tasks.set([])
    async with open_cluster(note, doomed) as cluster:
        await cluster.client.request("note", "one")
        with trio.move_on_after(3):
            await cluster.client.request("doomed", "wait")
        await trio.testing.wait_all_tasks_blocked()
        assert len(cluster.worker._handlers.child_tasks) == 1
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is Run]


async def test_no_more_tasks_are_kept_than_may_be_idle(monkeypatch: pytest.MonkeyPatch, autojump_clock: Any) -> None:
    monkeypatch.setattr(module, "IDLE", 3)
    go = trio.Event()

    @service("together")
    async def together(payload: int) -> int:
        await go.wait()
        return payload

    async with open_cluster(together) as cluster:
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(cluster.client.request, "together", n)
            await trio.testing.wait_all_tasks_blocked()
            assert len(cluster.worker._handlers.child_tasks) == 10
            go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(cluster.worker._handlers.child_tasks) == 3
        gc.collect()
        assert len(cluster.worker._crew.hands) == 3, "nothing is left of the others"
        assert await cluster.client.request("together", 7) == 7


async def test_what_is_handed_over_is_begun_though_the_crew_is_cancelled_first(autojump_clock: Any) -> None:
    begun: list[int] = []

    async def work() -> None:
        hand = Hand(crew)
        while number := await hand.next():
            begun.append(number)

    async with trio.open_nursery() as nursery:
        crew: Crew[int] = Crew(nursery, work, ALONE)
        crew.start([1])
        await trio.testing.wait_all_tasks_blocked()
        crew.start([2])
        nursery.cancel_scope.cancel()
    assert begun == [1, 2]


class Gang:
    """A crew that works at numbers: notes each, waits for `go` at the odd ones, sets the variable at those above 99."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.begun: list[tuple[int, Any]] = []
        self.tasks: set[trio.lowlevel.Task] = set()
        self.go = trio.Event()
        self.crew: Crew[int] = Crew(nursery, self._work, ALONE)

    async def _work(self) -> None:
        hand = Hand(self.crew)
        self.tasks.add(trio.lowlevel.current_task())
        while number := hand.take() or await hand.next():
            self.begun.append((number, variable.get()))
            if number > 99:
                variable.set(f"{number}")
            if number % 2:
                await self.go.wait()
        hand.leave()

    async def run(self, *numbers: int) -> list[int]:
        """Have these worked at, and return those that were begun before everybody waits."""
        self.begun.clear()
        self.crew.start(numbers)
        await trio.testing.wait_all_tasks_blocked()
        assert not self.crew.queue
        return [number for number, _ in self.begun]


async def test_two_tasks_are_enough_for_what_never_waits() -> None:
    async with trio.open_nursery() as nursery:
        gang = Gang(nursery)
        evens = list(range(2, 100, 2))
        for _ in range(3):
            assert await gang.run(*evens) == evens, "in order"
        assert len(gang.tasks) == 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "numbers", [range(1, 100, 2), range(1, 100), [1, 2], [2, 1, 4, 6], [*range(2, 50, 2), 1, 3, 4, 5]]
)
async def test_what_waits_holds_up_nothing_else(numbers: Sequence[int]) -> None:
    async with trio.open_nursery() as nursery:
        gang = Gang(nursery)
        for _ in range(3):
            assert sorted(await gang.run(*numbers)) == sorted(numbers)
            gang.go.set()
            gang.go = trio.Event()
            await trio.testing.wait_all_tasks_blocked()
        assert await gang.run(2) == [2]
        nursery.cancel_scope.cancel()


async def test_tasks_that_were_needed_once_are_not_called_for_ever() -> None:
    async with trio.open_nursery() as nursery:
        gang = Gang(nursery)
        await gang.run(*range(1, 100, 2))
        gang.go.set()
        await trio.testing.wait_all_tasks_blocked()
        idle = len(gang.crew.idle)
        for _ in range(10):
            await gang.run(*range(2, 100, 2))
        gang.crew.start(range(2, 100, 2))
        assert len(gang.crew.idle) == idle - 2
        nursery.cancel_scope.cancel()


async def test_tasks_beyond_those_that_are_kept_end_and_are_forgotten() -> None:
    async with trio.open_nursery() as nursery:
        gang = Gang(nursery)
        await gang.run(*range(1, 99, 2), *(1 for _ in range(2 * module.IDLE)))
        assert len(gang.crew.hands) > 2 * module.IDLE
        gang.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(gang.crew.hands) == len(gang.crew.idle) == module.IDLE
        nursery.cancel_scope.cancel()


async def test_no_piece_sees_what_another_one_of_its_queue_has_set() -> None:
    variable.set("outside")
    async with trio.open_nursery() as nursery:
        gang = Gang(nursery)
        for _ in range(3):
            await gang.run(*range(90, 200))
            assert len(gang.begun) == 110
            assert {seen for _, seen in gang.begun} == {"outside"}
            gang.go.set()
        nursery.cancel_scope.cancel()


class Prickly:
    """A value that can't be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("as told")

    __hash__ = None  # type: ignore[assignment]


async def test_values_that_can_not_be_compared_are_not_seen_either() -> None:
    prickly: contextvars.ContextVar[Any] = contextvars.ContextVar("prickly")
    own = Prickly()
    prickly.set(own)
    seen: list[bool] = []

    async def work() -> None:
        hand = Hand(crew)
        while hand.take() or await hand.next():
            seen.append(prickly.get() is own)
            prickly.set(Prickly())

    async with trio.open_nursery() as nursery:
        crew: Crew[int] = Crew(nursery, work, ALONE)
        crew.start(range(1, 10))
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [True] * 9
        nursery.cancel_scope.cancel()


async def test_a_scope_that_a_handler_leaves_open_is_not_the_next_ones(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[AsyncGenerator[int, None]] = []

    async def hurried() -> AsyncGenerator[int, None]:
        with trio.move_on_after(5):
            yield 1

    @service("leaves")
    async def leaves() -> int:
        left.append(hurried())
        return await anext(left[0])

    @service("sleeps")
    async def sleeps(payload: float) -> float:
        await trio.sleep(payload)
        return payload

    async with open_cluster(leaves, sleeps) as cluster:
        assert await cluster.client.request("leaves") == 1
        assert await cluster.client.request("sleeps", 10) == 10
    assert "service 'leaves' failed after its final reply" in caplog.text

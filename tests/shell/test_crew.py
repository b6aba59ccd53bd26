"""A worker's tasks run one handler after the other, and nothing of one is seen by the next."""

from __future__ import annotations

import contextvars
import gc
from typing import Any

import pytest
import trio
import trio.testing
from cluster import open_cluster

from zmdp_trio import Request, RequestError, service
from zmdp_trio import _crew as module
from zmdp_trio._crew import Crew
from zmdp_trio._handlers import Run

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
        assert await cluster.client.request("together", 7) == 7


async def test_what_is_handed_over_is_begun_though_the_crew_is_cancelled_first(autojump_clock: Any) -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        while True:
            begun.append(number)
            number = await crew.next()

    async with trio.open_nursery() as nursery:
        crew = Crew(nursery, work)
        crew.start(1)
        await trio.testing.wait_all_tasks_blocked()
        crew.start(2)
        nursery.cancel_scope.cancel()
    assert begun == [1, 2]

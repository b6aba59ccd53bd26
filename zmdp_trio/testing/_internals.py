"""What the harness must know of Trio's insides: all of it is here.

Trio lets only its own `MockClock` jump when nothing happens, and repeats its scheduling only for Hypothesis.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final, cast

import trio
from trio._core import _run
from trio.testing import active_thread_count


def _code(function: Any) -> CodeType:
    return cast(CodeType, inspect.unwrap(function).__code__)


_RUN_SYNC: Final = _code(trio.to_thread.run_sync)
_WAIT: Final = _code(trio.lowlevel.wait_task_rescheduled)
#: The system task that a thread's call into Trio gets where it can't have the task that started the thread.
_RUN_SYSTEM: Final = "run_system"


class RunLoop:
    """The run that the caller is in."""

    def __init__(self) -> None:
        self._runner: Any = _run.GLOBAL_RUN_CONTEXT.runner

    @property
    def busy(self) -> bool:
        """A task can go on now."""
        return bool(self._runner.runq)

    @property
    def watched(self) -> bool:
        """A task is in `trio.testing.wait_all_tasks_blocked`."""
        return bool(self._runner.waiting_for_idle)

    def tasks_with_threads_at_work(self) -> list[trio.lowlevel.Task]:
        """Return the tasks in `trio.to_thread.run_sync` whose threads do not wait for Trio themselves.

        A thread waits for Trio while a function that it called through `trio.from_thread` runs.  A thread that was
        abandoned when its task was cancelled belongs to no task any more.
        """
        if not active_thread_count():
            return []
        at_work: list[trio.lowlevel.Task] = []
        abandonable: list[trio.lowlevel.Task] = []
        callers = 0
        for task in self._tasks():
            callers += getattr(task.coro, "__name__", "") == _RUN_SYSTEM
            frame = _thread_frame(task)
            if frame is not None:
                (abandonable if frame.f_locals["abandon_bool"] else at_work).append(task)
        # Which of the threads that may be abandoned have called is not told, only how many.
        return at_work + abandonable[callers:]

    def _tasks(self) -> Iterator[trio.lowlevel.Task]:
        waiting = [self._runner.init_task]
        while waiting:
            task = waiting.pop()
            yield task
            for nursery in task.child_nurseries:
                waiting += nursery.child_tasks


def _thread_frame(task: trio.lowlevel.Task) -> FrameType | None:
    """Return the frame of `to_thread.run_sync` that the task is in, unless the thread has called back into the task."""
    above = None
    found = None
    for frame, _ in task.iter_await_frames():
        if above is not None and above.f_code is _RUN_SYNC:
            found = above if frame.f_code is _WAIT else None
        above = frame
    return found


@contextmanager
def repeatable_scheduling(seed: int) -> Iterator[None]:
    """Let the order in which Trio runs tasks that are ready at once depend on the seed alone."""
    scheduler: Any = _run
    dice: random.Random = scheduler._r
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, dice.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    dice.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        dice.setstate(before[1])

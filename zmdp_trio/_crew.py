"""Tasks that run what is handed to them, one thing after the other."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

R = TypeVar("R")

#: Tasks without work that are kept.
IDLE: Final = 128


class Crew(Generic[R]):
    """Tasks of one nursery that wait for more when they have ended something: to start one takes twice as long.

    Each thing runs in a copy of the context in which the crew was made, as if its task had been started for it.
    """

    def __init__(self, nursery: trio.Nursery, work: Callable[[R], Awaitable[None]]) -> None:
        """Make a crew; `work` is a task's whole life: it gets its first piece as an argument, and more from `next`."""
        self._nursery = nursery
        self._work = work
        self._context = contextvars.copy_context()
        #: In the order in which they fell idle: the latest is the first to go on, as its memory is still warm.
        self._idle: dict[trio.lowlevel.Task, None] = {}
        self._handed: dict[trio.lowlevel.Task, R] = {}

    def start(self, what: R) -> None:
        """Have a task work at it, soon."""
        if self._idle:
            task, _ = self._idle.popitem()
            self._handed[task] = what
            task.context = self._context.copy()
            trio.lowlevel.reschedule(task)
        else:
            self._context.run(self._nursery.start_soon, self._work, what)

    @property
    def full(self) -> bool:
        """Whether as many tasks are idle as are kept: one that has ended something may as well end itself."""
        return len(self._idle) >= IDLE

    async def next(self) -> R:
        """Wait, in a task of the crew, for what it is to do next."""
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._idle[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle[task] = None
        await trio.lowlevel.wait_task_rescheduled(abort)
        return self._handed.pop(task)

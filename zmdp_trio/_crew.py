"""Tasks that work off a queue, one piece after the other.

Theory of operation.  To have a task go on costs Trio some two microseconds, to start one twice as much, and most
handlers are done without ever waiting.  So few tasks are called for all that came together: each works off the queue
until something that it works at has to wait.  Of those that were called, the last to come knows that all before it
wait, if it finds anything left but its own piece: then twice as many are called.  So a queue of which every piece waits
has a task for each a few ticks later, and from then on at once, for what was needed last is called the next time.  With
each task that comes for nothing it is one less, down to two: the second is there in case that the first must wait.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

import trio

from ._engine import Engine

R = TypeVar("R")

#: Tasks without work that are kept.
IDLE: Final = 128
#: Tasks that are called for a queue of any length.
FEWEST: Final = 2


class Crew(Generic[R]):
    """Tasks of one nursery that wait for more when they have ended something.

    Each thing runs in a copy of the context in which the crew was made, as if its task had been started for it.
    """

    def __init__(self, nursery: trio.Nursery, work: Callable[[], Awaitable[None]], engine: Engine) -> None:
        """Make a crew.

        Args:
            nursery: where its tasks live.
            work: a task's whole life: it becomes a `Hand` of the crew, which gets it its pieces.
            engine: whose turns bring the pieces; a task without one stands in where it may.
        """
        self.context: Final = contextvars.copy_context()
        self.queue: Final[deque[R]] = deque()
        #: In the order in which they fell idle: the latest is the first to go on, as its memory is still warm.
        self.idle: Final[list[trio.lowlevel.Task]] = []
        #: What each of the tasks is here.
        self.hands: Final[dict[trio.lowlevel.Task, Hand[R]]] = {}
        self._nursery = nursery
        self._work = work
        self._engine = engine
        #: Tasks that were called, and have not come yet.
        self._called = 0
        #: Tasks that what comes together needs, as far as is known.
        self._needed = FEWEST

    def start(self, pieces: Iterable[R]) -> None:
        """Have tasks work at these, soon, and in this order."""
        self.queue.extend(pieces)
        self._call(min(len(self.queue), self._needed) - self._called)

    def _call(self, number: int) -> None:
        for _ in range(number):
            self._called += 1
            if self.idle:
                trio.lowlevel.reschedule(self.idle.pop())
            else:
                self.context.run(self._nursery.start_soon, self._work)

    def come(self) -> None:
        """A task that was called is there."""
        self._called -= 1
        if not self.queue:
            self._needed = max(self._needed - 1, FEWEST)
        elif not self._called and len(self.queue) > 1:
            self.call_more(len(self.queue) - 1)

    async def stand_in(self) -> bool:
        """Wait for news from the network, and take a turn at it: its first piece is the caller's.

        Returns:
            False if the caller may not, now: it is to be parked.
        """
        post = self._engine.free_post() if self._engine.lonely else None
        if post is None:
            return False
        if await post.stand_in():
            # It counts as called, so that the turn calls one less.
            self._called += 1
            self._engine.turn_in_passing()
            if self.queue:
                self.come()
            else:
                self._called -= 1
        return True

    def call_more(self, number: int) -> None:
        """So much is in the queue that no task will take: call some more."""
        self._needed *= 2
        self._call(min(number, self._needed))

    def leave(self) -> None:
        """A task takes nothing from the queue, though something may be there: see that others do."""
        if self.queue and not self._called:
            self.call_more(len(self.queue))

    @property
    def full(self) -> bool:
        """Whether as many tasks are idle as are kept: one that has nothing to do may as well end itself."""
        return len(self.idle) >= IDLE


class Hand(Generic[R]):
    """The calling task, as a part of a crew.

    Attributes:
        piece: what it works at; None while it waits.
    """

    __slots__ = ("_context", "_crew", "_task", "piece")

    def __init__(self, crew: Crew[R]) -> None:
        """Come, in a task that the crew has just started."""
        self.piece: R | None = None
        self._crew = crew
        self._task = trio.lowlevel.current_task()
        self._context = self._task.context
        crew.hands[self._task] = self
        crew.come()

    def take(self) -> R | None:
        """Take the next piece, if there is one, and the last one has left the task's context as it was."""
        crew = self._crew
        if not crew.queue or self._tainted:
            self.piece = None
        else:
            self.piece = crew.queue.popleft()
        return self.piece

    @property
    def scopes(self) -> object:
        """What stands for the cancel scopes and nurseries that the task is in: another one tells of another set."""
        return self._task._cancel_status  # nothing public tells

    @property
    def _tainted(self) -> bool:
        """Somebody has set a variable: the next piece must not see that."""
        try:
            # Some 20 nanoseconds where nobody has; a copy for each piece would need a switch of tasks for each.
            return self._context != self._crew.context
        except Exception:
            return True  # values that can't be compared

    async def next(self) -> R | None:
        """Wait for the next piece; None tells that there are tasks enough without this one."""
        crew = self._crew
        while (piece := self.take()) is None:
            crew.leave()
            if crew.full:
                return None
            self._context = self._task.context = crew.context.copy()
            if not await crew.stand_in():
                crew.idle.append(self._task)
                await trio.lowlevel.wait_task_rescheduled(self._abort)
                crew.come()
        return piece

    def leave(self) -> None:
        """Go, in a task that is about to end."""
        del self._crew.hands[self._task]

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._crew.idle.remove(self._task)
        return trio.lowlevel.Abort.SUCCEEDED

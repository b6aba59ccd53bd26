"""Virtual time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from ._internals import RunLoop

logger = logging.getLogger("zmdp_trio.testing")

#: Real seconds for which the clock may be held before it is logged who holds it.
PATIENCE: Final = 5.0


class VirtualClock(trio.abc.Clock):
    """A clock that jumps to the next deadline as soon as nothing else can happen, so that hours pass in no time.

        trio.run(main, clock=VirtualClock())

    It starts at 0.  It jumps when every task is blocked and no thread of `trio.to_thread` is at work, so a sync
    handler, or a file that is read, takes no time however long it runs.  A thread that called back and waits for Trio
    (`trio.from_thread`, or a sync handler's `request.send` that waits for credit) is not at work.  Nor is one that was
    abandoned when its task was cancelled: nobody waits for it.

    What it can't see is work elsewhere: in another process, at the other end of a socket, or in a thread that Trio
    did not start.  `hold` tells it of that.  Like Trio's `MockClock`, it leaves the precedence to tasks in
    `trio.testing.wait_all_tasks_blocked`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        #: Where to jump if nothing has come by the next look at the clock.
        self._next: float | None = None
        self._holds = 0
        self._held_since: float | None = None
        self._loop: RunLoop

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s>"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Stand still for as long as the block runs: something is at work that the clock can't see."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    # ---- for Trio

    def start_clock(self) -> None:
        """Begin a run."""
        self._loop = RunLoop()
        self._next = None

    def current_time(self) -> float:
        """Return the virtual time, in seconds."""
        if self._next is not None:
            # The run loop's own look, after it has looked for input.
            if not self._loop.busy:
                self._now = self._next
            self._next = None
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return the real seconds for which to wait for input; asked when no task can go on."""
        if deadline <= self._now:
            return 0
        if self._loop.watched:
            return math.inf
        if self._holds or self._loop.tasks_with_threads_at_work():
            return self._be_patient()
        self._held_since = None
        if deadline < math.inf:
            self._next = deadline
            return 0
        return math.inf

    def _be_patient(self) -> float:
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
        elif now >= self._held_since + PATIENCE:
            self._held_since = math.inf
            logger.warning("virtual time stands still: %s", self._holders())
        return min(PATIENCE, max(self._held_since + PATIENCE - now, 0.001))

    def _holders(self) -> str:
        holders = [f"a thread is at work for {task.name}" for task in self._loop.tasks_with_threads_at_work()]
        if self._holds:
            holders.append("somebody is in hold()")
        return "; ".join(holders)

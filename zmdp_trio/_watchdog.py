"""Notices when the event loop is blocked, and says by whom, where, and for how long.

Trio tells an instrument when the loop goes to wait for I/O, and when it is back; between the two is a turn, in which
tasks run.  A daemon thread, one per Trio run however many workers live in it, looks a few times a second whether the
turn is still the one that it saw last.  While the loop waits, the thread sleeps until the next turn wakes it: an idle
worker wakes nobody.  The loop itself is never woken, so that under a virtual clock nothing of this can be seen.

Time is real time, counted look by look, and a look that came late counts as two at most: a process that was stopped, or
a machine that was asleep, was not blocked.  Only what used the CPU meanwhile is charged for all of it, since C code
that holds the GIL keeps this thread from looking, too.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import attrs
import trio

logger = logging.getLogger("zmdp_trio.watchdog")

#: The status with which a process ends whose loop was blocked for longer than `hung_after`.
EXIT_HUNG: Final = 70
#: Looks within the shortest limit.
LOOKS: Final = 4
#: Seconds that a report may take to be written: what blocks the loop may block the log, too.
PATIENCE: Final = 2.0


@attrs.define(eq=False)
class Watched:
    """A worker, as its run's watchdog knows it.

    Attributes:
        describe: names the handler whose task this is, or returns None; called in the watchdog's thread.
        blocks: how often the loop was blocked.
        longest: seconds that the longest block took.
    """

    blocked_after: float
    hung_after: float
    describe: Callable[[trio.lowlevel.Task], str | None]
    blocks: int = 0
    longest: float = 0.0


@contextmanager
def watched_over(watched: Watched) -> Iterator[None]:
    """Watch the event loop for a worker, unless both of its limits are infinite."""
    if min(watched.blocked_after, watched.hung_after) == math.inf:
        yield
        return
    watchdog = _of_this_run.get() or Watchdog()
    watchdog.join(watched)
    try:
        yield
    finally:
        watchdog.leave(watched)


class Watchdog(trio.abc.Instrument):
    """One Trio run, watched from a thread, from its first worker to its last."""

    def __init__(self) -> None:
        self._loop = threading.get_ident()
        self._root = trio.lowlevel.current_root_task()
        self._watched: tuple[Watched, ...] = ()
        #: When the turn began that the loop is in; infinite while it waits.
        self._since = time.monotonic()
        #: Wakes the thread, which asks for it with one of two flags: at the next turn, or at the end of this one.
        self._nudge = threading.Event()
        self._parked = False
        self._reported = False
        self._ended = math.inf
        self._closed = False
        #: The thread's own: the turn that it saw last, the seconds that it saw of it, and who was blamed for them.
        self._turn = math.inf
        self._age = 0.0
        self._culprit = ""
        self._charged: set[Watched] = set()
        self._reports: list[tuple[Any, ...]] = []

    # ---- in the loop's thread

    def join(self, watched: Watched) -> None:
        """Watch for one worker more."""
        self._watched += (watched,)
        if len(self._watched) == 1:
            _of_this_run.set(self)
            trio.lowlevel.add_instrument(self)
            threading.Thread(target=self._run, name="zmdp watchdog", daemon=True).start()
        else:
            # It may be less patient than those before.
            self._nudge.set()

    def leave(self, watched: Watched) -> None:
        """Watch for one worker less; with the last one, the thread ends."""
        self._watched = tuple(each for each in self._watched if each is not watched)
        if not self._watched:
            _of_this_run.set(None)
            trio.lowlevel.remove_instrument(self)
            self.after_run()

    def before_io_wait(self, timeout: float) -> None:
        """The turn is over."""
        self._since = math.inf
        if self._reported:
            self._reported = False
            self._ended = time.monotonic()
            self._nudge.set()

    def after_io_wait(self, timeout: float) -> None:
        """A turn begins."""
        self._since = time.monotonic()
        if self._parked:
            self._parked = False
            self._nudge.set()

    def after_run(self) -> None:
        """The run is over, perhaps without a word to its workers."""
        self._closed = True
        self._nudge.set()

    # ---- in the watchdog's own

    def _run(self) -> None:
        stopwatch = Stopwatch()
        while not self._closed:
            if self._since == math.inf and not self._culprit:
                self._park()
            # An interval from here, however: this thread gets to run when the loop waits once more, and would have
            # itself woken at each turn for nothing, at some 10 microseconds of the loop's.
            interval = self._interval()
            if not self._closed:
                self._nudge.wait(interval)
            self._nudge.clear()
            self._look(stopwatch.lap(interval))
            self._write_reports()

    def _interval(self) -> float:
        """Seconds between two looks."""
        limits = [min(each.blocked_after, each.hung_after) for each in self._watched]
        return min(limits, default=1.0) / LOOKS

    def _park(self) -> None:
        """Sleep until a turn begins."""
        self._parked = True
        # Asked again: the loop may have been between its clock and the flag.
        if self._since == math.inf and not self._closed:
            self._nudge.wait()
        self._parked = False
        self._nudge.clear()

    def _look(self, lap: float) -> None:
        """Charge the turn with the time since the last look, and judge it."""
        now, turn = time.monotonic(), self._since
        if turn != self._turn:
            if self._culprit:
                self._end_block(lap - max(now - self._ended, 0.0))
            self._turn, self._age = turn, 0.0
            lap = min(lap, now - turn)
        if turn == math.inf:
            return
        self._age += lap
        for watched in self._watched:
            if self._age >= watched.blocked_after:
                self._charge(watched)
            if self._age >= watched.hung_after:
                self._end_process()

    def _charge(self, watched: Watched) -> None:
        """Count the block for a worker; for the first one, report it."""
        if watched not in self._charged:
            self._charged.add(watched)
            watched.blocks += 1
        watched.longest = max(watched.longest, self._age)
        if not self._culprit:
            self._culprit, stack = self._find_culprit()
            self._reported = True
            self._report(logging.WARNING, f"has been blocked for {self._age:.1f} s by {self._culprit}\n{stack}")

    def _end_block(self, lap: float) -> None:
        """The loop turns again."""
        self._age += max(lap, 0.0)
        for watched in self._charged:
            watched.longest = max(watched.longest, self._age)
        self._report(logging.WARNING, f"was blocked for {self._age:.1f} s by {self._culprit}; it turns again")
        self._charged.clear()
        self._culprit = ""

    def _end_process(self) -> None:
        """End a process that is of no more use: its brokers see the connections end."""
        culprit, stack = self._find_culprit()
        verdict = f"the process ends with status {EXIT_HUNG}"
        self._report(logging.CRITICAL, f"has been blocked for {self._age:.1f} s by {culprit}; {verdict}\n{stack}")
        self._write_reports(flush=True)
        os._exit(EXIT_HUNG)

    def _report(self, level: int, what: str) -> None:
        """Say something of the loop, when there is time to: logging lets other threads run, the loop's among them."""
        self._reports.append((level, "the event loop %s", what.rstrip()))

    def _write_reports(self, *, flush: bool = False) -> None:
        """Log, and wait for that a short while only."""
        reports, self._reports = self._reports, []
        if not reports:
            return

        def write() -> None:
            for report in reports:
                logger.log(*report)
            if flush:
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()

        writer = threading.Thread(target=write, name="zmdp watchdog's report", daemon=True)
        writer.start()
        writer.join(PATIENCE)

    def _find_culprit(self) -> tuple[str, str]:
        """Return who is at work in the loop's thread, and the stack of it."""
        frames = _frames_of(self._loop)
        task = self._running_task(set(frames))
        if task is not None:
            # What lies below it is Trio's.
            frames = frames[: frames.index(_frame_of(task)) + 1]
        where = [(frame, frame.f_lineno) for frame in reversed(frames)]
        who = self._describe(task)
        # Now files are read, and the loop may get to run.
        return who, "".join(traceback.StackSummary.extract(iter(where)).format())

    def _running_task(self, frames: set[FrameType]) -> trio.lowlevel.Task | None:
        """Find the task that has a frame on the stack.  To note it at each step of every task would cost too much."""
        tasks = [self._root] if self._root is not None else []
        while tasks:
            task = tasks.pop()
            if _frame_of(task) in frames:
                return task
            tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        return None

    def _describe(self, task: trio.lowlevel.Task | None) -> str:
        """Name the handler that a task belongs to, or the task."""
        each = task
        while each is not None:
            for watched in self._watched:
                if name := watched.describe(each):
                    return name
            each = each.parent_nursery and each.parent_nursery.parent_task
        return "what is no task" if task is None else f"the task {task.name!r}, which is no handler's"


class Stopwatch:
    """Measures real time for which a process was at work."""

    def __init__(self) -> None:
        self._real = time.monotonic()
        self._cpu = time.process_time()

    def lap(self, interval: float) -> float:
        """Return the seconds since the last lap: at most two intervals, if the process did not work meanwhile."""
        real, cpu = time.monotonic(), time.process_time()
        lap, worked = real - self._real, cpu - self._cpu
        self._real, self._cpu = real, cpu
        return lap if worked >= lap / 2 else min(lap, 2 * interval)


def _frames_of(thread: int) -> list[FrameType]:
    """Return a thread's frames, the innermost first."""
    frames = []
    frame = sys._current_frames().get(thread)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _frame_of(task: trio.lowlevel.Task) -> Any:
    """Return a task's outermost frame; None once it has ended."""
    return task.coro.cr_frame


_of_this_run: trio.lowlevel.RunVar[Watchdog | None] = trio.lowlevel.RunVar("zmdp watchdog", None)

"""Logging of what strangers cause: however much of it there is, few lines come out."""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

#: Characters of a peer's own words that a line has room for.
LONGEST: Final = 200


def plain(text: str) -> str:
    """Return a peer's words fit for one line of a log: without control characters, and cut if they are many."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text):,} characters)"
    return text if text.isprintable() else repr(text)[1:-1]


class LimitedLog:
    """Logs so many lines per interval, then counts the rest and tells how many they were.

    An interval begins with the first line after the one before.  `run` must run, for the last interval to be told of
    when nothing follows it.
    """

    def __init__(self, logger: logging.Logger, level: int, *, lines: int = 10, seconds: float = 10.0) -> None:
        """Make a log.

        Args:
            logger: where the lines go.
            level: what they are, such as `logging.WARNING`.
            lines: how many may come in one interval.
            seconds: its length, on Trio's clock.
        """
        self._logger = logger
        self._level = level
        self._lines = lines
        self._seconds = seconds
        self._left = 0
        self._ends = 0.0
        self._more = 0
        self._suppressing = trio.Event()

    def log(self, line: str, *, now: float) -> None:
        """Log a line, or count it."""
        if now >= self._ends:
            self.summarize()
            self._ends = now + self._seconds
            self._left = self._lines
        if self._left:
            self._left -= 1
            self._logger.log(self._level, "%s", line)
        else:
            self._more += 1
            self._suppressing.set()

    def summarize(self) -> None:
        """Tell how many lines were not logged, if any were not."""
        if self._more:
            self._logger.log(self._level, "... and %s more within %g s", f"{self._more:,}", self._seconds)
            self._more = 0
            self._suppressing = trio.Event()

    async def run(self) -> NoReturn:
        """Summarize each interval as it ends; never return."""
        while True:
            await self._suppressing.wait()
            ends = self._ends
            await trio.sleep_until(ends)
            if self._ends == ends:
                self.summarize()

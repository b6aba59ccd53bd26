"""Chance: ids that nobody can guess, and jitter.  A test may have both drawn from a seed, for the run that it is in."""

from __future__ import annotations

import random

import trio

_source: trio.lowlevel.RunVar[random.Random] = trio.lowlevel.RunVar("zmdp_chance", default=random.SystemRandom())


def chance() -> random.Random:
    """Return where this run's random numbers come from: the operating system, unless `seed_chance` was called."""
    return _source.get()


def seed_chance(seed: int) -> None:
    """Draw all that is random in this run from a seed.  For tests: whoever knows the seed can guess every id."""
    _source.set(random.Random(seed))


def jittered(seconds: float) -> float:
    """Return from 0.5 to 1.5 times as many seconds: so that those who lost the same thing don't all come at once."""
    return seconds * chance().uniform(0.5, 1.5)


class Backoff:
    """The pauses between attempts: each twice as long as the one before, up to a limit, and jittered."""

    def __init__(self, first: float, last: float) -> None:
        """Begin with a pause of `first` seconds; `last` is the limit."""
        self._first = first
        self._last = last
        self._next = first

    async def pause(self) -> None:
        """Wait before the next attempt."""
        seconds, self._next = self._next, min(2 * self._next, self._last)
        await trio.sleep(jittered(seconds))

    def reset(self) -> None:
        """Begin anew: an attempt was a success."""
        self._next = self._first

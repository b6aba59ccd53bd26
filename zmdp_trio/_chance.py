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

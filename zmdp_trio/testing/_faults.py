"""Faults at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .._transport import Frames
from .._transport.memory import Late, MemoryPort


class Faults:
    """A `Network.hook` that harms messages at random, and does the same again for the same seed.

        network.hook = Faults(seed=7, drop=0.01, double=0.01, delay=(0, 0.2), reorder=0.05)

    Sessions mend all of it.  A message holds all that one peer had for another at one moment, often many replies.

    Attributes:
        dropped: messages that were dropped so far.
        doubled: messages that arrive twice.
        reordered: copies that others may overtake.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        drop: float = 0,
        double: float = 0,
        reorder: float = 0,
        delay: float | tuple[float, float] = 0,
        late: float = 0.1,
    ) -> None:
        """Make a hook.

        Args:
            seed: what chance starts from.
            drop: the share of messages that never arrive, 0 to 1.
            double: the share of those left that arrive twice.
            reorder: the share of copies that are up to `late` seconds later still, and hold up nothing behind them.
            delay: the seconds that a copy takes: always the same, or the least and the most.
            late: see `reorder`.

        Raises:
            ValueError: a share is not from 0 to 1, or a time is negative.
        """
        for name, share in {"drop": drop, "double": double, "reorder": reorder}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share of the messages, from 0 to 1, not {share!r}")
        if not late >= 0:
            raise ValueError(f"late is seconds from 0 up, not {late!r}")
        self._dice = random.Random(seed)
        self._drop = drop
        self._double = double
        self._reorder = reorder
        self._delay = _least_and_most(delay)
        self._late = late
        self.dropped = self.doubled = self.reordered = 0

    def __call__(self, source: MemoryPort, target: MemoryPort, frames: Frames) -> Sequence[float]:
        """Decide one message's fate."""
        if self._dice.random() < self._drop:
            self.dropped += 1
            return ()
        if self._dice.random() < self._double:
            self.doubled += 1
            return (self._seconds(), self._seconds())
        return (self._seconds(),)

    def _seconds(self) -> float:
        seconds = self._dice.uniform(*self._delay)
        if self._dice.random() < self._reorder:
            self.reordered += 1
            return Late(seconds + self._dice.uniform(0, self._late))
        return seconds


def _least_and_most(delay: float | tuple[float, float]) -> tuple[float, float]:
    both = (delay, delay) if isinstance(delay, int | float) else tuple(delay)
    if not (len(both) == 2 and 0 <= both[0] <= both[1]):
        raise ValueError(f"delay is seconds from 0 up, or the least and the most of them, not {delay!r}")
    return both

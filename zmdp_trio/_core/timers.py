"""Deadlines of many things, of which most are called off before they come."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: A deadline that has come whenever a machine looks: what a link has found out is as good as sent by the other side.
NOW: Final = -math.inf


class Timers(Generic[K]):
    """One deadline per key: a heap that forgets called-off entries lazily, and never holds more of them than live ones.

    `set` and `cancel` cost a dict operation, and a heap push at most.
    """

    __slots__ = ("_count", "_heap", "_when", "now")

    def __init__(self) -> None:
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        #: What time it is, for those who share these timers: their machine keeps it so.
        self.now = 0.0

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, key: K) -> bool:
        return key in self._when

    def set(self, key: K, when: float) -> None:
        """Give `key` the deadline `when`, in place of any that it had; `math.inf` calls it off."""
        if when == math.inf:
            self._when.pop(key, None)
            return
        if self._when.get(key) == when:
            return
        self._when[key] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, key))
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._when):
            self._compact()

    def _compact(self) -> None:
        """Keep one entry per live key: the newest, where a deadline was moved away and back."""
        newest = {entry[2]: entry for entry in sorted(self._heap) if self._when.get(entry[2]) == entry[0]}
        self._heap = list(newest.values())
        heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Call off the deadline of `key`, if it has one."""
        self._when.pop(key, None)

    @property
    def deadline(self) -> float:
        """The next deadline; `math.inf` for none."""
        heap = self._heap
        while heap and self._when.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def pop_due(self, now: float) -> Iterator[K]:
        """Take out the keys whose deadlines have come, in order; those set meanwhile are seen too."""
        while self.deadline <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._when[key]
            yield key

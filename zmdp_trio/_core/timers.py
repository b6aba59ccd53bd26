"""Deadlines of many things, of which most are called off before they come."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)
#: When, which of all that were ever set, and whose it is.
Entry: TypeAlias = tuple[float, int, K]

#: A deadline that has come whenever a machine looks: what a link has found out is as good as sent by the other side.
NOW: Final = -math.inf
#: Entries that are looked through with each new one, while the heap is tidied up.
TIDIED: Final = 4


class Timers(Generic[K]):
    """One deadline per key: a heap that forgets called-off entries lazily, and soon has no more of them than live ones.

    `set` and `cancel` cost a dict operation and a few heap pushes at most, however many deadlines there are.  So the
    heap is not tidied up in one go, which would take a hundred milliseconds where 100,000 requests wait: a few entries
    at a time move from `_old` to `_heap`, from the old one's end, which leaves it a heap.
    """

    __slots__ = ("_count", "_heap", "_old", "_when", "now")

    def __init__(self) -> None:
        #: What stands for each key in one of the heaps.
        self._when: dict[K, Entry[K]] = {}
        self._heap: list[Entry[K]] = []
        self._old: list[Entry[K]] = []
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
        entry = self._when.get(key)
        if entry is not None and entry[0] == when:
            return
        self._count += 1
        entry = self._when[key] = (when, self._count, key)
        heapq.heappush(self._heap, entry)
        if self._old or (len(self._heap) > 64 and len(self._heap) > 2 * len(self._when)):
            self._tidy_up()

    def _tidy_up(self) -> None:
        if not self._old:
            self._old, self._heap = self._heap, []
        for entry in self._old[-TIDIED:]:
            if self._when.get(entry[2]) is entry:
                heapq.heappush(self._heap, entry)
        del self._old[-TIDIED:]

    def cancel(self, key: K) -> None:
        """Call off the deadline of `key`, if it has one."""
        self._when.pop(key, None)

    @property
    def deadline(self) -> float:
        """The next deadline; `math.inf` for none."""
        heap = self._heap
        while heap and self._when.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        deadline = heap[0][0] if heap else math.inf
        return min(deadline, self._old_deadline) if self._old else deadline

    @property
    def _old_deadline(self) -> float:
        old = self._old
        while old and self._when.get(old[0][2]) is not old[0]:
            heapq.heappop(old)
        return old[0][0] if old else math.inf

    def pop_due(self, now: float) -> Iterator[K]:
        """Take out the keys whose deadlines have come, in order; those set meanwhile are seen too."""
        while self.deadline <= now:
            first = min((heap for heap in (self._heap, self._old) if heap), key=lambda heap: heap[0])
            _, _, key = heapq.heappop(first)
            del self._when[key]
            yield key

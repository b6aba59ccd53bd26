"""How a worker's slots are shared out among the brokers that it serves.

A broker may have as many requests of a service running here as its lease says.  A lease is taken back by telling the
broker a smaller number; only when the broker has answered with the same number are the slots free for another, since
until then a request may be on its way.  So the leases, and what runs beside them, never exceed the concurrency.

Brokers begin with even shares.  From then on slots follow the demand: a broker whose lease is used up says how many
requests wait for more (`want`), and gets, as `balance` decides,

1. what others leave idle, but for one slot each, with which they can begin at once;
2. the half of what another has more than it, however busy that one is;
3. where there are fewer slots than brokers, and it has none: the slot of the one that has had its own for longest.

A broker without demand loses nothing while nobody else wants it.  Slots that were in use `SETTLE` ago are not idle, and
a turn takes as long: so leases don't flap with every request that comes and goes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import attrs

B = TypeVar("B")

#: Seconds that a slot counts as used after it was, and that a broker has it before others get their turn.
SETTLE: Final = 0.1


@attrs.define(eq=False)
class Lease:
    """One broker's part of one service's slots."""

    #: What the broker holds to, as far as is known.
    slots: int = 0
    #: What it was last told.
    told: int = 0
    #: What a greeting offers that was not answered yet.
    offered: int = 0
    #: Requests of this broker's session that run, or have not ended yet.
    running: int = 0
    #: What it is to be told, as soon as the slots for it are free.
    target: int = 0
    #: Requests that wait at the broker because its lease is used up.
    wanted: int = 0
    #: What it was told, in order, and has not answered.
    unanswered: deque[int] = attrs.Factory(deque)
    #: When it was last given something to wait for: its place among those that want more.
    asked: float = -math.inf
    #: When it last came to have a slot at all.
    since: float = -math.inf
    #: The broker knows that its lease is not all there is: it got a SLOTS, or nothing in the first place.
    announced: bool = True
    #: The most that ran at once since `_rolled`, and in the `SETTLE` before that.
    _peak: int = 0
    _before: int = 0
    _rolled: float = -math.inf

    @property
    def committed(self) -> int:
        """Slots that can't be given to another broker."""
        return max(self.slots, self.told, self.running + self.offered)

    @property
    def need(self) -> int:
        """Slots that the broker could use beside those that it will get anyway."""
        return max(self.wanted - max(self.target - self.told, 0), 0)

    def used(self, now: float) -> int:
        """Slots that are in use, or were a moment ago."""
        self._roll(now)
        return max(self.running, self._peak, self._before)

    def start(self, now: float) -> None:
        """Another request runs."""
        if now - self._rolled >= SETTLE:
            self._roll(now)
        self.running += 1
        if self.running > self._peak:
            self._peak = self.running

    def _roll(self, now: float) -> None:
        """Begin to count anew, where it is time."""
        age = now - self._rolled
        if age >= SETTLE:
            self._before = self._peak if age < 2 * SETTLE else 0
            self._peak, self._rolled = self.running, now


class Leases(Generic[B]):
    """The slots of one service, for brokers of any hashable kind."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        #: Slots of handlers that have not ended, though the session that they ran for is over.
        self.stray = 0
        self._leases: dict[B, Lease] = {}
        self._active: list[B] = []

    def lease(self, broker: B) -> Lease:
        """Return the lease of a broker, an empty one if it has none."""
        lease = self._leases.get(broker)
        if lease is None:
            lease = self._leases[broker] = Lease()
        return lease

    @property
    def running(self) -> int:
        """Slots in use, by requests of whatever session."""
        return self.stray + sum(lease.running for lease in self._leases.values())

    @property
    def contended(self) -> bool:
        """Some broker wants slots that others may have: `balance` is due when anything changes."""
        return len(self._active) > 1 and any(self._leases[broker].need for broker in self._active)

    # ---- sessions

    def offer(self, broker: B) -> int:
        """Return the slots to offer in a greeting, for the case that it opens a new session."""
        if broker not in self._active:
            for other in map(self.lease, self._active):
                other.announced = other.told in (0, self.concurrency)
            self._active.append(broker)
            self._share_evenly()
        lease = self.lease(broker)
        lease.offered = 0
        others = self._free() + lease.committed
        lease.offered = max(min(lease.target, others - lease.running), 0)
        return lease.offered

    def fresh(self, broker: B) -> None:
        """A broker took the offer for a new session; what ran for the old one has become stray."""
        lease = self.lease(broker)
        self.stray += lease.running
        lease.slots = lease.told = lease.offered
        lease.offered = lease.running = lease.wanted = 0
        lease.unanswered.clear()
        # All there is can only become less, by a SLOTS.
        lease.announced = len(self._active) == 1 or lease.told in (0, self.concurrency)

    def adopted(self, broker: B) -> Lease:
        """A broker goes on with a request of the session before, whose slot was stray; return its lease."""
        self.stray -= 1
        lease = self.lease(broker)
        lease.running += 1
        return lease

    def resumed(self, broker: B) -> None:
        """A broker goes on with the session that was: the offer is void, and so is the lease, until it is told."""
        lease = self.lease(broker)
        lease.offered = 0
        lease.announced = False

    def suspend(self, broker: B) -> None:
        """A connection is gone: nothing more can come over it, so others may have what does not run."""
        if broker in self._active:
            self._active.remove(broker)
            self._share_evenly()
            lease = self.lease(broker)
            lease.slots = lease.told = lease.offered = lease.target = lease.wanted = 0
            lease.unanswered.clear()

    def close(self, broker: B) -> None:
        """A session is over, and its lease with it; what runs for it keeps its slots until it ends."""
        self.suspend(broker)
        self.stray += self.lease(broker).running
        del self._leases[broker]

    # ---- what brokers say

    def acknowledged(self, broker: B, slots: int) -> None:
        """A broker holds to this lease from now on: never to more than it was told."""
        lease = self.lease(broker)
        if lease.unanswered:
            lease.unanswered.popleft()
        # What it was told since is in force from some moment on: nobody knows yet from which.
        lease.slots = min(max(slots, *lease.unanswered, 0), max(lease.slots, lease.told))

    def ask(self, broker: B) -> None:
        """Have a broker told its lease again, so that it says what waits there, though it shares us with nobody."""
        self.lease(broker).announced = False

    def has_work(self, broker: B) -> bool:
        """Whether requests run for a broker, or wait there, or whether that is not known yet."""
        lease = self.lease(broker)
        return bool(lease.running or lease.wanted or lease.unanswered)

    def want(self, broker: B, queued: int, now: float) -> None:
        """A broker has so many requests waiting for slots, now that its lease is used up; 0 if it has none any more."""
        lease = self.lease(broker)
        if not lease.wanted:
            lease.asked = now
        lease.wanted = min(queued, self.concurrency)

    # ---- what becomes of it

    def balance(self, now: float) -> float:
        """Let the targets follow the demand; return when to look again, though nothing else happens until then."""
        again = math.inf
        wanting = [lease for lease in map(self.lease, self._active) if lease.need]
        for lease in sorted(wanting, key=lambda each: each.asked):
            others = [other for other in map(self.lease, self._active) if other is not lease]
            self._take_idle(lease, others, now)
            self._even_out(lease, others, now)
            self._take_turn(lease, others, now)
            if lease.need and self._time_helps(lease, others):
                again = now + SETTLE
        return again

    def changes(self) -> Iterator[tuple[B, int]]:
        """Yield the leases that brokers are to be told of: first what is taken back, then what that leaves free."""
        for broker in self._active:
            lease = self.lease(broker)
            if lease.target < lease.told:
                lease.told = lease.target
                yield broker, self._telling(lease)
        for broker in self._active:
            lease = self.lease(broker)
            grown = min(lease.target, lease.committed + self._free())
            if grown > lease.told and lease.slots <= lease.told:
                lease.wanted = max(lease.wanted - (grown - lease.told), 0)
                lease.told = lease.slots = grown
            elif lease.announced:
                continue
            yield broker, self._telling(lease)

    def _telling(self, lease: Lease) -> int:
        lease.announced = True
        lease.unanswered.append(lease.told)
        return lease.told

    def _free(self) -> int:
        return self.concurrency - self.stray - sum(lease.committed for lease in self._leases.values())

    def _share_evenly(self) -> None:
        """What does not divide goes to those that came first."""
        share, rest = divmod(self.concurrency, max(len(self._active), 1))
        for place, broker in enumerate(self._active):
            self.lease(broker).target = share + (place < rest)

    def _take_idle(self, lease: Lease, others: list[Lease], now: float) -> None:
        least = self._least
        for other in sorted(others, key=lambda each: each.target - each.running, reverse=True):
            if not other.wanted:
                self._move(other, lease, min(other.target - max(other.used(now), least), lease.need), now)

    def _even_out(self, lease: Lease, others: list[Lease], now: float) -> None:
        for other in sorted(others, key=lambda each: each.target, reverse=True):
            self._move(other, lease, min((other.target - lease.target) // 2, lease.need), now)

    def _take_turn(self, lease: Lease, others: list[Lease], now: float) -> None:
        if lease.target == 0 and lease.need:
            holders = [other for other in others if other.target and now - other.since >= SETTLE]
            if holders:
                holder = min(holders, key=lambda each: each.since)
                holder.asked = now
                self._move(holder, lease, 1, now)

    def _move(self, source: Lease, lease: Lease, slots: int, now: float) -> None:
        if slots > 0:
            if not lease.target:
                lease.since = now
            source.target -= slots
            lease.target += slots
            lease.asked = now

    def _time_helps(self, lease: Lease, others: list[Lease]) -> bool:
        """Whether slots that were used a moment ago, or a turn that is not over, are all that is in the way."""
        if lease.target == 0:
            return True
        least = self._least
        return any(not other.wanted and other.target > max(other.running, least) for other in others)

    @property
    def _least(self) -> int:
        """What a broker keeps though it has nothing to do: one slot, if there are enough for all."""
        return min(self.concurrency // max(len(self._active), 1), 1)

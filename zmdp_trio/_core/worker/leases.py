"""How a worker's slots are shared out among the brokers that it serves.

A broker may have as many requests of a service running here as its lease says.  A lease is taken back by telling the
broker a smaller number; only when the broker has answered with the same number are the slots free for another, since
until then a request may be on its way.  So the leases, and what runs beside them, never exceed the concurrency.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs

B = TypeVar("B")


@attrs.define
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

    @property
    def committed(self) -> int:
        """Slots that can't be given to another broker."""
        return max(self.slots, self.told, self.running + self.offered)


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
        return self._leases.setdefault(broker, Lease())

    @property
    def running(self) -> int:
        """Slots in use, by requests of whatever session."""
        return self.stray + sum(lease.running for lease in self._leases.values())

    def offer(self, broker: B) -> int:
        """Return the slots to offer in a greeting, for the case that it opens a new session."""
        if broker not in self._active:
            self._active.append(broker)
        lease = self.lease(broker)
        lease.offered = 0
        others = self._free() + lease.committed
        lease.offered = max(min(self._target(broker), others - lease.running), 0)
        return lease.offered

    def fresh(self, broker: B) -> None:
        """A broker took the offer for a new session; what ran for the old one has become stray."""
        lease = self.lease(broker)
        self.stray += lease.running
        lease.slots = lease.told = lease.offered
        lease.offered = lease.running = 0

    def adopted(self, broker: B) -> None:
        """A broker goes on with a request of the session before, whose slot was stray."""
        self.stray -= 1
        self.lease(broker).running += 1

    def resumed(self, broker: B) -> None:
        """A broker went on with the session that was: the offer is void, the lease stands."""
        self.lease(broker).offered = 0

    def close(self, broker: B) -> None:
        """A session is over, and its lease with it; what runs for it keeps its slots until it ends."""
        if broker in self._active:
            self._active.remove(broker)
        self.stray += self.lease(broker).running
        del self._leases[broker]

    def acknowledged(self, broker: B, slots: int) -> None:
        """A broker holds to this lease from now on: never to more than it was told."""
        lease = self.lease(broker)
        lease.slots = min(slots, max(lease.slots, lease.told))

    def changes(self) -> Iterator[tuple[B, int]]:
        """Yield the leases that brokers are to be told of: first what is taken back, then what that leaves free."""
        for broker in self._active:
            lease = self.lease(broker)
            target = self._target(broker)
            if target < lease.told:
                lease.told = target
                yield broker, target
        for broker in self._active:
            lease = self.lease(broker)
            grown = min(self._target(broker), lease.committed + self._free())
            if grown > lease.told and lease.slots <= lease.told:
                lease.told = lease.slots = grown
                yield broker, grown

    def _free(self) -> int:
        return self.concurrency - self.stray - sum(lease.committed for lease in self._leases.values())

    def _target(self, broker: B) -> int:
        """An even share; what does not divide goes to those that came first."""
        share, rest = divmod(self.concurrency, len(self._active))
        return share + (self._active.index(broker) < rest)

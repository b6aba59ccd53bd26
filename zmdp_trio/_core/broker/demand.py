"""What the broker tells workers that other brokers share: that requests wait for more slots than it leases.

A worker is such a one if it leased no slot in its greeting, or changed a lease since.  While requests wait, it is told
once, and again after each SLOTS of its own; that none wait any more it is told `HOLD` later at the earliest.  So a
service whose queue fills and empties with every request costs two commands per `HOLD`, and a worker with a single
broker none at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ..._wire import commands as c

if TYPE_CHECKING:
    from .service import Offer, Service

#: Seconds between saying that requests wait, and saying that they don't.
HOLD: Final = 0.1


class Demand:
    """One service's; it is also the key of the timer at which `review` is due."""

    __slots__ = ("_change", "_told", "_untold", "service", "waiting")

    def __init__(self, service: Service) -> None:
        self.service = service
        #: What each shared worker was told, since it last spoke of its lease.
        self._told: dict[Offer, int] = {}
        #: Those of them that were told nothing, or that no request waits.
        self._untold: dict[Offer, None] = {}
        #: The workers know, or are about to, that requests wait.
        self.waiting = False
        #: When that may change next.
        self._change = 0.0

    @property
    def shared(self) -> bool:
        """There are workers that want to hear of it."""
        return bool(self._told)

    def forget(self, offer: Offer) -> None:
        """A worker serves no more."""
        self._told.pop(offer, None)
        self._untold.pop(offer, None)

    def leased(self, offer: Offer, now: float) -> float:
        """A shared worker spoke of its lease: tell it how things stand; return when to review them."""
        told, self._told[offer] = self._told.get(offer, 0), 0
        self._untold[offer] = None
        if self.service.queued:
            return self.queued(now)
        if told:
            self._put(offer, 0)
        return self._change if self.waiting else math.inf

    def queued(self, now: float) -> float:
        """A request has to wait: tell; return when to review that."""
        if not self.waiting and now < self._change:
            return self._change
        if not self.waiting:
            self.waiting = True
            self._change = now + HOLD
        self._tell()
        return self._change

    def review(self, now: float) -> float:
        """Tell who does not know it yet, or that no request waits any more; return when to review it again."""
        self._change = now + HOLD
        if self.service.queued:
            self.waiting = True
            self._tell()
            return self._change
        self.waiting = False
        for offer in [offer for offer, told in self._told.items() if told]:
            self._put(offer, 0)
        return math.inf

    def _tell(self) -> None:
        share = -(-self.service.queued // len(self._told)) if self._told else 0
        for offer in [offer for offer in self._untold if offer.running >= offer.lease]:
            self._put(offer, share)

    def _put(self, offer: Offer, queued: int) -> None:
        self._told[offer] = queued
        if queued:
            del self._untold[offer]
        else:
            self._untold[offer] = None
        offer.session.link.put(c.Wanted(self.service.name, queued))

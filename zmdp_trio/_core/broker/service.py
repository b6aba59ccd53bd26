"""A service: who offers it, and which of these gets the next job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs

from .demand import Demand
from .queue import Queue

if TYPE_CHECKING:
    from .job import Job
    from .session import Session

#: A worker whose batch is being filled may have this part of its slots taken, in excess of the least loaded worker.
#: So a worker with 100 slots is given 4 requests in one message, and one with less than 50 slots, as those that compute
#: have, what is due to it and no more.  With 100 workers that halves what a request costs the broker.
AHEAD: Final = 25


@attrs.define
class Counters:
    """What became of a service's requests.

    received = refused + replied + failed + cancelled + expired + lost + those still held, at every moment.
    """

    received: int = 0
    #: Turned away: the queue was full, the broker draining, or no worker there to take it.
    refused: int = 0
    replied: int = 0
    failed: int = 0
    cancelled: int = 0
    #: The deadline passed, in the queue or at the worker.
    expired: int = 0
    #: The worker was lost, and the request not allowed to run again.
    lost: int = 0
    #: Requests beside these, which joined the execution of another one with the same key.
    joined: int = 0

    def add(self, other: Counters) -> None:
        """Add another service's counters to these."""
        for field in attrs.fields(Counters):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Offer:
    """A worker's offer of one service: so many slots, so many of them taken."""

    __slots__ = ("lease", "running", "service", "session", "slots")

    def __init__(self, session: Session, service: Service) -> None:
        self.session = session
        self.service = service
        #: What the worker leased to us.
        self.lease = 0
        #: What of it we use: all, or nothing while too much is queued for the worker.
        self.slots = 0
        self.running = 0

    def __repr__(self) -> str:
        return f"<Offer {self.service.name!r} by {self.session.name} {self.running}/{self.slots}>"


class Service(Queue):
    """Queue and offers of one name.

    Offers with a free slot stand in `_levels` by how many of their slots are taken, each level in the order in which
    they came to it: so the least loaded, and of these the longest idle, is the first of the lowest level.  It gets the
    next job, and a few more as long as the batch with that one has not left: see `AHEAD`.
    """

    __slots__ = (
        "_filling",
        "_levels",
        "_lowest",
        "_named",
        "cancelling",
        "counters",
        "demand",
        "lost_at",
        "name",
        "offers",
        "running",
    )

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.offers: dict[Session, Offer] = {}
        self._levels: list[OrderedDict[Offer, None]] = [OrderedDict()]
        self._lowest = 0
        #: Who got the last job.
        self._filling: Offer | None = None
        #: The offers of the workers of one name.
        self._named: dict[str, dict[Offer, None]] = {}
        self.counters = Counters()
        self.demand = Demand(self)
        self.running = self.cancelling = 0
        #: When its last worker was lost without a word; None if that did not happen.
        self.lost_at: float | None = None

    def __repr__(self) -> str:
        return f"<Service {self.name!r} queued={self.queued} running={self.running} workers={len(self.offers)}>"

    @property
    def unused(self) -> bool:
        """Nobody offers it and nobody waits for it."""
        return not (self.offers or self.queued or self.running or self.cancelling)

    def add_offer(self, offer: Offer) -> None:
        """A worker comes to serve."""
        self.offers[offer.session] = offer
        self._named.setdefault(offer.session.name, {})[offer] = None
        self.lost_at = None
        self._enter(offer)

    def remove_offer(self, offer: Offer) -> None:
        """A worker serves no more; what it runs is not affected."""
        self._leave(offer)
        del self.offers[offer.session]
        namesakes = self._named[offer.session.name]
        del namesakes[offer]
        if not namesakes:
            del self._named[offer.session.name]
        self.demand.forget(offer)
        offer.slots = 0
        if self._filling is offer:
            self._filling = None

    def set_slots(self, offer: Offer, slots: int) -> None:
        """A lease was changed."""
        self._leave(offer)
        offer.slots = slots
        self._enter(offer)

    def take_slot(self, offer: Offer) -> None:
        """A job goes to this worker."""
        levels, level, slots = self._levels, offer.running, offer.slots
        offer.running = above = level + 1
        if level >= slots:
            return
        here = levels[level]
        if above == slots:
            del here[offer]
            return
        if above == len(levels):
            levels.append(OrderedDict())
        if len(here) == 1 and not levels[above]:
            # Alone, as the only worker is: the level moves with it, in half the time.
            levels[level], levels[above] = levels[above], here
        else:
            del here[offer]
            levels[above][offer] = None

    def free_slot(self, offer: Offer) -> None:
        """A job of this worker is over."""
        levels, level, slots = self._levels, offer.running, offer.slots
        offer.running = below = level - 1
        if level >= slots:
            self._enter(offer)
            return
        here = levels[level]
        if len(here) == 1 and not levels[below]:
            levels[level], levels[below] = levels[below], here
        else:
            del here[offer]
            levels[below][offer] = None
        if below < self._lowest:
            self._lowest = below

    def _enter(self, offer: Offer) -> None:
        level = offer.running
        if level >= offer.slots:
            return
        while level >= len(self._levels):
            self._levels.append(OrderedDict())
        self._levels[level][offer] = None
        if level < self._lowest:
            self._lowest = level

    def _leave(self, offer: Offer) -> None:
        level = offer.running
        if level < offer.slots:
            del self._levels[level][offer]

    def least_loaded(self) -> Offer | None:
        """Return the offer that the next job goes to; None when no slot is free."""
        levels = self._levels
        level = self._lowest
        while level < len(levels):
            if levels[level]:
                self._lowest = level
                return next(iter(levels[level]))
            level += 1
        self._lowest = level
        return None

    def next_offer(self) -> Offer | None:
        """Return the offer that a job which any worker may have goes to; None when no slot is free."""
        least, filling = self.least_loaded(), self._filling
        if least is filling or least is None:
            return least
        if filling is not None and filling.session.link.outbox:
            # One more request in a message costs 3 microseconds here, a message of its own 15.
            limit = least.running + filling.slots // AHEAD
            if filling.running < limit and filling.running < filling.slots:
                return filling
        self._filling = least
        return least

    def offer_for(self, job: Job) -> Offer | None:
        """Return the offer that this job goes to; None when no slot that it may have is free."""
        if not job.choosy:
            return self.next_offer()
        if job.wanted is None:
            # At most as many as have rejected it are passed over.
            by_load = chain.from_iterable(self._levels[self._lowest :])
            return next((offer for offer in by_load if job.suits(offer)), None)
        fit = [offer for offer in self._offers_of(job.wanted) if offer.running < offer.slots and job.suits(offer)]
        return min(fit, key=lambda offer: offer.running, default=None)

    def served(self, job: Job) -> bool:
        """Whether some worker may have this job, now or when it has a slot."""
        if not job.choosy:
            return bool(self.offers)
        return any(job.suits(offer) for offer in self._offers_of(job.wanted))

    def offered_by(self, wanted: str | None) -> bool:
        """Whether a worker of this name offers it; any worker, with None."""
        return bool(self._offers_of(wanted))

    def has_slot(self, wanted: str | None) -> bool:
        """Whether a worker of this name has a free slot; any worker, with None."""
        if wanted is None:
            return self.least_loaded() is not None
        return any(offer.running < offer.slots for offer in self._offers_of(wanted))

    def _offers_of(self, wanted: str | None) -> Collection[Offer]:
        """Return the offers of the workers of this name; all, with None."""
        return self.offers.values() if wanted is None else self._named.get(wanted, ())

"""Which service a request goes to, or waits for: the broker's table of services, and how jobs move between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from ..._errors import Overloaded
from ..._settings import Settings
from ..._wire import commands as c
from ..timers import Timers
from .job import Job
from .routing import MAX_RANGES, VERSION, Names, Routes
from .service import Counters, Offer, Service


class Placement(ABC):
    """Services, by the names that are offered or asked for, and the one that each job belongs to."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._services: dict[str, Service] = {}
        self._routes = Routes()
        #: Services that requests have waited for though no worker was there for them.
        self._lacking = Names()
        self._timers: Timers[Any] = Timers()
        #: What became of the requests for services that are forgotten.
        self.forgotten = Counters()

    @abstractmethod
    def _dispatch(self, job: Job, now: float, *, accepted: bool = False, first: bool = False) -> None:
        """Give a job to a worker, or let it wait."""

    @abstractmethod
    def _await_worker(self, job: Job, now: float) -> None:
        """Watch a queued job's deadline, and if no worker is there for it, the wait for one to appear."""

    # ---- services

    def _service(self, name: str, *, at_any_rate: bool = False) -> Service | None:
        """Return the service of this name, a new one if there is none; None if there are too many."""
        service = self._services.get(name)
        if service is None and (at_any_rate or len(self._services) < self.settings.broker_services):
            service = self._services[name] = Service(name)
        return service

    def _forget_service(self, service: Service) -> None:
        """Let go of a service that nobody offers, waits for, or lost lately."""
        if service.unused and service not in self._timers and self._services.get(service.name) is service:
            del self._services[service.name]
            self._routes.remove(service)
            self._lacking.discard(service.name)
            self._timers.cancel(service.demand)
            self.forgotten.add(service.counters)

    # ---- requests

    def _find(self, name: str, wanted: str | None) -> Service | None:
        """Return the service that a request for a name goes to; None if nobody is there for it.

        Args:
            name: what is asked for: a plain name, or one with a range of versions.
            wanted: only a worker of this name will do; None for any.
        """
        service = self._services.get(name)
        if service is not None and service.offered_by(wanted):
            return service
        return self._routes.find(name, wanted)

    def _look_for(self, request: c.Request) -> Service:
        """Return the service that a request goes to, or waits for.

        Raises:
            InvalidArgument: its name has a range in it that can't be read.
            Overloaded: there are too many services, or too many ranges of one.
        """
        name = request.service
        service = self._find(name, request.worker) or self._services.get(name)
        if service is not None:
            return service
        parts = self._routes.read(name)
        if parts is not None and self._lacking.count(parts[0] + VERSION) >= MAX_RANGES:
            raise self._overloaded(f"requests for {MAX_RANGES:,} ranges of {parts[0]!r} wait for a version of it")
        service = self._service(name)
        if service is None:
            known = f"{self.settings.broker_services:,} services are known"
            raise self._overloaded(f"{known}, and this is not one of them")
        return service

    # ---- jobs

    def _server_of(self, job: Job) -> Service | None:
        """Return where a job goes now: to its service while that is offered, then wherever it would if it came now."""
        return job.service if job.service.offered_by(job.wanted) else self._find(job.asked, job.wanted)

    def _place_of(self, job: Job) -> Service:
        """Return where a job goes, or waits: if nobody is there for it, under the name that was asked for."""
        service = self._server_of(job) or self._service(job.asked, at_any_rate=True)
        assert service is not None
        return service

    def _move(self, job: Job, service: Service) -> None:
        """Enter a job, which is in no queue, into another service's books."""
        before = job.service
        before.counters.received -= 1
        service.counters.received += 1
        job.service = service
        if not before.offers:
            self._forget_service(before)

    def _seek(self, job: Job, now: float) -> None:
        """A queued job's worker is gone, or another one has come: let it wait where it belongs now."""
        service = self._place_of(job)
        if service is job.service:
            self._await_worker(job, now)
            return
        self._timers.cancel(job)
        job.service.dequeue(job)
        self._move(job, service)
        self._dispatch(job, now, accepted=True)

    def _seek_all(self, offer: Offer, prefix: str, now: float) -> None:
        """A worker offers what names with this prefix may stand for: let those go there that wait in vain."""
        for name in self._lacking.beginning_with(prefix):
            if not self._routes.fits(offer.service, name):
                continue
            service = self._services[name]
            for job in in_order(service.queued_jobs()):
                suitable = job.wanted in (None, offer.session.name)
                if suitable and self._server_of(job) not in (None, service):
                    self._seek(job, now)
            if not service.queued:
                self._lacking.discard(name)

    def _lately_lost(self, job: Job) -> bool:
        """Whether a service that the job could have gone to has lost its last worker, without a word."""
        services = (job.service, *self._routes.matching(job.asked))
        return any(service.lost_at is not None for service in services)

    # ---- errors of the broker's own

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded(message, details={"retry_after": self.settings.appear})


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs as they came."""
    return sorted(jobs, key=lambda job: job.id)

"""From the queue to a worker; and back, where the worker is lost, or will not run what it got."""

from __future__ import annotations

import math
from abc import abstractmethod

from ..._errors import (
    BrokerLost,
    MessageTooLarge,
    RequestError,
    RequestRejected,
    ServiceNotFound,
    Unavailable,
    WorkerLost,
)
from ..._settings import Settings
from ..._wire import commands as c
from ..weights import request_weight
from .endings import Endings
from .job import CANCELLING, DISPATCHED, INFINITE, Job, JobInput
from .placement import in_order
from .service import Offer, Service
from .session import Session


class Dispatcher(Endings):
    """The jobs' side of the broker: who gets them, and when."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Until when peers may come back that were with the broker before this one; there may have been none.
        self._recovery_ends = -math.inf

    @abstractmethod
    def _drop(self, session: Session, reason: str, now: float) -> None:
        """A peer broke the protocol, or does not read: forget it, tell it once, ignore it."""

    # ---- dispatch

    def _dispatch(self, job: Job, now: float, *, accepted: bool = False, first: bool = False) -> None:
        """Give a job to a worker, or let it wait.

        Args:
            job: one in no queue.
            now: on the machine's clock.
            accepted: it has waited before: it is not refused for want of room.
            first: it waits before all others of its client.
        """
        if job.deadline <= now:
            self._expire(job)
            return
        offer = job.service.offer_for(job)
        if offer is None:
            self._enqueue(job, now, accepted=accepted, first=first)
        else:
            self._give(job, offer, now)

    def _give(self, job: Job, offer: Offer, now: float) -> None:
        limit = offer.session.limits.message
        if job.size > limit and len(job.request.body) > limit:  # type: ignore[union-attr, arg-type]
            self._refuse(job, MessageTooLarge(f"the payload is above the {limit:,} bytes that the worker takes"))
            return
        if job.given:
            self._tell_retries(job)
        job.state = DISPATCHED[job.state]
        job.offer = offer
        job.given = True
        service, worker, request, size = job.service, offer.session, job.request, job.size
        assert request is not None
        service.take_slot(offer)
        service.running += 1
        request.id = id = job.id
        worker.held[id] = job
        if request.service != service.name or request.asked:
            request.service = service.name
            request.asked = "" if job.asked == service.name else job.asked
            size = request_weight(request)
        request.peer = job.client.name
        request.caller, request.call = job.owner.digest, job.client_id
        request.messages, request.bytes = job.messages, job.bytes
        request.left = job.deadline - now if job.deadline < INFINITE else None
        link = worker.link
        link.put(request, size)
        if link.outbox_bytes > self.settings.outbox:
            self._choke(worker)

    def _tell_retries(self, job: Job) -> None:
        """A job runs again: tell whose request it is, for the case that this broker is lost next."""
        spent = job.request is not None and job.retries < job.request.retry
        if spent and job.client_id in job.owner.requests:
            job.owner.link.put(c.Heartbeat([c.Held(job.client_id, None, job.retries)]))

    def _enqueue(self, job: Job, now: float, *, accepted: bool = False, first: bool = False) -> None:
        service, settings = job.service, self.settings
        full = (
            service.queued >= settings.queue_requests
            or service.queued_bytes + job.size > settings.queue_bytes
            or service.waiting(job.owner) >= settings.client_queue
        )
        if (full and not accepted) or service.too_choosy(job):
            self._refuse(job, self._overloaded(f"{service.queued:,} requests are waiting for {service.name!r}"))
            return
        service.enqueue(job, first=first)
        self._await_worker(job, now)
        if service.demand.shared and not service.demand.waiting:
            self._timers.set(service.demand, service.demand.queued(now))

    def _await_worker(self, job: Job, now: float) -> None:
        """Watch a queued job's deadline, and if no worker is there for it, the wait for one to appear."""
        served = job.service.served(job)
        if not served:
            self._lacking.add(job.service.name)
        job.appear = math.inf if served else max(now + job.owner.appear, self._recovery_ends)
        self._timers.set(job, min(job.deadline, job.appear))

    def _feed(self, offer: Offer, now: float) -> None:
        """Give a worker what waits, as long as it has free slots."""
        service = offer.service
        while offer.running < offer.slots and service.queued:
            job = service.next_job(offer)
            if job is None:
                return
            self._timers.cancel(job)
            if job.deadline <= now:
                self._expire(job)
            else:
                self._give(job, offer, now)

    def _choke(self, worker: Session) -> None:
        """Too much is queued for this worker: give it no more until it has read some."""
        worker.choked = True
        for offer in worker.offers.values():
            offer.service.set_slots(offer, 0)

    def _unchoke(self, worker: Session, now: float) -> None:
        worker.choked = False
        for offer in worker.offers.values():
            offer.service.set_slots(offer, offer.lease)
            self._feed(offer, now)

    def _settle(self, job: Job, event: JobInput, now: float) -> None:
        """A worker is done with a job, one way or another: its slot is free for the next."""
        offer = self._withdraw(job)
        self._end(job, event)
        if offer.service.queued:
            self._feed(offer, now)

    # ---- jobs that wait for too long

    def _on_job_timer(self, job: Job, now: float) -> None:
        """A queued job's deadline has come, or no worker has."""
        if job.deadline <= now:
            job.service.dequeue(job)
            self._expire(job)
        elif job.service.served(job) or now < self._recovery_ends:
            self._await_worker(job, now)
        elif job.retries and self._lately_lost(job):
            job.retries -= 1
            self._await_worker(job, now)
        else:
            job.service.dequeue(job)
            self._refuse(job, self._absent(job))

    def _absent(self, job: Job) -> RequestError:
        name = job.asked
        if job.rejected_by is not None:
            return RequestRejected("every worker rejected it")
        details = None if job.given else c.NOT_RUN
        if job.wanted is not None:
            return ServiceNotFound(f"no worker {job.wanted!r} offers {name!r}", details=details)
        if self._lately_lost(job):
            return Unavailable(f"the last worker that offered {name!r} was lost", details=details)
        return ServiceNotFound(f"no worker offers {name!r}", details=details)

    # ---- workers that leave

    def _remove_worker(self, session: Session, now: float, *, lost: bool) -> None:
        """A worker is gone for good: its jobs run again where they may, and are lost where not."""
        self._remove_offers(session, now, lost=lost)
        for job in list(session.held.values()):
            cancelling = job.state is CANCELLING
            self._withdraw(job)
            if cancelling:
                job.service.counters.cancelled += 1
                self._end(job, JobInput.LOSE)
            elif job.retries and not job.partials:
                job.retries -= 1
                self._again(job, now)
            else:
                job.service.counters.lost += 1
                self._tell(job, WorkerLost(f"worker {session.name} was lost"))
                self._end(job, JobInput.LOSE)

    def _remove_offers(self, session: Session, now: float, *, lost: bool) -> None:
        """A worker takes no more work."""
        offers, session.offers = session.offers, {}
        for offer in offers.values():
            offer.service.remove_offer(offer)
        for offer in offers.values():
            service = offer.service
            if not service.offers:
                self._orphan_service(service, now, lost=lost)
                continue
            for job in service.choosy_jobs():
                if job.appear == math.inf:
                    self._seek(job, now)

    def _orphan_service(self, service: Service, now: float, *, lost: bool) -> None:
        """The last worker of a service is gone: what waits goes elsewhere, or gets a little time for one to appear."""
        if lost:
            service.lost_at = now
            self._timers.set(service, now + self.settings.resume)
        for job in in_order(service.queued_jobs()):
            self._seek(job, now)
        self._forget_service(service)

    def _again(self, job: Job, now: float) -> None:
        """Put a job that a worker had back, before all others of its client."""
        job.step(JobInput.REQUEUE)
        service = self._place_of(job)
        if service is not job.service:
            self._move(job, service)
        self._dispatch(job, now, accepted=True, first=True)

    def _rejected(self, job: Job, now: float) -> None:
        """A worker would not run a job: ask one that has not been asked, or tell the caller."""
        offer = self._withdraw(job)
        if job.state is CANCELLING:
            job.service.counters.cancelled += 1
            self._end(job, JobInput.FAIL)
        elif job.request is None:
            self._refuse(job, BrokerLost("a worker rejected it, and its payload was lost with the broker"))
        else:
            job.reject(offer.session)
            service = self._server_of(job)
            if service is not None and service.served(job):
                self._again(job, now)
            else:
                self._refuse(job, RequestRejected("every worker rejected it"))
        self._feed(offer, now)

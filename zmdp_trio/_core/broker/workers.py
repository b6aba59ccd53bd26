"""What the commands of workers do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..._errors import BrokerLost, Code, DeadlineExceeded, ProtocolError, RequestError
from ..._settings import Settings
from ..._wire import commands as c
from ..shared import is_reserved
from ..weights import weight
from .dispatcher import Dispatcher
from .job import REPLY, RUNNING, Job, JobInput
from .keys import KeyedClient
from .legacy import GiveUp
from .routing import MAX_VERSIONS
from .service import Offer
from .session import Session

#: Bytes of an error's text and details that a worker may send.
MAX_ERROR: Final = 128 * 2**10
#: The same, of an error that its caller gets though it does not read: what we would say instead is no shorter.
SHORT_ERROR: Final = 256
#: Services that a worker may offer.
MAX_SERVICES: Final = 4_096
#: Answers that may wait for a worker: what clients have sent to it is not held against it.
MAX_ANSWERS: Final = 10_000


class WorkerCommands(Dispatcher):
    """The broker's side of its workers: replies, leases, and draining."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Replies to requests that nobody waits for any more.
        self.late_replies = 0

    def _on_partial(self, session: Session, partial: c.Partial, now: float) -> None:
        job = session.held.get(partial.id)
        if job is None:
            self.late_replies += 1
            return
        size = len(partial.body)  # type: ignore[arg-type]
        if job.messages <= 0 or job.bytes <= 0 or size > self.settings.max_message:
            raise ProtocolError(f"request {partial.id}: a partial reply without credit, or too large")
        job.messages -= 1
        job.bytes -= size
        job.partials += 1
        if job.state is RUNNING:
            if size > job.client.limits.message:
                self._tell(job, self._unwelcome(job.client, size))
                self._leave(job, now)
                return
            self._let_go(job)
            partial.id = job.client_id
            link = job.client.link
            link.put(partial, size)
            if link.outbox_bytes > 2 * self.settings.outbox:
                # Up to half of it may be final replies, which nobody grants credit for.
                self._drop(job.owner, "it does not read what it asked for", now)

    def _unwelcome(self, client: Session | KeyedClient, size: int) -> RequestError:
        return RequestError(f"a reply of {size:,} bytes, the caller takes {client.limits.message:,}")

    def _on_final(self, session: Session, final: c.Final, now: float) -> None:
        job = session.held.get(final.id)
        if job is None:
            self.late_replies += 1
            return
        if job.state is RUNNING:
            self._reply(job, final)
        else:
            job.service.counters.cancelled += 1
        self._settle(job, REPLY, now)

    def _reply(self, job: Job, final: c.Final) -> None:
        size, client, settings = len(final.body), job.client, self.settings  # type: ignore[arg-type]
        link = client.link
        if size > settings.max_message:
            raise ProtocolError(f"request {final.id}: a reply of {size:,} bytes")
        if size and link.outbox_bytes + size > settings.outbox:
            job.service.counters.failed += 1
            self._tell(job, self._overloaded("the reply was dropped: the caller does not read"))
            return
        if size > client.limits.message:
            job.service.counters.failed += 1
            self._tell(job, self._unwelcome(client, size))
            return
        job.service.counters.replied += 1
        final.id = job.client_id
        link.put(final, size)

    def _on_error(self, session: Session, error: c.Error, now: float) -> None:
        job = session.held.get(error.id)
        if job is None:
            self.late_replies += 1
            return
        if len(error.code) + len(error.reason) + len(error.message) + len(error.details) > MAX_ERROR:
            raise ProtocolError(f"request {error.id}: an error above {MAX_ERROR:,} bytes")
        counters = job.service.counters
        too_early = self._too_early(job, error, now)
        if too_early and job.request is not None:
            offer = self._withdraw(job)
            self._again(job, now)
            self._feed(offer, now)
            return
        if job.state is not RUNNING:
            counters.cancelled += 1
        elif too_early:
            counters.failed += 1
            self._tell(job, BrokerLost("its worker gave it up too early, and its payload was lost with the broker"))
        else:
            if error.code == Code.DEADLINE_EXCEEDED.value:
                counters.expired += 1
            else:
                counters.failed += 1
            self._pass_on(job, error)
        self._settle(job, JobInput.FAIL, now)

    def _too_early(self, job: Job, error: c.Error, now: float) -> bool:
        """Whether a worker gave a keyed request up before it heard that somebody with more time had joined.

        Such an outcome is not remembered: who had come a moment later would have had it run anew, and so has this one.
        """
        if error.reason != DeadlineExceeded.reason or job.state is not RUNNING or job.partials:
            return False
        return isinstance(job.client, KeyedClient) and job.client.joined and now < job.deadline

    def _pass_on(self, job: Job, error: c.Error) -> None:
        """Give a caller a worker's error, or a short one if too much waits for it."""
        size = weight(error)
        link = job.client.link
        if size > SHORT_ERROR and link.outbox_bytes + size > self.settings.outbox:
            self._tell(job, self._overloaded("the error was dropped: the caller does not read"))
            return
        error.id = job.client_id
        link.put(error, size)

    def _on_give_up(self, session: Session, command: GiveUp, now: float) -> None:
        """A request ends for its caller, though its worker goes on."""
        job = session.held.get(command.error.id)
        if job is not None and job.state is RUNNING:
            self._pass_on(job, command.error)
            self._leave(job, now)

    def _on_reject(self, session: Session, command: c.Reject, now: float) -> None:
        job = session.held.get(command.id)
        if job is None:
            self.late_replies += 1
        elif job.partials:
            raise ProtocolError(f"request {command.id} was rejected after a partial reply")
        else:
            self._rejected(job, now)

    def _on_worker_heartbeat(self, session: Session, heartbeat: c.Heartbeat, now: float) -> None:
        for held in heartbeat.held:
            job = session.held.get(held.id)
            if job is not None and job.state is RUNNING:
                job.client.link.put_heartbeat(job.client_id)

    def _on_slots(self, session: Session, command: c.Slots, now: float) -> None:
        """A worker changes a lease, or offers a service that it did not before."""
        if session.draining:
            return
        offer = session.offers.get(command.service)
        if offer is None:
            self._on_offers(session, [c.Offer(command.service, command.slots)], now)
            return
        self._answer(session, command)
        self._set_lease(offer, command.slots)
        self._feed(offer, now)
        self._note_shared(offer, now)

    def _on_offers(self, session: Session, offers: Sequence[c.Offer], now: float) -> None:
        """A worker offers services: all of them stand before the first request is given to it."""
        added = {self._add_offer(session, each): each for each in offers}
        for offer in added:
            self._feed(offer, now)
        for offer in added:
            prefix = self._routes.prefix(offer.service)
            if prefix is not None:
                self._seek_all(offer, prefix, now)
        for offer, each in added.items():
            if not each.slots:
                # It has other brokers too.
                self._note_shared(offer, now)

    def _add_offer(self, session: Session, each: c.Offer) -> Offer:
        offer = session.offers.get(each.service)
        if offer is None:
            if not 0 < len(each.service.encode()) <= self.settings.max_service_name:
                raise ProtocolError("an offer of a service whose name is empty or too long")
            if is_reserved(each.service):
                raise ProtocolError(f"an offer of {each.service!r}, which the broker answers itself")
            if len(session.offers) >= MAX_SERVICES:
                raise ProtocolError("too many services")
            service = self._service(each.service)
            if service is None:
                raise ProtocolError(f"{self.settings.broker_services:,} services are known, this broker takes no more")
            if not self._routes.add(service):
                self._forget_service(service)
                raise ProtocolError(f"{MAX_VERSIONS} versions of {each.service!r} are known, this broker takes no more")
            offer = session.offers[each.service] = Offer(session, service)
            service.add_offer(offer)
            self._timers.cancel(service)
        self._set_lease(offer, each.slots)
        return offer

    def _set_lease(self, offer: Offer, slots: int) -> None:
        offer.lease = slots
        if not offer.session.choked:
            offer.service.set_slots(offer, slots)

    def _note_shared(self, offer: Offer, now: float) -> None:
        """A worker that leases nothing yet, or changes a lease, has other brokers too: tell it what waits here."""
        demand = offer.service.demand
        self._timers.set(demand, demand.leased(offer, now))

    def _on_drain(self, session: Session, command: c.Drain, now: float) -> None:
        session.draining = True
        self._remove_offers(session, now, lost=False)
        self._answer(session, c.Drained())

    def _answer(self, session: Session, command: c.Command) -> None:
        if not session.link.outbox:
            session.answers = 0
        session.answers += 1
        if session.answers > MAX_ANSWERS:
            raise ProtocolError("it does not read the answers to its commands")
        session.link.put(command)


#: What a worker may send, and what it does.
WORKER_COMMANDS: Final[dict[type[c.Command], Any]] = {
    c.Partial: WorkerCommands._on_partial,
    c.Final: WorkerCommands._on_final,
    c.Error: WorkerCommands._on_error,
    c.Reject: WorkerCommands._on_reject,
    c.Heartbeat: WorkerCommands._on_worker_heartbeat,
    c.Slots: WorkerCommands._on_slots,
    c.Drain: WorkerCommands._on_drain,
    GiveUp: WorkerCommands._on_give_up,
}

"""What the commands of clients do."""

from __future__ import annotations

from typing import Any, Final

from ..._errors import InvalidArgument, ProtocolError, RequestError, Unavailable
from ..._wire import commands as c
from ..shared import is_reserved
from ..weights import headers_size, request_weight, weight
from .awaited import AwaitedKeys
from .claims import Claim
from .directory import Directory
from .job import JOB_BYTES, Job, deadline_of
from .keys import Caller, KeyedClient
from .service import Service
from .session import Session

#: Bytes that may wait for a client that asks the broker itself: answers can be long where questions are short.
ANSWERS_WAITING: Final = 4 * 2**20


class ClientCommands(AwaitedKeys):
    """The broker's side of its clients: requests, credit, and leaving."""

    _directory: Directory

    def _on_request(self, session: Session, request: c.Request, now: float) -> None:
        requests, id = session.requests, request.id
        if id in requests:
            raise ProtocolError(f"request {id} came twice")
        service = self._services.get(request.service)
        # The name of a service that is offered was looked at when it was.
        if service is None or not service.offers or request.worker is not None or request.key is not None:
            service = self._service_for(session, request)
            if service is None:
                return
        size = request_weight(request)
        self._next_job += 1
        if request.key is None:
            requests[id] = job = Job(self._next_job, session, session, service, request, size, now)
        else:
            entry = self._keyed_client(session, request, service, now)
            if entry is None:
                return
            entry.requests[id] = entry.job = job = Job(self._next_job, entry, session, service, request, size, now)
        self._ledger.bytes += size + JOB_BYTES
        service.counters.received += 1
        error = self._refusal(session, request, len(requests))
        if error is not None:
            self._refuse(job, error)
            return
        self._dispatch(job, now)

    def _service_for(self, session: Session, request: c.Request) -> Service | None:
        """Return a request's service; None if the request was refused before any table heard of it, or of its names."""
        try:
            self._check_names(request)
            if not is_reserved(request.service):
                return self._look_for(request)
            self._inform(session, request)
            return None
        except RequestError as error:
            self.forgotten.received += 1
            self.forgotten.refused += 1
            self._answer_error(session, request, error)
            return None

    def _inform(self, session: Session, request: c.Request) -> None:
        """Answer a request that is about the broker itself.

        Raises:
            RequestError: it can't be answered.
        """
        error = self._refusal(session, request, len(session.requests) + 1)
        if error is not None:
            raise error
        if session.link.outbox_bytes > min(ANSWERS_WAITING, self.settings.outbox):
            raise self._overloaded("the caller does not read the answers that it got")
        final = self._directory.answer(request)
        size = len(final.body)  # type: ignore[arg-type]
        if size > session.limits.message:
            raise self._overloaded(f"an answer of {size:,} bytes, the caller takes {session.limits.message:,}")
        self.forgotten.received += 1
        self.forgotten.replied += 1
        session.link.put(final, size)

    def _keyed_client(self, session: Session, request: c.Request, service: Service, now: float) -> KeyedClient | None:
        """Return the client of a new keyed execution; None if the request is taken care of."""
        try:
            entry = self._keys.find(request)
            if entry is None and self._await_new(session, request, now):
                self._forget_service(service)
                return None
        except RequestError as error:
            service.counters.received += 1
            service.counters.refused += 1
            self._answer_error(session, request, error)
            self._forget_service(service)
            return None
        if entry is not None:
            self._join(session, request, entry, service, now)
            return None
        entry = self._keys.add(request, session.name)
        self._keys.join(entry, session, request.id, deadline_of(request, now))
        return entry

    def _join(self, session: Session, request: c.Request, entry: KeyedClient, service: Service, now: float) -> None:
        """Let a request share an execution, or have its outcome; the latest deadline of all counts."""
        error = self._too_many(session, len(session.requests) + 1)
        if error is not None:
            self._answer_error(session, request, error)
            self._forget_service(service)
            return
        service.counters.joined += 1
        entry.joined = True
        if entry.job is not None:
            self._adopt(entry.job, session, request)
        self._keys.join(entry, session, request.id, deadline_of(request, now))
        self._forget_service(service)
        self._share_deadline(entry, now)

    def _answer_error(self, session: Session, request: c.Request, error: RequestError) -> None:
        """Answer a request that no job was made of."""
        command = c.Error.of(request.id, error)
        session.link.put(command, weight(command))

    def _check_names(self, request: c.Request) -> None:
        """Make sure that a request's names are none that no table should hear of.

        Raises:
            InvalidArgument: one is too long, or there is none.
        """
        size, limit = len(request.service.encode()), self.settings.max_service_name
        if not 0 < size <= limit:
            raise InvalidArgument(f"a service name has 1 to {limit} bytes, this one has {size:,}")
        for text in (request.key, request.worker):
            if text is not None and len(text.encode()) > c.MAX_NAME:
                raise InvalidArgument(f"a key, or a worker's name, is above {c.MAX_NAME} bytes")

    def _refusal(self, session: Session, request: c.Request, requests: int) -> RequestError | None:
        """Why a request, with which its client has so many, is not even queued; None if it may be."""
        limits = self.settings
        if len(request.body) > limits.max_message:  # type: ignore[arg-type]
            return InvalidArgument(f"the payload: {len(request.body):,} bytes, the limit is {limits.max_message:,}")  # type: ignore[arg-type]
        if request.headers and headers_size(request.headers) > limits.max_headers:
            return InvalidArgument(f"the headers are above {limits.max_headers:,} bytes")
        if self.draining:
            return Unavailable("the broker is draining", details=c.NOT_RUN)
        if requests <= limits.client_requests and self._ledger.bytes <= limits.broker_memory // 2:
            return None  # mostly, and then this is quicker
        return self._too_many(session, requests)

    def _too_many(self, session: Session, requests: int) -> RequestError | None:
        """Why a client may not have that many requests; None if it may."""
        if requests > self.settings.client_requests:
            return self._overloaded(f"{self.settings.client_requests:,} requests of this client are outstanding")
        if self._ledger.bytes > self.settings.broker_memory // 2:
            # The other half is for replies.
            return self._overloaded("the broker holds as many requests as it has memory for")
        return None

    def _on_drained(self, session: Session, command: c.Drained, now: float) -> None:
        session.drained = True

    def _on_cancel(self, session: Session, command: c.Cancel, now: float) -> None:
        job = session.requests.get(command.id)
        if job is not None:
            self._leave(job, now)

    def _on_credit(self, session: Session, credit: c.Credit, now: float) -> None:
        job = session.requests.get(credit.id)
        if isinstance(job, Claim):
            job.grant(credit)
            if credit.left is not None:
                self._move_claim(job, now + credit.left)
            return
        if isinstance(job, Caller):
            if credit.left is not None:
                self._move_time_left(job, credit.left, now)
                credit.left = None
            # All callers have a deadline, but the reader alone gets what credit is for.
            job = job.entry.job if job.entry.reader is job else None
        if job is None:
            return
        # What a worker is granted in one REQUEST has the limit of any amount.
        job.messages = min(job.messages + credit.messages, c.MAX_AMOUNT)
        job.bytes = min(job.bytes + credit.bytes, c.MAX_AMOUNT)
        if credit.left is not None:
            self._move_deadline(job, now + credit.left)
        if job.offer is not None:
            credit.id = job.id
            job.offer.session.link.put_credit(credit)

    def _on_client_heartbeat(self, session: Session, heartbeat: c.Heartbeat, now: float) -> None:
        for held in heartbeat.held:
            job = session.requests.get(held.id)
            if job is not None and held.left is not None:
                self._move_time_left(job, held.left, now)
            elif isinstance(job, Job) and job.offer is not None and session.link.request_beats:
                job.offer.session.link.put_heartbeat(job.id)

    def _move_time_left(self, job: Job | Caller | Claim, left: float, now: float) -> None:
        """A client moves a deadline: its own, which may be one of many."""
        if isinstance(job, Claim):
            self._move_claim(job, now + left)
            return
        if isinstance(job, Caller):
            job.entry.move_deadline(job, now + left)
            self._share_deadline(job.entry, now)
            return
        self._move_deadline(job, now + left)
        self._forward_time_left(job, left)


#: What a client may send, and what it does.
CLIENT_COMMANDS: Final[dict[type[c.Command], Any]] = {
    c.Request: ClientCommands._on_request,
    c.Cancel: ClientCommands._on_cancel,
    c.Credit: ClientCommands._on_credit,
    c.Heartbeat: ClientCommands._on_client_heartbeat,
    c.Claim: ClientCommands._on_claim,
    c.Drained: ClientCommands._on_drained,
}

"""What the commands of clients do."""

from __future__ import annotations

from typing import Any, Final

from ..._errors import InvalidArgument, ProtocolError, RequestError, Unavailable
from ..._wire import commands as c
from ..link import headers_size, request_weight, weight
from .dispatcher import NOT_RUN, Dispatcher
from .job import Job, deadline_of
from .keys import Caller, KeyedClient
from .service import Service
from .session import Session


class ClientCommands(Dispatcher):
    """The broker's side of its clients: requests, credit, and leaving."""

    def _on_request(self, session: Session, request: c.Request, now: float) -> None:
        if request.id in session.requests:
            raise ProtocolError(f"request {request.id} came twice")
        size = request_weight(request)
        self._next_job += 1
        service = self._service(request.service)
        client = session if request.key is None else self._keyed_client(session, request, service, now)
        if client is None:
            return
        job = Job(self._next_job, client, session, service, request, size, now)
        if isinstance(client, KeyedClient):
            client.job = job
        client.requests[request.id] = job
        service.counters.received += 1
        error = self._refusal(job, request)
        if error is not None:
            self._refuse(job, error)
            return
        self._dispatch(job, now)

    def _keyed_client(self, session: Session, request: c.Request, service: Service, now: float) -> KeyedClient | None:
        """Return the client of a new keyed execution; None if the request is taken care of."""
        try:
            entry = self._keys.find(request)
        except InvalidArgument as error:
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
        if len(session.requests) >= self.settings.client_requests:
            self._answer_error(session, request, self._too_many())
            self._forget_service(service)
            return
        service.counters.joined += 1
        self._keys.join(entry, session, request.id, deadline_of(request, now))
        self._forget_service(service)
        self._share_deadline(entry, now)

    def _answer_error(self, session: Session, request: c.Request, error: RequestError) -> None:
        """Answer a request that no job was made of."""
        command = self._error(request.id, error)
        session.link.put(command, weight(command))

    def _refusal(self, job: Job, request: c.Request) -> RequestError | None:
        """Why a request is not even queued; None if it may be."""
        settings, limits = self.settings, self.settings
        name = len(request.service.encode())
        if not 0 < name <= limits.max_service_name:
            return self._invalid(f"a service name has 1 to {limits.max_service_name} bytes, this one has {name:,}")
        if len(request.body) > limits.max_message:  # type: ignore[arg-type]
            return self._invalid(f"the payload: {len(request.body):,} bytes, the limit is {limits.max_message:,}")  # type: ignore[arg-type]
        for text in (request.key, request.worker):
            if text is not None and len(text.encode()) > c.MAX_NAME:
                return self._invalid(f"a key, or a worker's name, is above {c.MAX_NAME} bytes")
        if request.headers and headers_size(request.headers) > limits.max_headers:
            return self._invalid(f"the headers are above {limits.max_headers:,} bytes")
        if self.draining:
            return Unavailable("the broker is draining", details=NOT_RUN)
        if len(job.owner.requests) > settings.client_requests:
            return self._too_many()
        return None

    def _too_many(self) -> RequestError:
        return self._overloaded(f"{self.settings.client_requests:,} requests of this client are outstanding")

    def _on_cancel(self, session: Session, command: c.Cancel, now: float) -> None:
        job = session.requests.get(command.id)
        if job is not None:
            self._leave(job, now)

    def _on_credit(self, session: Session, credit: c.Credit, now: float) -> None:
        job = session.requests.get(credit.id)
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

    def _move_time_left(self, job: Job | Caller, left: float, now: float) -> None:
        """A client moves a deadline: its own, which may be one of many."""
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
}

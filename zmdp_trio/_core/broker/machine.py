"""The broker's machine: greetings, and what each command of a session does.

A request's way: `_on_request` makes a job; `Dispatcher` finds a worker for it or lets it wait; `_on_partial`,
`_on_final`, `_on_error` pass on what the worker says; `_on_cancel` and the loss of either side end it early.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ..._errors import Code, InvalidArgument, ProtocolError, RequestError, Unavailable
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire import zmdp1
from ..._wire.frames import Frame
from ..link import Link, headers_size, request_weight, weight
from .dispatcher import Dispatcher
from .job import Job, JobInput, JobState
from .keys import Caller, KeyedClient
from .service import Offer, Service
from .session import Session

#: Peers that were told that they are not welcome, and are ignored from then on.
MAX_SHUNNED = 10_000
#: Bytes of an error's text and details that a worker may send.
MAX_ERROR = 128 * 2**10


class BrokerMachine(Dispatcher):
    """Sessions, jobs, and services.

    The engine calls `receive`, `lost`, `handle_timer`; then sends what the links in `take_dirty` hold.
    """

    def __init__(self, *, name: str, epoch: bytes, settings: Settings) -> None:
        """Make a broker's machine; `epoch` is random, and new with every start."""
        super().__init__(settings)
        self.name = name
        self.epoch = epoch
        self._peers: dict[bytes, Session] = {}
        self._sessions: dict[bytes, Session] = {}
        self._shunned: OrderedDict[bytes, None] = OrderedDict()
        self._next_beat = math.inf
        #: Messages and commands that were not to be expected.
        self.protocol_errors = 0
        #: Replies to requests that nobody waits for any more.
        self.late_replies = 0
        #: Messages that came twice, in sessions that are over.
        self.duplicates = 0

    # ---- for the engine

    def receive(self, peer: bytes, frames: Sequence[Frame], *, now: float) -> None:
        """Take a message from a peer."""
        session = self._peers.get(peer)
        if session is None:
            self._receive_greeting(peer, frames, now)
            return
        session.heard = self._keys.now = now
        try:
            handlers = session.handlers
            for command in session.link.receive(frames):
                handle = handlers.get(type(command))
                if handle is None:
                    raise ProtocolError(f"{type(command).__name__} from a {session.role}")
                handle(self, session, command, now)
                if session.ended:
                    return
        except ProtocolError as error:
            self._drop(session, str(error), now)
        if session.link.outbox_bytes > 2 * self.settings.outbox:
            self._drop(session, "it does not read what it asked for", now)
        if session.choked and session.link.outbox_bytes <= self.settings.outbox // 2:
            self._unchoke(session, now)

    def lost(self, peer: bytes, *, now: float) -> None:
        """A peer's connection is gone: a worker's jobs at once, a client's session unless it comes back in time."""
        self._shunned.pop(peer, None)
        session = self._peers.pop(peer, None)
        if session is None:
            return
        session.link.close()
        if session.is_worker:
            self._end_session(session, now)
        else:
            back = max(now, session.heard + self.settings.silence)
            self._timers.set(session, min(back, now + self.settings.resume))

    def handle_timer(self, *, now: float) -> None:
        """Do what is due."""
        if now >= self._next_beat:
            self._beat(now)
        for key in self._timers.pop_due(now):
            if isinstance(key, Job):
                self._on_job_timer(key, now)
            elif isinstance(key, Session):
                self._end_session(key, now)
            else:
                self._forget_service(key)

    @property
    def deadline(self) -> float:
        """When `handle_timer` is to be called; `math.inf` for never."""
        return min(self._next_beat, self._timers.deadline)

    def take_dirty(self) -> list[Link]:
        """Return the links that have something to send, and forget them."""
        dirty, self._dirty[:] = self._dirty[:], []
        return dirty

    def drain(self) -> None:
        """Refuse new requests from now on, and tell everybody."""
        if not self.draining:
            self.draining = True
            for session in self._sessions.values():
                session.link.put(c.Drain())

    @property
    def busy(self) -> bool:
        """Some request has no outcome yet, or a reply has not left."""
        return any(session.requests or session.held for session in self._sessions.values())

    def goodbye(self) -> None:
        """Take leave of everybody: the last thing that is sent."""
        for session in self._sessions.values():
            session.link.put(c.Goodbye("the broker stops"))

    # ---- greetings

    def _receive_greeting(self, peer: bytes, frames: Sequence[Frame], now: float) -> None:
        if peer in self._shunned:
            return
        try:
            commands, _ = zmdp1.decode(frames)
            hello = commands[1] if len(commands) > 1 else None
            if not isinstance(hello, c.Hello):
                raise ProtocolError("greet first")
            if hello.version != c.VERSION:
                raise ProtocolError(f"version {hello.version} is not supported, this broker speaks {c.VERSION}")
            if not 16 <= len(hello.session) <= c.MAX_NAME or len(hello.name.encode()) > c.MAX_NAME:
                raise ProtocolError(f"a session id has 16 to {c.MAX_NAME} bytes, a name at most as many")
            self._greet(peer, hello, commands[0].received, now)
        except ProtocolError as error:
            session = self._peers.pop(peer, None)
            if session is not None:
                self._end_session(session, now)
            self._shun(peer, str(error))

    def _greet(self, peer: bytes, hello: c.Hello, received: int, now: float) -> None:
        session = self._sessions.get(hello.session)
        if session is not None and session.link.peer is not None:
            # The old connection is dead, though nobody told us yet.
            self._peers.pop(session.link.peer, None)
            session.link.close()
        resumed = session is not None and hello.epoch == self.epoch and not session.is_worker and hello.offers is None
        if session is not None and not resumed:
            self._end_session(session, now)
        if session is None or not resumed:
            session = Session(hello, self._dirty, CLIENT if hello.offers is None else WORKER)
            self._sessions[hello.session] = session
            received = 0
        self._timers.cancel(session)
        self._peers[peer] = session
        session.heard = now
        session.resumed = resumed
        session.link.open(peer, received)
        self._welcome(session)
        if self.draining:
            session.link.put(c.Drain())
        for offer in hello.offers or ():
            self._on_slots(session, c.Slots(offer.service, offer.slots), now)
        self._next_beat = min(self._next_beat, now + self.settings.heartbeat)

    def _welcome(self, session: Session) -> None:
        welcome = c.Welcome(
            version=c.VERSION,
            broker=self.name,
            epoch=self.epoch,
            resumed=session.resumed,
            limits=c.Limits.of(self.settings),
            heartbeat=self.settings.heartbeat,
            features=[],
        )
        session.link.put_uncounted(welcome, received=session.link.received)

    def _shun(self, peer: bytes, reason: str) -> None:
        """Tell a peer once that it is not welcome; ignore it from then on."""
        self.protocol_errors += 1
        self._shunned[peer] = None
        if len(self._shunned) > MAX_SHUNNED:
            self._shunned.popitem(last=False)
        link = Link(self._dirty)
        link.peer = peer
        link.put_uncounted(c.Goodbye(reason, refused=True))

    def _drop(self, session: Session, reason: str, now: float) -> None:
        """A peer broke the protocol, or does not read: forget it, tell it once, ignore it."""
        peer = session.link.peer
        self._end_session(session, now)
        if peer is not None:
            self._peers.pop(peer, None)
            self._shun(peer, reason)

    def _end_session(self, session: Session, now: float) -> None:
        """A peer is gone for good: its requests are cancelled, the jobs it held are lost."""
        session.ended = True
        self._timers.cancel(session)
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
        if session.link.peer is not None:
            self._peers.pop(session.link.peer, None)
        session.link.close()
        session.link.drop_outbox()
        self.duplicates += session.link.duplicates
        for job in list(session.requests.values()):
            self._leave(job, now)
        self._remove_worker(session, now, lost=not session.draining)

    def _beat(self, now: float) -> None:
        self._next_beat = now + self.settings.heartbeat if self._sessions else math.inf
        for session in self._sessions.values():
            link = session.link
            if not link.opened:
                continue
            if link.awaits_ack:
                link.put(c.Heartbeat())
            link.acknowledge()

    # ---- from clients

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
            session.link.put(self._error(request.id, error))
            return None
        if entry is not None:
            self._join(session, request, entry, service, now)
            return None
        entry = self._keys.add(request, session.name)
        self._keys.join(entry, session, request.id)
        return entry

    def _join(self, session: Session, request: c.Request, entry: KeyedClient, service: Service, now: float) -> None:
        """Let a request share an execution, or have its outcome; the latest deadline of all counts."""
        if len(session.requests) >= self.settings.client_requests:
            session.link.put(self._error(request.id, self._too_many()))
            self._forget_service(service)
            return
        service.counters.joined += 1
        self._keys.join(entry, session, request.id)
        left = math.inf if request.left is None else request.left
        self._forget_service(service)
        job = entry.job
        if job is not None and now + left > job.deadline:
            self._move_deadline(job, now + left)
            self._forward_time_left(job, left)

    def _job_of(self, session: Session, id: int) -> Job | None:
        """Return what a client's credit and time left are for; of a keyed execution's callers, the reader's count."""
        job = session.requests.get(id)
        if isinstance(job, Caller):
            return job.entry.job if job.entry.reader is job else None
        return job

    def _forward_time_left(self, job: Job, left: float) -> None:
        if job.state is JobState.RUNNING:
            self._tell_worker(job, c.Heartbeat([c.Held(job.id, left)]))

    def _tell_worker(self, job: Job, command: c.Command) -> None:
        """Pass a client's word on to the worker, unless the client says so much that it could drown it."""
        assert job.offer is not None
        link = job.offer.session.link
        if link.outbox_bytes > 2 * self.settings.outbox:
            raise ProtocolError("it sends more than a worker can read")
        link.put(command)

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
            return Unavailable("the broker is draining")
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
        job = self._job_of(session, credit.id)
        if job is None:
            return
        # What a worker is granted in one REQUEST has the limit of any amount.
        job.messages = min(job.messages + credit.messages, c.MAX_AMOUNT)
        job.bytes = min(job.bytes + credit.bytes, c.MAX_AMOUNT)
        if credit.left is not None:
            self._move_deadline(job, now + credit.left)
        if job.state is JobState.RUNNING:
            credit.id = job.id
            self._tell_worker(job, credit)

    def _on_client_heartbeat(self, session: Session, heartbeat: c.Heartbeat, now: float) -> None:
        for held in heartbeat.held:
            job = self._job_of(session, held.id)
            if job is not None and held.left is not None:
                self._move_deadline(job, now + held.left)
                self._forward_time_left(job, held.left)

    # ---- from workers

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
        if job.state is JobState.RUNNING:
            if size > job.client.limits.message:
                self._tell(job, self._unwelcome(job.client, size))
                self._leave(job, now)
                return
            job.request = None
            partial.id = job.client_id
            link = job.client.link
            link.put(partial, size)
            if link.outbox_bytes > self.settings.outbox:
                self._drop(job.owner, "it does not read what it asked for", now)

    def _unwelcome(self, client: Session | KeyedClient, size: int) -> RequestError:
        return RequestError(f"a reply of {size:,} bytes, the caller takes {client.limits.message:,}")

    def _on_final(self, session: Session, final: c.Final, now: float) -> None:
        job = session.held.get(final.id)
        if job is None:
            self.late_replies += 1
            return
        if job.state is JobState.RUNNING:
            self._reply(job, final)
        else:
            job.service.counters.cancelled += 1
        self._settle(job, JobInput.REPLY, now)

    def _reply(self, job: Job, final: c.Final) -> None:
        size = len(final.body)  # type: ignore[arg-type]
        link = job.client.link
        if size > self.settings.max_message:
            raise ProtocolError(f"request {final.id}: a reply of {size:,} bytes")
        if size and link.outbox_bytes + size > self.settings.outbox:
            job.service.counters.failed += 1
            self._tell(job, self._overloaded("the reply was dropped: the caller does not read"))
            return
        if size > job.client.limits.message:
            job.service.counters.failed += 1
            self._tell(job, self._unwelcome(job.client, size))
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
        if job.state is not JobState.RUNNING:
            counters.cancelled += 1
        else:
            if error.code == Code.DEADLINE_EXCEEDED.value:
                counters.expired += 1
            else:
                counters.failed += 1
            error.id = job.client_id
            job.client.link.put(error, weight(error))
        self._settle(job, JobInput.FAIL, now)

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
            if job is not None and job.state is JobState.RUNNING:
                job.client.link.put(c.Heartbeat([c.Held(job.client_id)]))

    def _on_slots(self, session: Session, command: c.Slots, now: float) -> None:
        """A worker changes a lease, or offers a service that it did not before."""
        if session.draining:
            return
        offer = session.offers.get(command.service)
        if offer is None:
            if not 0 < len(command.service.encode()) <= self.settings.max_service_name:
                raise ProtocolError("an offer of a service whose name is empty or too long")
            if len(session.offers) >= self.settings.client_queue:
                raise ProtocolError("too many services")
            service = self._service(command.service)
            offer = session.offers[command.service] = Offer(session, service)
            service.add_offer(offer)
            self._timers.cancel(service)
        else:
            session.link.put(command)
        offer.lease = command.slots
        if not session.choked:
            offer.service.set_slots(offer, command.slots)
        self._feed(offer, now)

    def _on_drain(self, session: Session, command: c.Drain, now: float) -> None:
        session.draining = True
        self._remove_offers(session, now, lost=False)
        session.link.put(c.Drained())

    # ---- from both

    def _on_goodbye(self, session: Session, command: c.Goodbye, now: float) -> None:
        self._end_session(session, now)

    def _on_hello(self, session: Session, command: c.Hello, now: float) -> None:
        """The greeting came again: our answer may have been lost."""
        if command.session != session.id:
            raise ProtocolError("a second session over the same connection")
        self._welcome(session)

    def _ignore(self, session: Session, command: c.Command, now: float) -> None:
        """The BATCH was the link's."""

    # ---- statistics

    @property
    def timers(self) -> int:
        """How many deadlines are watched."""
        return len(self._timers)

    def services(self) -> list[Service]:
        """Return every service that is offered, waited for, or was lost lately."""
        return list(self._services.values())

    def sessions(self) -> list[Session]:
        """Return every session, connected or not."""
        return list(self._sessions.values())


#: What each command does, by who sends it: anything else from a greeted peer is a breach of the protocol.
_BOTH: dict[type[c.Command], Any] = {
    c.Batch: BrokerMachine._ignore,
    c.Hello: BrokerMachine._on_hello,
    c.Goodbye: BrokerMachine._on_goodbye,
}
CLIENT: dict[type[c.Command], Any] = {
    **_BOTH,
    c.Request: BrokerMachine._on_request,
    c.Cancel: BrokerMachine._on_cancel,
    c.Credit: BrokerMachine._on_credit,
    c.Heartbeat: BrokerMachine._on_client_heartbeat,
}
WORKER: dict[type[c.Command], Any] = {
    **_BOTH,
    c.Partial: BrokerMachine._on_partial,
    c.Final: BrokerMachine._on_final,
    c.Error: BrokerMachine._on_error,
    c.Reject: BrokerMachine._on_reject,
    c.Heartbeat: BrokerMachine._on_worker_heartbeat,
    c.Slots: BrokerMachine._on_slots,
    c.Drain: BrokerMachine._on_drain,
}

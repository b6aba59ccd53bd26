"""After a restart: what the workers still have of the last broker's requests, and the callers who claim it.

A broker keeps nothing on disk.  Its workers tell the next one, behind their greetings, what they hold of the requests
that the last one gave them: those that run, and the outcomes of those that ended lately.  Its clients claim what they
wait for.  Where the two meet, the request becomes a job that runs, and its worker sends what the caller has not got.
A claim that nobody answers within the resume limit ends as BrokerLost; what nobody claims, its worker cancels.

Requests with a key need more care: see `AwaitedKeys`.
"""

from __future__ import annotations

import math
from abc import abstractmethod

from ..._errors import BrokerLost, DeadlineExceeded, ProtocolError, RequestError
from ..._settings import Settings
from ..._wire import commands as c
from ..shared import MAX_HOLDINGS, Fingerprint, Origin, is_reserved
from ..weights import weight
from .claims import AwaitedKey, Claim, Holding
from .dispatcher import Dispatcher
from .job import JOB_BYTES, Job, JobInput
from .keys import Caller, KeyedClient
from .service import Offer
from .session import Session

#: Requests of the last broker that all workers may hold: what comes beyond that is passed over, as if it was lost.
MAX_ALL_HOLDINGS = 4 * MAX_HOLDINGS


class Recovery(Dispatcher):
    """Claims and holdings."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.draining = False
        #: How many jobs there were: each one's id.
        self._next_job = 0
        self._claims: dict[Origin, Claim] = {}
        self._holdings: dict[Origin, Holding] = {}
        #: Requests, and bytes of them, that wait for what workers may have of them.
        self._waiting = self._waiting_bytes = 0

    def _note_predecessor(self, now: float) -> None:
        """Somebody greeted that was with another broker before: there may be more."""
        if self._recovery_ends == -math.inf:
            self._recovery_ends = now + self.settings.resume

    @abstractmethod
    def _answer_error(self, session: Session, request: c.Request, error: RequestError) -> None:
        """Answer a request that no job was made of."""

    @abstractmethod
    def _too_many(self, session: Session, requests: int) -> RequestError | None:
        """Why a client may not have that many requests; None if it may."""

    @abstractmethod
    def _await_key(self, claim: Claim, name: str, payload: Fingerprint | None, now: float) -> bool:
        """Let a claim wait for its key, or have what there is; tell whether it is taken care of.

        Raises:
            InvalidArgument: the key belongs to a request with another payload.
        """

    @abstractmethod
    def _associate(self, holding: Holding, name: str, now: float) -> None:
        """Let those who ask for a key have what this worker has, unless somebody else has it."""

    @abstractmethod
    def _recover_keyed(self, holding: Holding, awaited: AwaitedKey, reader: Claim | None, now: float) -> None:
        """Let an execution with a key go on: `reader` gets its partial replies, all who claim it get its outcome."""

    def _leave(self, job: Job | Caller | Claim, now: float) -> None:
        if isinstance(job, Claim):
            self._leave_claim(job)
        else:
            super()._leave(job, now)

    # ---- from clients and workers

    def _on_claim(self, session: Session, command: c.Claim, now: float) -> None:
        if command.id in session.requests:
            raise ProtocolError(f"request {command.id} came twice")
        claim = Claim(session, command, now + command.left if command.left is not None else math.inf)
        names = len(claim.service.encode()), len((claim.key or "").encode())
        too_long = names[0] > self.settings.max_service_name or names[1] > c.MAX_NAME
        unheld = too_long or is_reserved(claim.service)
        if unheld or self._too_many(session, len(session.requests) + 1) is not None:
            self._lose_claim(claim)
            return
        self._file(claim)
        holding = self._holdings.get(claim.origin)
        if holding is not None and holding.answers(claim):
            self._grant_claim(claim, holding, now)
        elif claim.key is None or not self._await_key(claim, claim.key, None, now):
            self._timers.set(claim, now + self.settings.resume)

    def _on_holdings(self, session: Session, command: c.Holdings, now: float) -> None:
        if len(session.holdings) + len(command.holdings) > MAX_HOLDINGS:
            raise ProtocolError(f"it holds more than {MAX_HOLDINGS:,} requests of the last broker")
        for each in command.holdings:
            if len(self._holdings) >= MAX_ALL_HOLDINGS:
                return
            names = len(each.service.encode()), len((each.offered or each.service).encode())
            if not 0 < min(names) <= max(names) <= self.settings.max_service_name:
                raise ProtocolError("it holds a request for a service whose name is empty or too long")
            if len(each.caller) > c.MAX_NAME or len((each.key or "").encode()) > c.MAX_NAME:
                raise ProtocolError(f"it holds a request whose key, or caller, is above {c.MAX_NAME} bytes")
            known = each.ended is not None and (each.service, each.key) in self._keys
            if not known and (each.caller, each.call) not in self._holdings:
                self._hold(Holding(session, each), each, now)

    def _hold(self, holding: Holding, each: c.Holding, now: float) -> None:
        """Note what a worker has; give it to its caller, if that one is there."""
        self._holdings[holding.origin] = holding.worker.holdings[holding.origin] = holding
        lasts = self.settings.resume
        if each.key is not None:
            self._associate(holding, each.key, now)
            if each.ended is not None:
                lasts = max(lasts, self.settings.key_window - each.ended)
        self._timers.set(holding, now + lasts)
        claim = self._claims.get(holding.origin)
        if claim is not None and holding.answers(claim):
            self._grant_claim(claim, holding, now)

    # ---- where a claim and a holding meet

    def _grant_claim(self, claim: Claim, holding: Holding, now: float) -> None:
        """A caller is given what a worker has of its request."""
        if claim.awaited is not None:
            del claim.awaited.claims[claim]
            claim.awaited = None
        awaited = holding.awaited
        if awaited is not None:
            self._recover_keyed(holding, awaited, claim, now)
        else:
            self._unfile(claim)
            self._forget_holding(holding)
            job = self._recover(holding, claim, claim.session, now)
            claim.session.requests[claim.id] = job

    def _recover(self, holding: Holding, claim: Claim, client: Session | KeyedClient, now: float) -> Job:
        """Make a job of what a worker has, and have the worker go on with it."""
        worker, service = holding.worker, self._service(holding.offered, at_any_rate=True)
        assert service is not None
        left = claim.left(now)
        self._next_job += 1
        request = c.Request(claim.id, holding.service, 0, b"", claim.messages, claim.bytes, left)
        job = Job(self._next_job, client, claim.session, service, request, 0, now)
        # It can't be given to another worker: we have never seen its payload.
        job.request = None
        job.given = True
        job.partials = claim.received or 0
        job.step(JobInput.DISPATCH)
        # A worker that drains offers nothing: then the offer is none that anybody else is given.
        job.offer = worker.offers.get(holding.offered) or Offer(worker, service)
        self._ledger.bytes += JOB_BYTES
        service.counters.received += 1
        service.take_slot(job.offer)
        service.running += 1
        worker.held[job.id] = job
        received = claim.received if holding.origin == claim.origin else None
        caller, call = holding.origin
        worker.link.put(c.Resume(job.id, caller, call, received, claim.messages, claim.bytes, left))
        return job

    # ---- the end of claims and holdings

    def _file(self, claim: Claim) -> None:
        claim.session.requests[claim.id] = self._claims[claim.origin] = claim
        self._ledger.bytes += JOB_BYTES + claim.size
        if claim.request is not None:
            self._waiting += 1
            self._waiting_bytes += claim.size

    def _unfile(self, claim: Claim) -> None:
        self._timers.cancel(claim)
        if self._claims.get(claim.origin) is claim:
            del claim.session.requests[claim.id], self._claims[claim.origin]
            self._ledger.bytes -= JOB_BYTES + claim.size
            if claim.request is not None:
                self._waiting -= 1
                self._waiting_bytes -= claim.size

    def _leave_claim(self, claim: Claim) -> None:
        """The caller has left."""
        self._unfile(claim)
        if claim.awaited is not None:
            del claim.awaited.claims[claim]
            claim.awaited = None

    def _expire_claim(self, claim: Claim) -> None:
        """No worker has come with it, or its deadline has."""
        self._leave_claim(claim)
        if claim.request is None:
            self._lose_claim(claim)
            return
        self.forgotten.received += 1
        self.forgotten.expired += 1
        self._answer_error(claim.session, claim.request, DeadlineExceeded("the deadline passed in the queue"))

    def _move_claim(self, claim: Claim, deadline: float) -> None:
        """A caller's deadline was moved; that of what it claims is its worker's to keep."""
        claim.deadline = deadline
        if claim.request is not None:
            self._timers.set(claim, deadline)

    def _lose_claim(self, claim: Claim) -> None:
        error = c.Error.of(claim.id, BrokerLost("the broker was restarted, and no worker has come back with it"))
        claim.session.link.put(error, weight(error))

    def _forget_holding(self, holding: Holding) -> None:
        """A holding was claimed, is too old, or its worker is gone."""
        self._timers.cancel(holding)
        del self._holdings[holding.origin]
        del holding.worker.holdings[holding.origin]

    def _forget_holdings(self, worker: Session) -> None:
        for holding in list(worker.holdings.values()):
            self._forget_holding(holding)

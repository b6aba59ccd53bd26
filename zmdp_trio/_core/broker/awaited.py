"""Keys, after a restart: who asks for one that a worker may have is kept waiting, until that worker has had its time.

A key needs more care than other requests, since these may come from anybody, also from those who ask for the first
time.  As long as workers may yet come back, a key that is not known is awaited, not run; and where a worker has it, the
caller whose request it was gets half of the resume limit to claim it first, since only that one can go on with partial
replies.
"""

from __future__ import annotations

from abc import abstractmethod

from ..._errors import InvalidArgument
from ..._settings import Settings
from ..._wire import commands as c
from ..shared import Fingerprint, fingerprint
from ..weights import request_weight
from .claims import AwaitedKey, Claim, Holding
from .job import Job, deadline_of
from .keys import KeyedClient
from .recovery import Recovery
from .session import Session


class AwaitedKeys(Recovery):
    """The table of keys that workers may have, or have, executions of."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._awaited: dict[tuple[str, str], AwaitedKey] = {}

    @abstractmethod
    def _on_request(self, session: Session, request: c.Request, now: float) -> None:
        """Take a request."""

    # ---- who asks, and who has it

    def _associate(self, holding: Holding, name: str, now: float) -> None:
        key = holding.service, name
        if key in self._keys:
            return
        awaited = self._awaited.get(key)
        if awaited is None:
            awaited = self._awaited[key] = AwaitedKey(key, holding.payload)
        if awaited.holding is None:
            awaited.holding = holding
            holding.awaited = awaited
            self._timers.set(awaited, now + self.settings.resume / 2)

    def _await_key(self, claim: Claim, name: str, payload: Fingerprint | None, now: float) -> bool:
        key = claim.service, name
        entry = self._keys.get(key)
        if entry is not None:
            if not self._may_join(claim, entry):
                return False
            self._unfile(claim)
            self._join_claim(claim, entry, now)
            return True
        awaited = self._awaited.get(key)
        if awaited is None:
            if now >= self._recovery_ends:
                return False
            awaited = self._awaited[key] = AwaitedKey(key, payload)
            self._timers.set(awaited, self._recovery_ends)
        elif payload is not None and awaited.payload is not None and payload != awaited.payload:
            raise InvalidArgument("this key was used with another payload")
        if claim.request is None and awaited.holding is None:
            self._timers.set(awaited, now + self.settings.resume)
        awaited.payload = awaited.payload or payload
        awaited.claims[claim] = None
        claim.awaited = awaited
        if awaited.ripe:
            self._serve_awaited(awaited, now)
        return True

    def _await_new(self, session: Session, request: c.Request, now: float) -> bool:
        """Have a request with a key that is not known wait, if a worker may have it; tell whether it does.

        Raises:
            InvalidArgument: the key belongs to a request with another payload.
            Overloaded: too many wait.
        """
        if not self._awaited and now >= self._recovery_ends:
            return False
        assert request.key is not None
        claim = Claim(session, request, deadline_of(request, now))
        if self._waiting >= self.settings.queue_requests or self._waiting_bytes >= self.settings.queue_bytes:
            raise self._overloaded("the broker was restarted, and too many requests wait for what workers have of them")
        error = self._too_many(session, len(session.requests) + 1)
        if error is not None:
            raise error
        if not self._await_key(claim, request.key, fingerprint(request), now):
            return False
        if claim.awaited is not None:
            self._file(claim)
            self._timers.set(claim, claim.deadline)
        return True

    def _ripen(self, awaited: AwaitedKey, now: float) -> None:
        """Nobody else is expected to claim this first, or to bring it."""
        awaited.ripe = True
        if awaited.claims or awaited.holding is None:
            self._serve_awaited(awaited, now)

    def _serve_awaited(self, awaited: AwaitedKey, now: float) -> None:
        """Give all that wait for a key what a worker has of it; or run it anew, where one of them can."""
        for claim in [claim for claim in awaited.claims if claim.received]:
            # Nobody has the partial replies that it has not got.
            self._leave_claim(claim)
            self._lose_claim(claim)
        holding = awaited.holding
        if holding is None:
            self._run_awaited(self._take_awaited(awaited), awaited.key, now)
        elif awaited.claims:
            self._recover_keyed(holding, awaited, None, now)

    def _run_awaited(self, claims: list[Claim], key: tuple[str, str], now: float) -> None:
        """No worker has it: run it, if this broker was sent the request itself by one of them."""
        claims.sort(key=lambda claim: claim.request is None)
        for claim in claims:
            self._unfile(claim)
            entry = self._keys.get(key)
            if claim.request is not None:
                self._on_request(claim.session, claim.as_request(now), now)
            elif entry is not None and self._may_join(claim, entry):
                self._join_claim(claim, entry, now)
            else:
                self._lose_claim(claim)

    def _take_awaited(self, awaited: AwaitedKey) -> list[Claim]:
        del self._awaited[awaited.key]
        self._timers.cancel(awaited)
        for claim in awaited.claims:
            claim.awaited = None
        if awaited.holding is not None:
            awaited.holding.awaited = None
        return list(awaited.claims)

    # ---- where they meet

    def _recover_keyed(self, holding: Holding, awaited: AwaitedKey, reader: Claim | None, now: float) -> None:
        claims = self._take_awaited(awaited)
        if reader is not None:
            claims.insert(0, reader)
        first = claims[0]
        # Only the one whose request it was could have got partial replies: it has come first, or too late.
        entry = self._keys.restore(awaited.key, first.session.name, holding.payload or awaited.payload)
        entry.origin = holding.origin
        self._forget_holding(holding)
        job = entry.job = entry.requests[first.id] = self._recover(holding, first, entry, now)
        for claim in claims:
            self._unfile(claim)
            if claim is not reader and claim.received:
                self._lose_claim(claim)
            else:
                self._keys.join(entry, claim.session, claim.id, claim.deadline)
            if claim.request is not None:
                self._adopt(job, claim.session, claim.request)
        entry.joined = reader is None or len(claims) > 1
        if reader is None:
            entry.lose_reader()
        job.deadline = entry.deadline
        self._forward_time_left(job, max(job.deadline - now, 0.0))

    def _adopt(self, job: Job, session: Session, request: c.Request) -> None:
        """Let a recovered job run again, as this request may, whose payload is the same: it shares the execution."""
        if job.request is None and not job.partials:
            del job.client.requests[job.client_id]
            job.client.requests[request.id] = job
            job.owner, job.client_id = session, request.id
            job.request, job.retries, job.wanted = request, request.retry, request.worker
            job.size = request_weight(request)
            self._ledger.bytes += job.size

    def _may_join(self, claim: Claim, entry: KeyedClient) -> bool:
        """Whether a claim misses nothing if it gets the outcome alone, without partial replies."""
        return claim.received is None or (claim.received == 0 and claim.origin != entry.origin)

    def _join_claim(self, claim: Claim, entry: KeyedClient, now: float) -> None:
        self._keys.join(entry, claim.session, claim.id, claim.deadline)
        self._share_deadline(entry, now)

    # ---- the end

    def _forget_holding(self, holding: Holding) -> None:
        super()._forget_holding(holding)
        awaited = holding.awaited
        if awaited is not None:
            # Who waits for it may be served by a worker that has yet to come.
            awaited.holding = holding.awaited = None
            if awaited.claims:
                self._timers.set(awaited, self._recovery_ends)
            else:
                self._take_awaited(awaited)

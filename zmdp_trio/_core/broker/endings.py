"""How a job ends, for its caller and in the broker's books, and until when it has time."""

from __future__ import annotations

from ..._errors import DeadlineExceeded, RequestError
from ..._settings import Settings
from ..._wire import commands as c
from ..link import Ledger
from ..weights import weight
from .job import CANCELLING, JOB_BYTES, QUEUED, RUNNING, TRANSITIONS, Job, JobInput
from .keys import Caller, KeyedClient, KeyTable
from .placement import Placement
from .service import Offer


class Endings(Placement):
    """What is common to all ways in which a job ends, and those that need no worker."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Requests, and what waits for clients.
        self._ledger = Ledger()
        self._keys = KeyTable(settings, self._ledger)

    # ---- the end

    def _withdraw(self, job: Job) -> Offer:
        """Take a job away from its worker."""
        offer, service = job.offer, job.service
        assert offer is not None
        del offer.session.held[job.id]
        if job.state is RUNNING:
            service.running -= 1
        else:
            service.cancelling -= 1
        service.free_slot(offer)
        job.offer = None
        return offer

    def _end(self, job: Job, event: JobInput) -> None:
        state = job.state
        if state is not CANCELLING:
            del job.client.requests[job.client_id]
        # As `Job.step` and `_let_go` do: each request ends here, and this is two calls less.
        job.state = TRANSITIONS[state][event]
        if job.request is None:
            self._ledger.bytes -= JOB_BYTES
        else:
            self._ledger.bytes -= JOB_BYTES + job.size
            job.request = None
        if not job.service.offers:
            self._forget_service(job.service)

    def _let_go(self, job: Job) -> None:
        """A job's request will not be sent again."""
        if job.request is not None:
            self._ledger.bytes -= job.size
            job.request = None

    def _tell(self, job: Job, error: RequestError) -> None:
        """Send a job's client an error of the broker's own."""
        command = c.Error.of(job.client_id, error)
        job.client.link.put(command, weight(command))

    def _refuse(self, job: Job, error: RequestError) -> None:
        job.service.counters.refused += 1
        self._tell(job, error)
        self._end(job, JobInput.REFUSE)

    def _expire(self, job: Job) -> None:
        job.service.counters.expired += 1
        self._tell(job, DeadlineExceeded("the deadline passed before a worker was free"))
        self._end(job, JobInput.EXPIRE)

    def _leave(self, job: Job | Caller, now: float) -> None:
        """The caller has left: drop the job, or have its worker cancel it."""
        if isinstance(job, Caller):
            execution = job.entry.job
            last = self._keys.leave(job)
            if last and execution is not None:
                self._leave(execution, now)
            elif not last:
                self._share_deadline(job.entry, now)
            return
        if job.state is QUEUED:
            self._timers.cancel(job)
            job.service.dequeue(job)
            job.service.counters.cancelled += 1
            self._end(job, JobInput.CANCEL)
            return
        del job.client.requests[job.client_id]
        job.step(JobInput.CANCEL)
        self._let_go(job)
        job.service.running -= 1
        job.service.cancelling += 1
        assert job.offer is not None
        job.offer.session.link.put(c.Cancel(job.id))

    # ---- time

    def _move_deadline(self, job: Job, deadline: float) -> None:
        job.deadline = deadline
        if job.state is QUEUED:
            self._timers.set(job, min(deadline, job.appear))

    def _forward_time_left(self, job: Job, left: float) -> None:
        if job.offer is not None:
            job.offer.session.link.put_heartbeat(job.id, left)

    def _share_deadline(self, entry: KeyedClient, now: float) -> None:
        """A keyed execution lasts as long as the most patient of its callers."""
        job, deadline = entry.job, entry.deadline
        if job is not None and job.deadline != deadline:
            self._move_deadline(job, deadline)
            self._forward_time_left(job, max(deadline - now, 0.0))

"""What waits for a service, and which of it a worker gets next."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .job import Job
    from .service import Offer
    from .session import Session

#: How many different sets of workers may have rejected what waits, of one service and one `worker`.
MAX_REJECTIONS: Final = 256


class Queue:
    """The jobs that wait for one service.

    They wait per client, and the clients take turns.  Those that not every worker may have wait apart, with their like:
    by the worker that they want, and by those that have rejected them.
    """

    __slots__ = ("_choosy", "_choosy_of", "_queues", "queued", "queued_bytes")

    def __init__(self) -> None:
        self._queues: OrderedDict[Session, OrderedDict[int, Job]] = OrderedDict()
        #: Jobs that not every worker may have, by the worker's name, None for any, and by who rejected them.
        self._choosy: dict[str | None, dict[frozenset[Session] | None, OrderedDict[int, Job]]] = {}
        #: How many of them each client has.
        self._choosy_of: Counter[Session] = Counter()
        self.queued = self.queued_bytes = 0

    def enqueue(self, job: Job, *, first: bool = False) -> None:
        """Let a job wait; `first` before all others of its client."""
        if job.choosy:
            like = self._choosy.setdefault(job.wanted, {})
            like.setdefault(job.rejected_by, OrderedDict())[job.id] = job
            self._choosy_of[job.owner] += 1
        else:
            queue = self._queues.get(job.owner)
            if queue is None:
                queue = self._queues[job.owner] = OrderedDict()
            queue[job.id] = job
            if first:
                queue.move_to_end(job.id, last=False)
        self.queued += 1
        self.queued_bytes += job.size

    def dequeue(self, job: Job) -> None:
        """Take a job out of the queue, wherever it is."""
        if job.choosy:
            like = self._choosy[job.wanted]
            del like[job.rejected_by][job.id]
            if not like[job.rejected_by]:
                del like[job.rejected_by]
            if not like:
                del self._choosy[job.wanted]
            self._choosy_of[job.owner] -= 1
            if not self._choosy_of[job.owner]:
                del self._choosy_of[job.owner]
        else:
            queue = self._queues[job.owner]
            del queue[job.id]
            if not queue:
                del self._queues[job.owner]
        self.queued -= 1
        self.queued_bytes -= job.size

    def waiting(self, client: Session) -> int:
        """Return how many jobs of a client wait here."""
        return len(self._queues.get(client, ())) + self._choosy_of[client]

    def next_job(self, offer: Offer) -> Job | None:
        """Take the job that this worker gets next: clients take turns; a choosy job waits for none that is younger."""
        client, queue = next(iter(self._queues.items()), (None, None))
        job = next(iter(queue.values())) if queue else None
        choosy = self._choosy_for(offer) if self._choosy else None
        if choosy is not None and (job is None or choosy.id < job.id):
            self.dequeue(choosy)
            return choosy
        if job is None or client is None:
            return None
        self.dequeue(job)
        if queue:
            self._queues.move_to_end(client)
        return job

    def _choosy_for(self, offer: Offer) -> Job | None:
        """Return the oldest job of those that are choosy, and that this worker may have."""
        session, oldest = offer.session, None
        for wanted in (session.name, None):
            for rejected_by, jobs in self._choosy.get(wanted, {}).items():
                if rejected_by is None or session not in rejected_by:
                    job = next(iter(jobs.values()))
                    if oldest is None or job.id < oldest.id:
                        oldest = job
        return oldest

    def too_choosy(self, job: Job) -> bool:
        """Whether a job was rejected by other workers than any that waits, and too many are as special: see above."""
        if job.rejected_by is None:
            return False
        like = self._choosy.get(job.wanted, {})
        return len(like) >= MAX_REJECTIONS and job.rejected_by not in like

    def choosy_jobs(self) -> list[Job]:
        """Return the jobs that wait and that not every worker may have."""
        return [job for like in self._choosy.values() for jobs in like.values() for job in jobs.values()]

    def queued_jobs(self) -> list[Job]:
        """Return every job that waits."""
        return [*self.choosy_jobs(), *(job for queue in self._queues.values() for job in queue.values())]

"""One request, seen from the broker."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

from ..._wire import commands as c

if TYPE_CHECKING:
    from .keys import KeyedClient
    from .service import Offer, Service
    from .session import Session


class JobState(enum.IntEnum):
    """Where a job is."""

    #: Waits for a worker's slot.
    QUEUED = 0
    #: A worker has it.
    RUNNING = 1
    #: A worker has it, and its caller has left: it keeps its slot until the worker says that it ended.
    CANCELLING = 2
    ENDED = 3


class JobInput(enum.IntEnum):
    """What can happen to a job."""

    #: It goes to a worker.
    DISPATCH = 0
    #: Its worker sent the final reply.
    REPLY = 1
    #: Its worker sent an error.
    FAIL = 2
    #: Its worker rejected it, or was lost, and it goes back to the queue.
    REQUEUE = 3
    #: Its worker was lost, and it may not run again.
    LOSE = 4
    #: Its caller left.
    CANCEL = 5
    #: Its deadline passed before a worker had it.
    EXPIRE = 6
    #: No worker is there to take it, or every one of them rejected it.
    REFUSE = 7


#: What a request counts for in the broker's memory, beside its body and its texts.
JOB_BYTES: Final = 2**10
#: When the time of a request that has no deadline is up.
INFINITE: Final = math.inf

# What each request needs is at hand: to look it up in the enum takes 65 ns more.
QUEUED, RUNNING, CANCELLING, ENDED = Q, R, C, E = (
    JobState.QUEUED,
    JobState.RUNNING,
    JobState.CANCELLING,
    JobState.ENDED,
)
REPLY = JobInput.REPLY

#: What becomes of a job.  An input that a state does not list can't happen: the machine asks before it acts.
TRANSITIONS: Final[dict[JobState, dict[JobInput, JobState]]] = {
    Q: {JobInput.DISPATCH: R, JobInput.CANCEL: E, JobInput.EXPIRE: E, JobInput.REFUSE: E},
    R: {
        JobInput.REPLY: E,
        JobInput.FAIL: E,
        JobInput.REQUEUE: Q,
        JobInput.LOSE: E,
        JobInput.CANCEL: C,
        JobInput.REFUSE: E,
    },
    C: {JobInput.REPLY: E, JobInput.FAIL: E, JobInput.LOSE: E, JobInput.REFUSE: E},
    E: {},
}
#: The table's column for what every job goes through: a quarter of the time that `Job.step` takes.
DISPATCHED: Final = {state: row[JobInput.DISPATCH] for state, row in TRANSITIONS.items() if JobInput.DISPATCH in row}


class Job:
    """A request, from its arrival to its outcome.

    Attributes:
        id: the broker's own, which its worker knows it by.
        client: who gets the replies.
        owner: in whose turn it waits.
        asked: the name that was asked for; `service` may be a wildcard, or a version, that it stands for.
        client_id: the id that its client gave it.
        request: as it came, while it may have to be sent to (another) worker: until the first partial reply.
        deadline: on the machine's clock.
        appear: while it is queued and no worker is there for it: when it will have waited long enough for one.
        rejected_by: the sessions that will not be asked again.
        choosy: not every worker of the service may have it.
    """

    __slots__ = (
        "appear",
        "asked",
        "bytes",
        "choosy",
        "client",
        "client_id",
        "deadline",
        "given",
        "id",
        "messages",
        "offer",
        "owner",
        "partials",
        "rejected_by",
        "request",
        "retries",
        "service",
        "size",
        "state",
        "wanted",
    )

    def __init__(
        self,
        id: int,
        client: Session | KeyedClient,
        owner: Session,
        service: Service,
        request: c.Request,
        size: int,
        now: float,
    ) -> None:
        self.id = id
        self.client = client
        self.owner = owner
        self.client_id = request.id
        self.asked = request.service
        self.service = service
        self.request: c.Request | None = request
        self.size = size
        self.state = QUEUED
        left = request.left
        self.deadline = INFINITE if left is None else now + left
        self.appear = INFINITE
        self.retries = request.retry
        #: Only the worker of this name may have it.
        self.wanted = wanted = request.worker
        self.choosy = wanted is not None
        self.offer: Offer | None = None
        #: Some worker has seen it.
        self.given = False
        #: Credit that the worker has left.
        self.messages = request.messages
        self.bytes = request.bytes
        self.partials = 0
        self.rejected_by: frozenset[Session] | None = None

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.service.name!r} {self.state.name}>"

    def step(self, event: JobInput) -> None:
        """Change state; a KeyError is a defect of the machine."""
        self.state = TRANSITIONS[self.state][event]

    def suits(self, offer: Offer) -> bool:
        """Whether this worker may have the job."""
        if self.wanted is not None and offer.session.name != self.wanted:
            return False
        return self.rejected_by is None or offer.session not in self.rejected_by

    def reject(self, session: Session) -> None:
        """This worker will not run it."""
        self.rejected_by = frozenset((*(self.rejected_by or ()), session))
        self.choosy = True


def deadline_of(request: c.Request, now: float) -> float:
    """Return when the time of a request that has just come is up."""
    return INFINITE if request.left is None else now + request.left

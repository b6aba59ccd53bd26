"""One request, seen from its caller."""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ..._errors import InvalidArgument, MessageTooLarge
from ..._wire import commands as c
from ..weights import headers_size

if TYPE_CHECKING:
    from ..._errors import RequestError
    from ..uplink import Uplink

INF: Final = math.inf
#: The inbox of a call whose partial replies nobody reads.
_NOTHING: Final[deque[c.Partial]] = deque(maxlen=0)
_NOBODY: Final[frozenset[Uplink]] = frozenset()


class CallState(enum.IntEnum):
    """Where a call is."""

    #: Made, not yet started.
    NEW = 0
    #: Started while no broker is connected.
    WAITING = 1
    #: With a broker.
    SENT = 2
    #: It has its outcome, or nobody wants one.
    ENDED = 3


# As an attribute of its class, each of them costs 50 nanoseconds.
NEW, WAITING, SENT, ENDED = CallState
#: Where a call is that its caller can leave.
OPEN: Final = (SENT, WAITING)


class CallInput(enum.IntEnum):
    """What can happen to a call."""

    WAIT = 0
    SEND = 1
    #: Its broker is lost, and it may run again.
    AGAIN = 2
    END = 3


WAIT, SEND, AGAIN, END = CallInput

TRANSITIONS: Final[dict[CallState, dict[CallInput, CallState]]] = {
    CallState.NEW: {
        CallInput.WAIT: CallState.WAITING,
        CallInput.SEND: CallState.SENT,
        CallInput.END: CallState.ENDED,
    },
    CallState.WAITING: {CallInput.SEND: CallState.SENT, CallInput.END: CallState.ENDED},
    CallState.SENT: {CallInput.AGAIN: CallState.NEW, CallInput.END: CallState.ENDED},
    CallState.ENDED: {},
}


class Call:
    """One request of a client, from `start` to its outcome.

    Attributes:
        deadline: what the handler is told; `enforced` is when the machine itself ends the call, infinite where the
            caller's own scope does.
        heard: when the last sign of life came, or the caller began to wait.
        looked: when its caller last began to wait, or looked at its deadline.
        inbox: partial replies that came and were not yet taken.
        outcome: the final reply or the error; None until it is there.
        granted: bytes of credit that the worker still has; below zero when it overdrew.
        window: messages that may be on their way or unread.
        window_bytes: bytes that may be, of a stream; and how many of it were read, `read_bytes`.
        low: bytes of credit and unread replies, at or below which more credit is granted.
        unread: bytes in the inbox that count as unread.
        handed: the oldest in the inbox counts as read already.
        claimed: the broker that it was sent to was restarted, and asked for it.
        refused_by: brokers that did not run it, and said so.
        hasty: it has waited long enough for brokers of which nothing is known yet.
        waited_for: the caller waits for it now.
        waiter: belongs to the shell: whom to wake when there is news.
    """

    #: Of streams alone.
    window_bytes: int
    read_bytes: int

    __slots__ = (
        "__weakref__",
        "claimed",
        "deadline",
        "deadline_is_callers",
        "discards",
        "enforced",
        "granted",
        "granted_messages",
        "handed",
        "hasty",
        "heard",
        "id",
        "inbox",
        "looked",
        "low",
        "outcome",
        "partials",
        "read_bytes",
        "refused_by",
        "request",
        "retries",
        "sent_deadline",
        "state",
        "timeout",
        "unread",
        "uplink",
        "waited_for",
        "waiter",
        "window",
        "window_bytes",
    )

    def __init__(self, request: c.Request, explicit_deadline: float | None = None, discards: bool = False) -> None:
        """Make a call; `request` without id, credit, and time left, which the machine fills in.

        Args:
            explicit_deadline: when the handler's time is over, and the call ends, on the machine's clock; None where
                the caller's own scopes say so: then `deadline` is to be set before the start.
            discards: nobody reads partial replies.
        """
        self.request = request
        self.state = NEW
        self.id = 0
        self.uplink: Uplink | None = None
        self.deadline_is_callers = explicit_deadline is None
        self.deadline = INF if explicit_deadline is None else explicit_deadline
        self.enforced = self.deadline
        self.sent_deadline = INF
        self.timeout = INF if request.timeout is None else request.timeout
        self.discards = discards
        self.retries = request.retry
        self.heard = 0.0
        self.looked = 0.0
        self.partials = 0
        self.inbox: deque[c.Partial] = _NOTHING if discards else deque()
        self.outcome: c.Final | RequestError | None = None
        self.granted = 0
        self.granted_messages = 0
        self.window = 0
        self.low = 0
        self.unread = 0
        self.handed = False
        self.claimed = False
        self.refused_by = _NOBODY
        self.hasty = False
        self.waited_for = False
        self.waiter: Any = None

    def __repr__(self) -> str:
        return f"<Call {self.id} of {self.request.service!r} {self.state.name}>"

    def step(self, event: CallInput) -> None:
        """Change state; a KeyError is a defect of the machine."""
        self.state = TRANSITIONS[self.state][event]


def check_request(request: c.Request, limits: c.Limits) -> None:
    """Make sure that a broker with these limits would take a request.

    Raises:
        MessageTooLarge: the payload, the headers, or a name is too long.
        InvalidArgument: a name or a header is no text, or `retry` is more than the wire has room for.
    """
    size, service = len(request.body), request.service  # type: ignore[arg-type]
    special = request.headers or request.key or request.worker or request.retry or not service.isascii()
    if not special and size <= limits.message and len(service) <= limits.service:
        return
    try:
        sizes = (
            ("the payload", size, limits.message),
            ("the headers", headers_size(request.headers) if request.headers else 0, limits.headers),
            ("the service name", len(service.encode()), limits.service),
            ("the key", len(request.key.encode()) if request.key else 0, c.MAX_NAME),
            ("the worker's name", len(request.worker.encode()) if request.worker else 0, c.MAX_NAME),
        )
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a name or a header is no text: {error.reason}") from None
    for what, size, limit in sizes:
        if size > limit:
            raise MessageTooLarge(f"{what}: {size:,} bytes, the limit is {limit:,}", service=service[:80])
    if request.retry > c.MAX_RETRY:
        raise InvalidArgument(f"retry: {request.retry:,} is above {c.MAX_RETRY:,}", service=service)

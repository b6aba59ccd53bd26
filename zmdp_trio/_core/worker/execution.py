"""One request, seen from the worker that runs it."""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..._wire import commands as c
from ..shared import AHEAD, Fingerprint, Origin, fingerprint

if TYPE_CHECKING:
    from ..uplink import Uplink
    from .counters import Counters
    from .leases import Lease


#: Partial replies, and bytes of them, that an execution keeps until its caller has read them; with less credit than
#: this under way, which our clients never exceed by default, none is let go earlier.
KEPT_MESSAGES: Final = 4_096
KEPT_BYTES: Final = 4 * 2**20


class ExecutionState(enum.IntEnum):
    """Where an execution is."""

    RUNNING = 0
    #: Nobody wants its replies any more; the handler has not ended yet, and keeps its slot.
    CANCELLING = 1
    ENDED = 2


class ExecutionInput(enum.IntEnum):
    """What can happen to an execution."""

    #: The caller has left, or the session is over.
    CANCEL = 0
    #: The handler has ended, one way or another.
    END = 1


TRANSITIONS: Final[dict[ExecutionState, dict[ExecutionInput, ExecutionState]]] = {
    ExecutionState.RUNNING: {
        ExecutionInput.CANCEL: ExecutionState.CANCELLING,
        ExecutionInput.END: ExecutionState.ENDED,
    },
    ExecutionState.CANCELLING: {
        ExecutionInput.CANCEL: ExecutionState.CANCELLING,
        ExecutionInput.END: ExecutionState.ENDED,
    },
    ExecutionState.ENDED: {},
}


#: A member by its dotted name costs 80 nanoseconds in Python 3.11, and these are looked at with each reply.
RUNNING: Final = ExecutionState.RUNNING
END: Final = ExecutionInput.END


class Execution:
    """A request that a worker runs.

    Attributes:
        request: as it came.
        id: the broker's, by which it goes on the wire: another one after the broker was restarted.
        payload: tells it from others with the same key; None without one.
        sent: partial replies that its caller may not have read, in case that the broker is lost with them; their ids
            may be old.
        lease: of its service and broker, on which its slot is; void once it is orphaned.
        deadline: on the machine's clock; `math.inf` for none.
        counters: those of its service.
        orphaned: the session that it belongs to is over: its outcome has nowhere to go, unless its caller claims it.
        handler: belongs to the shell.
    """

    __slots__ = (
        "_granted",
        "bytes",
        "counters",
        "deadline",
        "handler",
        "id",
        "lease",
        "messages",
        "orphaned",
        "partials",
        "payload",
        "request",
        "sent",
        "sent_bytes",
        "state",
        "uplink",
    )

    def __init__(self, request: c.Request, uplink: Uplink, lease: Lease, counters: Counters, now: float) -> None:
        self.request = request
        self.lease = lease
        self.counters = counters
        self.id = request.id
        self.payload: Fingerprint | None = None if request.key is None else fingerprint(request)
        self.uplink = uplink
        self.state = RUNNING
        self.deadline = math.inf if request.left is None else now + request.left
        self.messages = request.messages
        self.bytes = request.bytes
        self.partials = 0
        #: Made at the first of them: most requests have none.
        self.sent: deque[c.Partial] | None = None
        self.sent_bytes = 0
        #: Messages of credit that there ever were.
        self._granted = request.messages
        self.orphaned = False
        self.handler: Any = None

    def __repr__(self) -> str:
        return f"<Execution {self.id} of {self.request.service!r} {self.state.name}>"

    @property
    def active(self) -> bool:
        """Somebody still wants its replies."""
        return self.state is RUNNING

    @property
    def ended(self) -> bool:
        """Its outcome was reported."""
        return self.state is ExecutionState.ENDED

    @property
    def has_credit(self) -> bool:
        """A partial reply may be sent now: its reader and the connection have room."""
        return self.messages > 0 and self.bytes > 0 and not self.uplink.choked

    @property
    def asked(self) -> str:
        """The name that its caller asked for; that which the worker offers is `request.service`."""
        return self.request.asked or self.request.service

    @property
    def offered(self) -> str:
        """The name that the worker offers, if another one was asked for; else empty."""
        return self.request.service if self.request.asked else ""

    @property
    def origin(self) -> Origin:
        """What it is called whichever broker it came by."""
        return self.request.caller, self.request.call

    @property
    def first(self) -> int:
        """Number of the first partial reply in `sent`."""
        return self.partials - len(self.sent or ())

    def keep(self, partial: c.Partial, size: int) -> None:
        """Count a partial reply of so many bytes, and keep it until it has been read."""
        self.messages -= 1
        self.bytes -= size
        self.partials += 1
        if not self.request.caller:
            return  # nobody can claim it
        self.sent_bytes += size
        sent = self.sent
        if sent is None:
            sent = self.sent = deque()
        sent.append(partial)
        if len(sent) > KEPT_MESSAGES or self.sent_bytes > KEPT_BYTES:
            self._let_go_too_many(sent)

    def grant(self, messages: int, size: int) -> None:
        """Add credit.  A caller grants anew what it has read, and lets a long stream be further ahead by and by."""
        self.messages += messages
        self.bytes += size
        self._granted += messages
        sent = self.sent
        if sent:
            unread = max(self.request.messages, self._granted // AHEAD)
            self._let_go(sent, min(self._granted - unread - self.first, len(sent)))

    def _let_go_too_many(self, sent: deque[c.Partial]) -> None:
        while len(sent) > KEPT_MESSAGES or (self.sent_bytes > KEPT_BYTES and len(sent) > 1):
            self._let_go(sent, 1)

    def _let_go(self, sent: deque[c.Partial], number: int) -> None:
        size = 0
        for _ in range(number):
            size += len(sent.popleft().body)  # type: ignore[arg-type]
        self.sent_bytes -= size

    def go_on(self, uplink: Uplink, command: c.Resume, now: float) -> list[c.Partial] | None:
        """Belong to a restarted broker's session; return the partial replies to send again, None if some are gone."""
        again = unread(self.sent, self.first, command)
        if again is None:
            return None
        self.id = command.id
        self.uplink = uplink
        self.orphaned = False
        self.deadline = math.inf if command.left is None else now + command.left
        self.messages = command.messages - len(again)
        self.bytes = command.bytes - sum(len(partial.body) for partial in again)  # type: ignore[arg-type, misc]
        self._granted = self.partials + self.messages
        return again

    def step(self, event: ExecutionInput) -> None:
        """Change state; a KeyError is a defect of the machine."""
        self.state = TRANSITIONS[self.state][event]


def unread(sent: Iterable[c.Partial] | None, first: int, command: c.Resume) -> list[c.Partial] | None:
    """Return those of the partial replies `sent`, numbered from `first`, that a caller has not got, under their new id.

    None if some of them are gone; an empty list if nobody reads them.
    """
    if command.received is None:
        return []
    if command.received < first:
        return None
    rest = islice(sent or (), command.received - first, None)
    return [msgspec.structs.replace(partial, id=command.id) for partial in rest]

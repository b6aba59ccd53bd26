"""One request, seen from the worker that runs it."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, Final

from ..._wire import commands as c

if TYPE_CHECKING:
    from ..uplink import Uplink


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


class Execution:
    """A request that a worker runs.

    Attributes:
        request: as it came; `request.id` is the broker's.
        deadline: on the machine's clock; `math.inf` for none.
        orphaned: the session that it belongs to is over: its outcome has nowhere to go.
        handler: belongs to the shell.
    """

    __slots__ = ("bytes", "deadline", "handler", "messages", "orphaned", "partials", "request", "state", "uplink")

    def __init__(self, request: c.Request, uplink: Uplink, now: float) -> None:
        self.request = request
        self.uplink = uplink
        self.state = ExecutionState.RUNNING
        self.deadline = math.inf if request.left is None else now + request.left
        self.messages = request.messages
        self.bytes = request.bytes
        self.partials = 0
        self.orphaned = False
        self.handler: Any = None

    def __repr__(self) -> str:
        return f"<Execution {self.request.id} of {self.request.service!r} {self.state.name}>"

    @property
    def active(self) -> bool:
        """Somebody still wants its replies."""
        return self.state is ExecutionState.RUNNING

    @property
    def ended(self) -> bool:
        """Its outcome was reported."""
        return self.state is ExecutionState.ENDED

    @property
    def has_credit(self) -> bool:
        """A partial reply may be sent now: its reader and the connection have room."""
        return self.messages > 0 and self.bytes > 0 and not self.uplink.choked

    def step(self, event: ExecutionInput) -> None:
        """Change state; a KeyError is a defect of the machine."""
        self.state = TRANSITIONS[self.state][event]

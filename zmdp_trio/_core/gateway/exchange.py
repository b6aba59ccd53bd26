"""A request and its reply, and the connection that waits for it."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Any

from ..._wire import reqrep
from ..._wire.frames import Frames


class Fate(enum.Enum):
    """What became of an exchange."""

    #: The service's reply was sent,
    REPLIED = enum.auto()
    #: or its error,
    FAILED = enum.auto()
    #: or the gateway's own, and no service was asked.
    REFUSED = enum.auto()
    #: The client had left before that.
    CANCELLED = enum.auto()


class Exchange:
    """One request, until its reply was sent.

    Attributes:
        body: what is asked; empty when there is a reply.
        reply: what is sent; None while the request runs.
        fate: None until it is known.
        sender: which of those that the connection carries.
        cost: bytes that it counts for.
        scope: belongs to the shell: cancels what it does for this exchange.
    """

    __slots__ = ("body", "client", "cost", "envelope", "fate", "reply", "scope", "sender")

    def __init__(self, client: ReqClient, envelope: Frames, body: Frames) -> None:
        self.client = client
        self.envelope = envelope
        self.body = body
        self.reply: Frames | None = None
        self.fate: Fate | None = None
        self.sender = reqrep.sender(envelope)
        self.cost = 0
        self.scope: Any = None

    @property
    def running(self) -> bool:
        """Whether somebody waits for the reply, and it is not there."""
        return self.fate is None


class ReqClient:
    """One connection that waits for something; to the engine, a link.

    Attributes:
        queues: by sender, the exchanges from the first one without a reply on.
        ready: exchanges whose replies may be sent.
        held: all of them.
        bytes: what they count for.
        blocked: the transport has no room for the first reply.
    """

    __slots__ = ("_dirty", "_sent", "blocked", "bytes", "held", "peer", "queues", "ready", "scheduled")

    def __init__(self, peer: bytes, dirty: list[ReqClient], sent: Callable[[Exchange], None]) -> None:
        self.peer: bytes | None = peer
        self.queues: dict[tuple[bytes, ...], deque[Exchange]] = {}
        self.ready: deque[Exchange] = deque()
        self.held: dict[Exchange, None] = {}
        self.bytes = 0
        self.blocked = False
        self.scheduled = False
        self._dirty = dirty
        self._sent = sent

    def add(self, exchange: Exchange) -> None:
        """Put an exchange behind the others of its sender."""
        self.held[exchange] = None
        self.queues.setdefault(exchange.sender, deque()).append(exchange)

    def release(self, sender: tuple[bytes, ...]) -> None:
        """Make the replies at the head of a sender's queue ready."""
        queue = self.queues[sender]
        while queue and queue[0].reply is not None:
            self.ready.append(queue.popleft())
        if not queue:
            del self.queues[sender]
        self.schedule()

    def schedule(self) -> None:
        """Have the client looked at when the machine is next flushed."""
        if not self.scheduled:
            self.scheduled = True
            self._dirty.append(self)

    def next_batch(self) -> Frames | None:
        """Return the reply to offer to the transport now; None when there is none."""
        if not self.ready:
            return None
        self.blocked = True
        return self.ready[0].reply

    def batch_sent(self) -> None:
        """The transport took that reply."""
        self.blocked = False
        self._sent(self.ready.popleft())

    def close(self) -> None:
        """Nothing can be sent any more."""
        self.peer = None
        self.blocked = False
        self.ready.clear()
        self.queues.clear()
        self.held.clear()

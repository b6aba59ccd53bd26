"""One connection to a broker of another kind: messages out, in order, and what is known of the other side."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..._wire.frames import Frame, Frames
from ..uplink import Lane, Uplink

if TYPE_CHECKING:
    from .link import ForeignLink


class ForeignLane(Lane):
    """A connection, and what is to be sent over it.

    Attributes:
        peer: what the engine reaches the broker by; None while there is no connection.
        heard: when the broker last said something, or could first be expected to; None if that begins now.
    """

    def __init__(self, link: ForeignLink, name: str) -> None:
        self.link = link
        self.name = name
        self.reason = ""
        self.peer: Any = None
        self.scheduled = False
        self.heard: float | None = None
        self._outbox: deque[Frames] = deque()
        self._ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {'up' if self.up else 'down'}>"

    @property
    def uplink(self) -> Uplink:
        return self.link.uplink

    @property
    def up(self) -> bool:
        """It is connected."""
        return self.peer is not None

    def routing_id(self) -> bytes:
        return self.link.routing_id()

    # ---- connections

    def join(self, now: float) -> None:
        """It is connected from now on."""
        self.peer = self.name
        self.heard = now
        self.reason = ""

    def part(self, reason: str) -> None:
        """Its connection is gone, and whatever was not sent."""
        self.peer = None
        self.reason = reason
        for frames in self._outbox:
            self.link.outbox_bytes -= _size(frames)
        self._outbox.clear()
        self._end_if_closed()

    def end(self) -> None:
        """Close it for good, when what it has to send has left."""
        self.closed = True
        self._end_if_closed()

    def _end_if_closed(self) -> None:
        if self.closed and not self._ended and (not self._outbox or not self.up):
            self._ended = True
            self.link.wiring.closed.append(self)

    def silent_for(self, now: float) -> float:
        """Return for how many seconds the broker has said nothing."""
        if self.heard is None:
            self.heard = now
        return now - self.heard

    # ---- messages

    def send(self, frames: Frames) -> None:
        """Queue a message."""
        self._outbox.append(frames)
        self.link.outbox_bytes += _size(frames)
        self.schedule()

    def unsend(self, frames: Frames) -> bool:
        """Take a message back; tell whether it was still here."""
        for i, each in enumerate(self._outbox):
            if each is frames:
                del self._outbox[i]
                self.link.outbox_bytes -= _size(frames)
                return True
        return False

    def has(self, frames: Frames) -> bool:
        """Whether a message is still here."""
        return any(each is frames for each in self._outbox)

    def receive(self, frames: Sequence[Frame], now: float) -> list[Any]:
        self.heard = now
        return self.link.receive(self, frames, now)

    def spoil(self, reason: str) -> bool:
        self.reason = reason
        return self.link.exclusive

    # ---- for the engine, as of a `Link`

    def schedule(self) -> None:
        """Have it looked at when the machine is next flushed."""
        if not self.scheduled:
            self.scheduled = True
            self.link.wiring.dirty.append(self)

    def next_batch(self) -> Frames | None:
        """Return the message to offer to the transport now; None when there is none."""
        return self._outbox[0] if self._outbox else None

    def batch_sent(self) -> None:
        """The transport took the message that `next_batch` returned."""
        self.link.outbox_bytes -= _size(self._outbox.popleft())
        if self.closed:
            self._end_if_closed()

    def close(self) -> None:
        """It turned out to be gone before anybody told."""
        self.peer = None


def _size(frames: Sequence[Frame]) -> int:
    return sum(map(len, frames)) + 64

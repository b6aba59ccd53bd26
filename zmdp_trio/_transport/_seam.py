"""The seam between the engine and a network.

A `Port` is one side of a network: bound, with many peers, or dialled, with one.  It moves messages (lists of
frames) and tells of connections; it knows no protocol.  Everything but `wait` is synchronous and never blocks, so
that no cancellation point stands between reading a message and handing it over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Protocol, TypeAlias

import attrs

from .._wire.frames import Frame, Frames

#: The peer of a dialled port: it has only one.
DIALLED: Final = b""


class PeerGone(Exception):
    """The peer that a message was meant for can't be reached, and won't be again under this name."""


class EndpointError(Exception):
    """An endpoint can't be bound or dialled: malformed, in use, not permitted.  Says which one and why."""


@attrs.frozen
class Connected:
    """The connection to the dialled peer stands; messages may be sent."""


@attrs.frozen
class Lost:
    """A connection ended, or never came to be.  A dialled port is of no more use after this."""

    reason: str


#: What `Port.receive` returns: who, and the frames that came or what happened to the connection.
Received: TypeAlias = tuple[bytes, "Frames | Connected | Lost"]


@attrs.frozen
class Options:
    """What a port must know of the protocol's settings."""

    #: Seconds between probes of the connection by the transport itself; `math.inf` for none.
    heartbeat: float = 2.5
    #: Probes that may go unanswered before the connection counts as lost.
    misses: int = 3
    #: Bytes in the largest frame that is taken; a larger one ends the connection that it came on.
    max_frame: int = 64 * 2**20 + 2**16
    #: What the other side is to call a dialled port, where it can: up to 255 bytes that don't begin with a zero, and
    #: that no other port uses there.  Empty for what the transport makes up.
    routing_id: bytes = b""

    @property
    def silence(self) -> float:
        """Seconds without a sign of life after which a connection counts as lost."""
        return self.heartbeat * self.misses if self.heartbeat < math.inf else math.inf


class Port(Protocol):
    """One side of a network, for the tasks of one Trio run: any may use it, one at a time may `wait`."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses in use, wildcards resolved: `tcp://127.0.0.1:*` reads `tcp://127.0.0.1:49152`."""

    def receive(self) -> Sequence[Received]:
        """Take what has come, in order, up to some bound; empty when there is nothing.

        `Lost` comes once, after all that the peer had sent; on a bound port only for peers that were
        heard of.

        Raises:
            trio.ClosedResourceError: the port was closed.
        """

    def settled(self) -> bool:
        """Tell whether nothing was left to receive, so that `wait` returns for whatever has come since, or comes.

        Whoever has sent or received must have seen this, or a `receive` that returned empty, before anybody waits: a
        send may use up the sign that something has come.

        Raises:
            trio.ClosedResourceError: the port was closed.
        """

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Hand a message over whole.

        Returns:
            False if the peer's queue is full: nothing was taken, offer it again when `wait` next returns.

        Raises:
            PeerGone: the peer is unknown, or no longer connected.
            trio.ClosedResourceError: the port was closed.
        """

    async def wait(self) -> bool:
        """Return when `receive`, or a `send` that was refused, may have news; the first time soon.

        May be cancelled; nothing is missed.

        Returns:
            False if there is nothing to look at, since only `recall` was called.  True promises nothing.

        Raises:
            trio.ClosedResourceError: the port was closed.
        """

    def recall(self) -> None:
        """Have the `wait` that some task is in return soon; on a port that was closed, do nothing."""

    def close(self) -> None:
        """Let go of everything at once; messages already taken get a short, bounded time to leave."""


async def attend(port: Port, look: Callable[[], None]) -> NoReturn:
    """Call `look` whenever a port may have news, for those who use it alone; where nobody has waited yet, soon.

    Raises:
        trio.ClosedResourceError: the port was closed.
    """
    while True:
        await port.wait()
        look()

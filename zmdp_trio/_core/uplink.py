"""The dialled side of a session: the greeting, and what happens to it as connections come and go.

DOWN --connected--> GREETING --welcome--> UP --lost--> DOWN
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count
from typing import Any, Final

import attrs

from .._errors import ProtocolError
from .._settings import Settings
from .._wire import zmdp1
from .._wire.commands import VERSION, Command, Goodbye, Hello, Limits, Offer, Welcome
from .._wire.frames import Frame
from .link import Link
from .timers import Timers

#: Why somebody who is there is of no use.
UNANSWERED: Final = "connected, but not answered as by a broker that speaks zmdp/1"


class State(enum.IntEnum):
    """Where an uplink is."""

    DOWN = 0
    GREETING = 1
    UP = 2
    #: The broker refused the greeting for good.
    REFUSED = 3


#: At hand for what asks for each request: as an attribute of its class it costs 80 nanoseconds.
UP: Final = State.UP


class Input(enum.IntEnum):
    """What can happen to an uplink."""

    CONNECTED = 0
    WELCOME = 1
    REFUSAL = 2
    LOST = 3


TRANSITIONS: Final[dict[State, dict[Input, State]]] = {
    State.DOWN: {Input.CONNECTED: State.GREETING, Input.LOST: State.DOWN},
    State.GREETING: {Input.WELCOME: State.UP, Input.REFUSAL: State.REFUSED, Input.LOST: State.DOWN},
    State.UP: {Input.REFUSAL: State.REFUSED, Input.LOST: State.DOWN},
    State.REFUSED: {Input.LOST: State.DOWN},
}


class Greeted(enum.Enum):
    """How a WELCOME left the session."""

    FRESH = "fresh"
    #: Fresh, since the broker is another one than that which the session was with.
    RESTARTED = "restarted"
    RESUMED = "resumed"
    REFUSED = "refused"
    #: What came was no answer, but overtook it.
    NOT_YET = "not yet"


@attrs.frozen
class Identity:
    """What a peer says of itself in every greeting."""

    #: Random, at least 16 bytes, known to this peer and its broker alone.
    session: bytes
    name: str

    def towards(self, endpoint: str) -> Identity:
        """Return the identity for one of several brokers.

        So none of them can pass for this peer at another, and two endpoints of one broker are two peers to it.
        """
        return attrs.evolve(self, session=blake2b(self.session + endpoint.encode(), digest_size=16).digest())


class Lane:
    """One connection to a broker, as the engine keeps it: dialled, and dialled again when it is lost.

    Attributes:
        name: what the engine finds it by, and the `peer` of what is sent over it.
        reason: why it is of no more use, or was lost; for people.
        closed: it is never to be dialled again, and what still comes is for nobody.
    """

    name: str
    reason: str
    closed = False

    @property
    def uplink(self) -> Uplink:
        """What it is part of."""
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """Where it leads."""
        return self.uplink.endpoint

    def routing_id(self) -> bytes:
        """Return what the broker is to call the next connection; empty for what the transport makes up."""
        return b""

    def receive(self, frames: Sequence[Frame], now: float) -> list[Any]:
        """Return the commands that a message brought.

        Raises:
            ProtocolError: it can't be read, or was not to be expected.
        """
        raise NotImplementedError

    def spoil(self, reason: str) -> bool:
        """The broker does not make sense: note it, and tell whether the connection is of no more use."""
        raise NotImplementedError


class Wiring:
    """What uplinks have for their machine to take: links and lanes, in lists that are never replaced."""

    def __init__(self, timers: Timers[Any]) -> None:
        self.timers = timers
        #: Numbers for lanes.
        self.serial = count(1)
        #: What has something to send.
        self.dirty: list[Any] = []
        #: Lanes that are to be dialled, beside those that an uplink begins with.
        self.opened: list[Lane] = []
        #: Lanes that are to be closed for good, when what they have to send has left.
        self.closed: list[Lane] = []
        #: Lanes whose connections are of no more use.
        self.unusable: list[Lane] = []


class Due:
    """What may stand among a machine's timers: its uplink has found something out by the time that is set."""

    uplink: Uplink


class Uplink(Lane):
    """A session with one broker, seen from the peer that dials.

    Here it has one connection, and is that, too; to a broker of another kind it may have several.
    """

    link: Any

    def __init__(self, endpoint: str, identity: Identity, settings: Settings, dirty: list[Link]) -> None:
        self.name = self._endpoint = endpoint
        self.link = Link(dirty)
        self._hello: Hello
        self.state = State.DOWN
        self.broker = ""
        self.epoch = b""
        #: What the broker takes; until it said so, what we would.
        self.limits = Limits.of(settings)
        #: Why the broker refused the greeting, or the connection was lost; for people.
        self.reason = ""
        #: The broker would not have us; `reason` tells why, and another try would end the same way.
        self.unwelcome = False
        #: The broker wants no new requests.
        self.draining = False
        #: What waited to be sent when the session was found to be over.
        self.unsent: Sequence[Command] = ()
        #: Too much waits for the broker: partial replies have to wait too.
        self.choked = False
        #: Commands of the broker that nothing was made of, since nothing waited for it.
        self.answers = 0
        #: The endpoint is no longer one of ours: no new requests, and in the end no connection.
        self.retiring = False
        self._identity = identity
        self._settings = settings
        self._connected_at = 0.0

    def __repr__(self) -> str:
        return f"<Uplink {self.endpoint} {self.state.name}>"

    @property
    def uplink(self) -> Uplink:
        return self

    @property
    def endpoint(self) -> str:
        return self._endpoint

    @property
    def lanes(self) -> list[Lane]:
        """Its connections."""
        return [self]

    @property
    def resume(self) -> float:
        """Seconds that the session has to come back after its connection was lost."""
        return self._settings.resume

    @property
    def reruns(self) -> bool:
        """The broker runs again by itself what may run again when its worker is lost."""
        return True

    @property
    def up(self) -> bool:
        """Commands put now leave at once."""
        return self.state is UP

    @property
    def unanswered(self) -> bool:
        """It is connected, and was not answered within a heartbeat interval."""
        return self.state is State.GREETING and self.reason == UNANSWERED

    @property
    def wanted(self) -> bool:
        """New requests may go there, as far as is known."""
        return not (self.draining or self.retiring)

    @property
    def untried(self) -> bool:
        """It was never connected, and nothing tells that it can't be."""
        return not (self.up or self.reason)

    def _step(self, event: Input) -> None:
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise ProtocolError(f"{event.name} while {self.state.name}") from None

    def connected(self, offers: list[Offer] | None) -> None:
        """Greet the broker over a new connection."""
        self._step(Input.CONNECTED)
        self.link.close()
        self.link.peer = self.endpoint
        self._hello = Hello(
            version=VERSION,
            session=self._identity.session,
            name=self._identity.name,
            epoch=self.epoch,
            limits=Limits.of(self._settings),
            heartbeat=self._settings.heartbeat,
            features=[],
            offers=offers,
        )
        self._greet()

    def _greet(self) -> None:
        self.link.put_uncounted(self._hello, received=self.link.received)

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._step(Input.LOST)
        self.reason = reason
        self.draining = False
        self.link.close()

    def refused(self, reason: str, *, unwelcome: bool = False) -> None:
        """The session is over: whatever else comes over this connection is not for the next one."""
        self._step(Input.REFUSAL)
        self.reason = reason
        self.unwelcome = unwelcome

    def receive(self, frames: Sequence[Frame], now: float) -> list[Any]:
        """Return the commands of a message, the BATCH first; before the broker's WELCOME, none."""
        commands: list[Any] = self.link.receive(frames) if self.state is State.UP else []
        return commands

    def spoil(self, reason: str) -> bool:
        self.reason = reason
        # A new session: the old one would have what we can't read sent again.
        self.epoch = b""
        return True

    def joined(self, lane: Lane, now: float) -> None:
        """One of the lanes is connected, and the uplink is no longer DOWN."""
        self._connected_at = now

    def survives(self, lane: Lane, reason: str, now: float) -> bool:
        """One of the lanes has lost its connection, or got none: tell whether there are others."""
        return False

    def take_found(self, now: float) -> Sequence[Any]:
        """Return commands that no message brought, and forget them."""
        return ()

    def greet(self, frames: Sequence[Frame]) -> Greeted:
        """Read the broker's answer to the greeting; if it refused, `reason` tells why.

        Raises:
            ProtocolError: it can't be read, or is no answer to a greeting.
        """
        commands, _ = zmdp1.decode(frames)
        if commands[0].sequence:
            return Greeted.NOT_YET
        answer = commands[1] if len(commands) > 1 else None
        if isinstance(answer, Goodbye):
            self.refused(answer.reason, unwelcome=answer.refused)
            return Greeted.REFUSED
        if not isinstance(answer, Welcome):
            raise ProtocolError("the broker did not answer the greeting")
        return self._welcome(answer, commands[0].received)

    def _welcome(self, answer: Welcome, received: int) -> Greeted:
        if answer.version != VERSION:
            raise ProtocolError(f"the broker speaks version {answer.version}, this peer {VERSION}")
        if answer.resumed and answer.epoch != self.epoch:
            raise ProtocolError("the broker goes on with a session that is not ours")
        restarted = answer.epoch != self.epoch != b""
        if not answer.resumed:
            self.link.reset()
            self.unsent = self.link.drop_outbox()
            received = 0
        assert self.link.peer is not None
        self.link.open(self.link.peer, received)
        self._step(Input.WELCOME)
        self.broker, self.epoch, self.limits = answer.broker, answer.epoch, answer.limits
        self.reason = ""
        self.unwelcome = False
        if answer.resumed:
            return Greeted.RESUMED
        return Greeted.RESTARTED if restarted else Greeted.FRESH

    def beat(self, now: float, *, busy: bool) -> None:
        """Say what is due after a heartbeat interval: nothing at all, on an idle session."""
        if self.state is State.GREETING:
            if now >= self._connected_at + self._settings.heartbeat:
                self.reason = UNANSWERED
            self._greet()
        elif self.state is State.UP:
            self.link.beat(busy=busy)

    def goodbye(self) -> None:
        """End the session for good: the last thing that is sent."""
        if self.up:
            self.link.put(Goodbye())
        elif self.link.peer is not None:
            self.link.put_uncounted(Goodbye())

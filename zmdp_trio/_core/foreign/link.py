"""What a `Link` is to our own broker: the machine's commands, in the words of another dialect, over several lanes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ..._settings import Settings
from ..._wire import commands as c
from ..._wire.frames import Frame, Frames
from ..._wire.majordomo import Dialect, Route
from ..._wire.majordomo.messages import Message
from ..timers import NOW
from ..uplink import Due, Identity, Input, Lane, Uplink, Wiring
from .lane import ForeignLane
from .names import Names


class ForeignUplink(Uplink):
    """A broker of another kind: it needs no greeting, knows no sessions, and may be reached over several lanes."""

    link: ForeignLink

    def __init__(self, link: ForeignLink, identity: Identity, settings: Settings) -> None:
        super().__init__(link.endpoint, identity, settings, [])
        self.link = link
        link.uplink = self

    @property
    def lanes(self) -> list[Lane]:
        return [*self.link.lanes()]

    @property
    def resume(self) -> float:
        """What was sent over a lost connection is lost."""
        return 0.0

    @property
    def reruns(self) -> bool:
        return False

    def connected(self, offers: list[c.Offer] | None) -> None:
        self._step(Input.CONNECTED)
        self._step(Input.WELCOME)
        self.broker, self.reason = self.endpoint, ""
        self.link.connected(offers or ())

    def lost(self, reason: str) -> None:
        self._step(Input.LOST)
        self.reason = reason

    def joined(self, lane: Lane, now: float) -> None:
        assert isinstance(lane, ForeignLane)
        self.link.now = now
        lane.join(now)
        self.link.joined(lane)

    def survives(self, lane: Lane, reason: str, now: float) -> bool:
        assert isinstance(lane, ForeignLane)
        if lane.closed:
            lane.part(reason)
            return True
        self.link.now = now
        self.link.parted(lane, reason)
        return self.up and any(lane.up for lane in self.link.lanes())

    def take_found(self, now: float) -> Sequence[Any]:
        self.link.now = now
        return self.link.take_found()

    def beat(self, now: float, *, busy: bool) -> None:
        self.link.now = now
        if self.up:
            self.link.beat()

    def goodbye(self) -> None:
        self.link.goodbye()


class ForeignLink(Due):
    """The part of an uplink that machines put commands into.

    Attributes:
        exclusive: what a lane says is known by its being said on that lane, so one that makes no sense is given up.
        outbox_bytes: what waits to be sent.
        now: what time it was when something last came or was due.
    """

    uplink: ForeignUplink
    _in: ClassVar[Route]
    _out: ClassVar[Route]
    #: How each command of the machine is said; what is not listed, the dialects have no words for.
    _says: ClassVar[dict[type[c.Command], Callable[[Any, Any], None]]] = {}
    # What only a numbered session has.
    peer = None
    duplicates = received = 0

    def __init__(self, dialect: Dialect, endpoint: str, identity: Identity, settings: Settings, wiring: Wiring) -> None:
        self.endpoint = endpoint
        self.dialect = dialect
        self.settings = settings
        self.wiring = wiring
        self.exclusive = not dialect.numbered
        self.outbox_bytes = 0
        self.now = 0.0
        self._identity = identity
        self._names = Names(identity.session)
        self._found: list[Any] = []

    # ---- for the machine

    def put(self, command: c.Command, size: int = 0) -> None:
        """Say a command, as far as the dialect has words for it."""
        say = self._says.get(type(command))
        if say is not None:
            say(self, command)

    def put_credit(self, credit: c.Credit) -> None:
        """More partial replies may be passed on."""
        self.put(credit)

    @property
    def scheduled(self) -> bool:
        """A turn is wanted."""
        return bool(self._found or self.wiring.dirty)

    @property
    def outbox(self) -> bool:
        """Something waits to be sent."""
        return self.outbox_bytes > 0

    @property
    def flushed(self) -> bool:
        """All was handed to the transport."""
        return not self.outbox

    def drop_outbox(self) -> list[c.Command]:
        """Forget everything; return the requests that were not sent."""
        self._found.clear()
        return []

    def take_found(self) -> Sequence[Any]:
        """Return commands that no message brought."""
        found, self._found = self._found, []
        return found

    def find(self, *commands: c.Command) -> None:
        """Let the machine have commands that no message brought."""
        self._found += commands
        self.wiring.timers.set(self, NOW)

    # ---- for the uplink

    @abstractmethod
    def lanes(self) -> Sequence[ForeignLane]:
        """Return the lanes that are not closed."""

    def routing_id(self) -> bytes:
        """Return what the broker is to call one connection."""
        return b""

    def connected(self, offers: Sequence[c.Offer]) -> None:
        """The first lane is connected."""

    @abstractmethod
    def joined(self, lane: ForeignLane) -> None:
        """A lane is connected."""

    @abstractmethod
    def parted(self, lane: ForeignLane, reason: str) -> None:
        """A lane's connection is gone."""

    @abstractmethod
    def receive(self, lane: ForeignLane, frames: Sequence[Frame], now: float) -> list[Any]:
        """Return the commands that a message stands for.

        Raises:
            ProtocolError: it can't be read, or was not to be expected.
        """

    @abstractmethod
    def beat(self) -> None:
        """A heartbeat interval has passed."""

    def goodbye(self) -> None:
        """Take leave."""

    # ---- for themselves

    def lane_name(self) -> str:
        """Return a name that no other lane has."""
        return f"{self.endpoint}#{next(self.wiring.serial)}"

    def encode(self, message: Message) -> Frames:
        """Return a message's frames."""
        return self.dialect.encode(self._out, message)

    def decode(self, frames: Sequence[Frame]) -> Message:
        """Return the message that frames stand for.

        Raises:
            ProtocolError: whatever is wrong with them.
        """
        return self.dialect.decode(self._in, frames)

    def give_up_if_silent(self, lane: ForeignLane) -> bool:
        """Have a lane dialled anew whose broker has said nothing for too long; tell whether that is so."""
        silence = lane.silent_for(self.now)
        if silence < self.settings.silence:
            return False
        lane.reason = f"the broker has been silent for {silence:.3g} s"
        self.wiring.unusable.append(lane)
        return True

"""What clients and workers of the older dialects have in common.

To the machine such a peer is a session like any other: its `link` has the methods of a `Link`, takes the same commands,
and returns the same.  On the wire there are messages of the peer's dialect, one by one, unnumbered; what was sent over
a connection that was lost is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...._settings import Settings
from ...._wire import commands as c
from ...._wire.frames import Frame, Frames
from ...._wire.majordomo import Dialect, Route, detect, is_worker
from ...._wire.majordomo import messages as m
from ...link import Ledger
from ...timers import NOW, Timers
from ...weights import COMMAND_BYTES

if TYPE_CHECKING:
    from ..session import Session, SessionLink


class Finder(ABC):
    """What may stand among the machine's timers and, when its time has come, has found out commands for the machine."""

    __slots__ = ()

    #: Whose commands they are.
    session: Session

    @abstractmethod
    def due(self, now: float) -> Sequence[Any]:
        """Return commands, as though the peer had sent them."""


class LegacyPeer(Finder):
    """The two directions of a session with a peer that speaks an older dialect."""

    #: What each message that comes stands for, as commands.  These raise ProtocolError for what is not to be expected.
    _hears: ClassVar[dict[type[m.Message], Callable[[Any, Any], list[Any]]]] = {}
    #: How to say each command of the machine; what is not listed, the dialects have no words for.
    _says: ClassVar[dict[type[c.Command], Callable[[Any, Any], None]]] = {}
    is_worker: ClassVar[bool]
    _route_in: ClassVar[Route]
    _route_out: ClassVar[Route]
    # What only a numbered session has.
    received = duplicates = skipped = 0
    awaits_ack = False

    def __init__(
        self,
        identity: bytes,
        dialects: Sequence[Dialect],
        dirty: list[SessionLink],
        timers: Timers[Any],
        settings: Settings,
        ledger: Ledger,
    ) -> None:
        """Make the link of a peer; of several dialects that it may speak the first counts until it is known."""
        self._identity = identity
        self._dialects = dialects
        self._speak(dialects[0])
        self._dirty = dirty
        self._timers = timers
        self._settings = settings
        #: What is kept for callers; a worker's outbox is requests, which count already.
        self._ledger = ledger
        self._outbox_ledger = Ledger() if self.is_worker else ledger
        self.peer: Any = None
        self.opened = False
        self.scheduled = False
        #: Messages, what they count for, and what is to be told when they have left.
        self.outbox: deque[tuple[Frames, int, Any]] = deque()
        self.outbox_bytes = 0
        #: For the machine, as soon as it looks.
        self._found: list[Any] = []

    # ---- in

    def receive(self, frames: Sequence[Frame]) -> list[Any]:
        """Return the commands that a message stands for, behind those that were found before it came.

        Raises:
            ProtocolError: it is malformed, or not to be expected.
        """
        if self._ambiguous:
            self._settle_on(detect(self._identity, frames))
        message = self._decode(frames)
        commands = self._hears[type(message)](self, message)
        return [*self._take_found(), *commands] if self._found else commands

    def due(self, now: float) -> Sequence[Any]:
        return self._take_found()

    def _find(self, *commands: Any) -> None:
        """Let the machine have commands that no message brought."""
        self._found.extend(commands)
        self._timers.set(self, NOW)

    def _take_found(self) -> list[Any]:
        found, self._found = self._found, []
        return found

    def _settle_on(self, dialects: Sequence[Dialect]) -> None:
        self._dialects = [each for each in self._dialects if each in dialects] or self._dialects[:1]
        self._speak(self._dialects[0])

    def _speak(self, dialect: Dialect) -> None:
        """Take a dialect for the peer's; what each message needs of it is kept at hand."""
        self.dialect = dialect
        self._decode = dialect.decoder(self._route_in)
        self._encoders = dialect.encoders(self._route_out)
        #: What came so far may be of several dialects.
        self._ambiguous = len(self._dialects) > 1

    def disowns(self, frames: Sequence[Frame]) -> bool:
        """Whether a message is another peer's, who came to this one's connection: of another dialect, or role.

        Raises:
            ProtocolError: it is of no dialect at all.
        """
        return self.dialect not in detect(self._identity, frames) or is_worker(frames) is not self.is_worker

    # ---- out

    def put(self, command: c.Command, size: int = 0) -> None:
        """Say a command in the peer's words, if there are any; what these weigh is seen then."""
        say = self._says.get(type(command))
        if say is not None:
            say(self, command)

    def put_credit(self, credit: c.Credit) -> None:
        """Let a worker send more replies; a client gets no credit."""

    def put_heartbeat(self, id: int, left: float | None = None) -> None:
        """Tell the peer that a request lives, if that means something to it."""

    def put_uncounted(self, command: c.Command, *, received: int = 0) -> None:
        """Answer a greeting; no older dialect has any."""

    def say(self, message: m.Message, told: Any = None) -> None:
        """Queue a message; `told` is given to `_left` when it has left."""
        frames = self._encoders[type(message)](message)
        size = COMMAND_BYTES + sum(map(len, frames))
        self.outbox.append((frames, size, told))
        self.outbox_bytes += size
        self._outbox_ledger.bytes += size
        self.schedule()

    def _say_alive(self) -> None:
        """Beat; but whatever waits is a sign of life too, and of one who does not read, no two beats are kept."""
        if not self.outbox:
            self.say(m.Heartbeat())

    def schedule(self) -> None:
        """Have the link looked at when its machine is next flushed."""
        if not self.scheduled:
            self.scheduled = True
            self._dirty.append(self)

    def next_batch(self) -> Frames | None:
        """Return the message to offer to the transport now; None when there is none."""
        return self.outbox[0][0] if self.outbox else None

    def batch_sent(self) -> None:
        """Tell that the transport took the message that `next_batch` returned."""
        told = self._pop()
        if told is not None:
            self._left(told)

    def _pop(self) -> Any:
        """Take the first message out, and return who is to be told."""
        _, size, told = self.outbox.popleft()
        self.outbox_bytes -= size
        self._outbox_ledger.bytes -= size
        if told is not None:
            self._taken_out(told)
        return told

    def _taken_out(self, told: Any) -> None:
        """A message that was to be told of is in the outbox no more, whether it has left or not."""

    def _left(self, told: Any) -> None:
        """A message that was to be told of has left."""

    # ---- connections

    def open(self, peer: Any, received: int) -> None:
        """Go on over a new connection."""
        self.peer = peer
        self.opened = True
        self.schedule()

    def close(self) -> None:
        """Forget the connection, and nothing else."""
        self.peer = None
        self.opened = False

    def drop_outbox(self) -> list[c.Command]:
        """Forget what waits to be sent."""
        while self.outbox:
            self._pop()
        return []

    def reset(self) -> None:
        """Let go of whatever is kept for the session, which is over."""
        self._timers.cancel(self)
        self._found.clear()

    @property
    @abstractmethod
    def may_return(self) -> bool:
        """Whether a session may go on over another connection."""

    @property
    @abstractmethod
    def queues(self) -> bool:
        """Its requests wait for a service as long as the setting says."""

    @property
    def request_beats(self) -> bool:
        """Heartbeats for single requests are its own affair, and mean something to it."""
        return self.dialect.request_beats

    @property
    def flushed(self) -> bool:
        """All was handed to the transport."""
        return not self.outbox

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes queued or kept for this peer."""

    # ---- liveness

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which the peer is gone."""
        return self._settings.heartbeat * self._settings.misses

    def beat(self, *, busy: bool = False) -> None:
        """Say what is due after a heartbeat interval."""

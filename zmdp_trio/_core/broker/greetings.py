"""Who the broker's peers are, from HELLO to being shunned.

A peer is known by its connection, its session by the random id that its HELLO tells: so a session goes on over another
connection, if that comes in time.  A mistake ends it, and whoever made that is told once and ignored from then on.
What is another matter for the peers of older dialects, `LegacyArrivals` lays on top.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, Final

from ..._errors import ProtocolError
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire import zmdp1
from ..._wire.frames import Frame
from ..link import Link
from .recovery import Recovery
from .session import Session, SessionLink

#: Peers that were told that they are not welcome, or are gone, and are ignored from then on.
MAX_SHUNNED = 10_000
#: Peers that were dropped, and that nobody has taken note of yet.
MAX_DROPPED: Final = 1_000


class Greetings(Recovery):
    """The table of peers: how they come, and how they go."""

    name: str
    epoch: bytes
    #: The dialects that are understood, by name; None for all.
    protocols: Collection[str] | None

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Links that have something to send.
        self._dirty: list[SessionLink] = []
        self._peers: dict[bytes, Session] = {}
        self._sessions: dict[Any, Session] = {}
        self._shunned: OrderedDict[bytes, None] = OrderedDict()
        self._dropped: list[tuple[str, str]] = []
        #: Peers that were told to come again later, since there were too many.
        self.turned_away = 0
        #: Messages and commands that were not to be expected.
        self.protocol_errors = 0
        #: Messages that came twice, in sessions that are over.
        self.duplicates = 0
        #: Commands whose tags are unknown, in sessions that are over.
        self._skipped = 0

    @abstractmethod
    def _handlers(self, *, is_worker: bool) -> dict[type[c.Command], Any]:
        """Return what the commands of clients, or of workers, do."""

    @abstractmethod
    def _on_offers(self, session: Session, offers: Sequence[c.Offer], now: float) -> None:
        """A worker offers services."""

    @abstractmethod
    def _expect_beats(self, now: float) -> None:
        """Somebody is there to beat for."""

    # ---- how they come

    def _receive_greeting(self, peer: bytes, frames: Sequence[Frame], now: float) -> None:
        """Take the first message of a connection."""
        if peer in self._shunned:
            return
        try:
            commands, skipped = zmdp1.decode(frames)
            self._skipped += skipped
            hello = commands[1] if len(commands) > 1 else None
            if isinstance(hello, c.Goodbye):
                # It left before its greeting did.
                return
            if not isinstance(hello, c.Hello):
                raise ProtocolError("greet first")
            if self.protocols is not None and zmdp1.NAME not in self.protocols:
                raise ProtocolError(self._what_is_spoken)
            if hello.version != c.VERSION:
                raise ProtocolError(f"version {hello.version} is not supported, this broker speaks {c.VERSION}")
            if not 16 <= len(hello.session) <= c.MAX_NAME or len(hello.name.encode()) > c.MAX_NAME:
                raise ProtocolError(f"a session id has 16 to {c.MAX_NAME} bytes, a name at most as many")
            if hello.session not in self._sessions and not self._has_room():
                self._turn_away(peer)
                return
            self._greet(peer, hello, commands[0].received, now)
        except ProtocolError as error:
            session = self._peers.pop(peer, None)
            if session is not None:
                self._end_session(session, now)
            self._shun(peer, session, str(error))

    def _greet(self, peer: bytes, hello: c.Hello, received: int, now: float) -> None:
        session = self._sessions.get(hello.session)
        if session is not None and session.link.peer is not None:
            # The old connection is dead, though nobody told us yet.
            self._peers.pop(session.link.peer, None)
            session.link.close()
        if hello.epoch not in (b"", self.epoch):
            self._note_predecessor(now)
        resumed = session is not None and hello.epoch == self.epoch and not session.is_worker and hello.offers is None
        if session is not None and not resumed:
            self._end_session(session, now)
        if session is None or not resumed:
            handlers = self._handlers(is_worker=hello.offers is not None)
            session = Session.of(hello, self._dirty, handlers, self._ledger, self.settings)
            self._sessions[hello.session] = session
            received = 0
        self._timers.cancel(session)
        self._peers[peer] = session
        session.heard = now
        session.resumed = resumed
        session.link.open(peer, received)
        self._welcome(session)
        if self.draining:
            session.link.put(c.Drain())
        if hello.offers:
            self._on_offers(session, hello.offers, now)
        self._expect_beats(now)

    def _welcome(self, session: Session) -> None:
        welcome = c.Welcome(
            version=c.VERSION,
            broker=self.name,
            epoch=self.epoch,
            resumed=session.resumed,
            limits=c.Limits.of(self.settings),
            heartbeat=self.settings.heartbeat,
            features=[],
        )
        session.link.put_uncounted(welcome, received=session.link.received)

    def _has_room(self) -> bool:
        """Whether one more peer may come."""
        return len(self._sessions) < self.settings.broker_sessions

    def _on_hello(self, session: Session, command: c.Hello, now: float) -> None:
        """The greeting came again: our answer may have been lost."""
        if command.session != session.id:
            raise ProtocolError("a second session over the same connection")
        self._welcome(session)

    @property
    def _what_is_spoken(self) -> str:
        return f"this broker is set to speak {', '.join(sorted(self.protocols or ()))} alone"

    def _ignore(self, session: Session, command: c.Command, now: float) -> None:
        """The BATCH was the link's."""

    # ---- how they go

    def _on_goodbye(self, session: Session, command: c.Goodbye, now: float) -> None:
        self._end_session(session, now, polite=True)

    def _end_session(self, session: Session, now: float, *, polite: bool = False) -> None:
        """A peer is gone for good: its requests are cancelled, the jobs it held are lost."""
        session.ended = True
        self._timers.cancel(session)
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
        if session.link.peer is not None:
            self._peers.pop(session.link.peer, None)
        session.link.close()
        session.link.drop_outbox()
        session.link.reset()
        self.duplicates += session.link.duplicates
        self._skipped += session.link.skipped
        for job in list(session.requests.values()):
            self._leave(job, now)
        self._forget_holdings(session)
        self._remove_worker(session, now, lost=not (session.draining or polite))

    def _turn_away(self, peer: bytes) -> None:
        """Too many peers are here: tell one to come again later."""
        self.turned_away += 1
        self._dismiss(peer, None, f"{self.settings.broker_sessions:,} peers are here, come again later", refused=False)

    def _shun(self, peer: bytes, session: Session | None, reason: str) -> None:
        """Tell a peer once that it is not welcome; ignore it from then on."""
        self.protocol_errors += 1
        self._dismiss(peer, session, reason, refused=True)

    def _dismiss(self, peer: bytes, session: Session | None, reason: str, *, refused: bool) -> None:
        self._note_dropped(peer, session, reason)
        self._ignore_peer(peer)
        link = Link(self._dirty)
        link.peer = peer
        link.put_uncounted(c.Goodbye(reason, refused=refused))

    def _ignore_peer(self, peer: bytes) -> None:
        """Pass over whatever comes over this connection."""
        self._shunned[peer] = None
        if len(self._shunned) > MAX_SHUNNED:
            self._shunned.popitem(last=False)

    def _note_dropped(self, peer: bytes, session: Session | None, reason: str, *, what: str = "") -> None:
        """Have it logged that a peer was dropped, or no more than `what` of it."""
        if len(self._dropped) < MAX_DROPPED:
            self._dropped.append((what + _describe(peer, session), reason))

    def _blame(self, session: Session, frames: Sequence[Frame], error: ProtocolError, now: float) -> None:
        """A message was malformed, or not to be expected."""
        self._drop(session, str(error), now)

    def _drop(self, session: Session, reason: str, now: float) -> None:
        peer = session.link.peer
        self._end_session(session, now)
        if peer is not None:
            self._shun(peer, session, reason)

    def take_dropped(self) -> list[tuple[str, str]]:
        """Return the peers that were dropped, or turned away, and why, for a log; and forget them."""
        dropped, self._dropped = self._dropped, []
        return dropped


#: What every peer may send, and what it does.
PEER_COMMANDS: Final[dict[type[c.Command], Any]] = {
    c.Batch: Greetings._ignore,
    c.Hello: Greetings._on_hello,
    c.Goodbye: Greetings._on_goodbye,
}


def _describe(peer: bytes, session: Session | None) -> str:
    """Say who a peer is, for people: an identity that is a text stands there as such, and once."""
    text = text_of(peer)
    if session is None:
        return f"peer {text!r}" if text else f"peer ({peer.hex()})"
    return f"{session.role} {session.name!r}" + ("" if session.name == text else f" ({peer.hex()})")


def text_of(peer: bytes) -> str:
    """Return an identity that is a text; empty for any other."""
    try:
        text = peer.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() and len(peer) <= c.MAX_NAME else ""

"""The broker's machine: who its peers are, from their greetings to their farewells.

A request's way: `ClientCommands._on_request` makes a job; `Placement` says which service it belongs to; `Dispatcher`
finds a worker for it, or lets it wait; `WorkerCommands` pass on what the worker says; a CANCEL, or the loss of either
side, ends it early.  After a restart, `Recovery` makes the job, of what its client claims and a worker holds.  Peers of
older dialects come by `LegacyArrivals`; from then on their links say, and are told, the same commands.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, Final

from ..._errors import ProtocolError
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire import zmdp1
from ..._wire.frames import Frame
from ..link import Link
from .claims import AwaitedKey, Claim, Holding
from .clients import CLIENT_COMMANDS, ClientCommands
from .demand import Demand
from .directory import Directory
from .job import Job
from .legacy import Finder, LegacyPeer
from .legacy.arrivals import LegacyArrivals, is_ours, text_of
from .recovery import Recovery
from .service import Service
from .session import Session, SessionLink
from .workers import WORKER_COMMANDS, WorkerCommands

#: Peers that were told that they are not welcome, or are gone, and are ignored from then on.
MAX_SHUNNED = 10_000
#: Peers that were dropped, and that nobody has taken note of yet.
MAX_DROPPED: Final = 1_000
#: Sessions that are seen to, and deadlines that are met, before requests get their turn: half a millisecond's work.
BEATS: Final = 256
DEADLINES: Final = 256


class BrokerMachine(LegacyArrivals, ClientCommands, WorkerCommands):
    """Sessions, jobs, and services.

    The engine calls `receive`, `lost`, `handle_timer`; then sends what the links in `take_dirty` hold.
    """

    def __init__(
        self, *, name: str, epoch: bytes, settings: Settings, protocols: Collection[str] | None = None
    ) -> None:
        """Make a broker's machine.

        Args:
            name: what peers know it as.
            epoch: random, and new with every start.
            settings: intervals and limits.
            protocols: the dialects that it understands, `zmdp/1` among them or not; None for all.
        """
        super().__init__(settings)
        self.name = name
        self.protocols = protocols
        self.epoch = epoch
        self._directory = Directory(name, self._services, self._routes)
        self._peers: dict[bytes, Session] = {}
        self._sessions: dict[Any, Session] = {}
        self._shunned: OrderedDict[bytes, None] = OrderedDict()
        self._farewells: dict[bytes, SessionLink] = {}
        self._refused: dict[bytes, SessionLink] = {}
        self._next_beat = math.inf
        #: Sessions that the beat which is due has not come to, the next one last.
        self._to_beat: list[Session] = []
        #: The session for which `busy` was last true.
        self._busy: Session | None = None
        self._dropped: list[tuple[str, str]] = []
        #: Peers that were told to come again later, since there were too many.
        self.turned_away = 0
        #: Messages and commands that were not to be expected.
        self.protocol_errors = 0
        #: Messages that came twice, in sessions that are over.
        self.duplicates = 0
        #: Commands whose tags are unknown, in sessions that are over.
        self._skipped = 0

    # ---- for the engine

    def receive(self, peer: bytes, frames: Sequence[Frame], *, now: float) -> None:
        """Take a message from a peer."""
        session = self._peers.get(peer)
        if session is None:
            self._receive_greeting(peer, frames, now)
            return
        session.heard = self._timers.now = self._keys.now = now
        try:
            handler_of = session.handlers.get
            for command in session.link.receive(frames):
                handle = handler_of(type(command))
                if handle is None:
                    raise ProtocolError(f"{type(command).__name__} from a {session.role}")
                handle(self, session, command, now)
                if session.ended:
                    return
        except ProtocolError as error:
            if isinstance(session.link, LegacyPeer):
                self._blame_legacy(session, session.link, frames, error, now)
            else:
                self._drop(session, str(error), now)
        if not session.is_worker and session.link.outbox_bytes > 2 * self.settings.outbox:
            # What waits for a worker is what clients sent: it gets no more work, and keeps what it has.
            self._drop(session, "it does not read what it asked for", now)
        if self._ledger.bytes > self.settings.broker_memory:
            self._relieve(now)
        if session.choked and session.link.outbox_bytes <= self.settings.outbox // 2:
            self._unchoke(session, now)

    def lost(self, peer: bytes, *, now: float) -> None:
        """A peer's connection is gone: a worker's jobs at once, a client's session unless it comes back in time."""
        self._shunned.pop(peer, None)
        self._forget_farewell(peer)
        self._timers.now = now
        session = self._peers.pop(peer, None)
        if session is None:
            return
        session.link.close()
        if session.is_worker or not session.link.may_return:
            self._end_session(session, now)
        else:
            back = max(now, session.heard + self.settings.silence)
            self._timers.set(session, min(back, now + self.settings.resume))

    def unreachable(self, peer: bytes, *, now: float) -> None:
        """Nothing can be sent to a peer: it is gone, though what it sent before may still come, and is ignored."""
        self.lost(peer, now=now)
        self._ignore_peer(peer)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due, or so much of it that nobody has to wait for long: `deadline` tells whether there is more."""
        self._timers.now = self._keys.now = now
        if now >= self._next_beat:
            self._beat(now)
        for key in islice(self._timers.pop_due(now), DEADLINES):
            if isinstance(key, Finder):
                self._obey(key, now)
            elif isinstance(key, Job):
                self._on_job_timer(key, now)
            elif isinstance(key, Session):
                self._end_session(key, now)
            elif isinstance(key, Claim):
                self._expire_claim(key)
            elif isinstance(key, Holding):
                self._forget_holding(key)
            elif isinstance(key, AwaitedKey):
                self._ripen(key, now)
            elif isinstance(key, Demand):
                self._timers.set(key, key.review(now))
            else:
                self._forget_service(key)

    @property
    def deadline(self) -> float:
        """When `handle_timer` is to be called; `math.inf` for never."""
        # At each turn, twice or more: `min` takes three times as long.
        beat, timer = self._next_beat, self._timers.deadline
        return beat if beat < timer else timer

    def take_dirty(self) -> list[SessionLink]:
        """Return the links that have something to send, and forget them."""
        dirty = self._dirty[:]
        self._dirty.clear()
        return dirty

    def take_dropped(self) -> list[tuple[str, str]]:
        """Return the peers that were dropped, or turned away, and why, for a log; and forget them."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def drain(self) -> None:
        """Refuse new requests from now on, and tell everybody."""
        if not self.draining:
            self.draining = True
            for session in self._sessions.values():
                session.link.put(c.Drain())

    @property
    def busy(self) -> bool:
        """Some request has no outcome yet, a reply has not left, or a client has not heard of the drain."""
        # While it drains this is asked at each turn, and mostly it is the same session.
        if self._busy is None or not self._is_busy(self._busy):
            self._busy = next(filter(self._is_busy, self._sessions.values()), None)
        return self._busy is not None

    def _is_busy(self, session: Session) -> bool:
        if session.ended:
            return False
        return bool(session.requests or session.held) or (session.link.opened and not self._told(session))

    def _told(self, session: Session) -> bool:
        """Whether a peer has all that is for it, and knows of a drain: since it says so, or acknowledged all."""
        link = session.link
        if not self.draining or session.is_worker or session.drained:
            return link.flushed
        return link.flushed and not link.awaits_ack

    def goodbye(self) -> None:
        """Take leave of everybody: the last thing that is sent."""
        for session in self._sessions.values():
            session.link.put(c.Goodbye("the broker stops"))

    # ---- greetings

    def _receive_greeting(self, peer: bytes, frames: Sequence[Frame], now: float) -> None:
        if peer in self._shunned:
            return
        if not is_ours(frames):
            self._receive_legacy(peer, frames, now)
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
        return len(self._sessions) < self.settings.broker_sessions

    def _handlers(self, *, is_worker: bool) -> dict[type[c.Command], Any]:
        return WORKER if is_worker else CLIENT

    def _expect_beats(self, now: float) -> None:
        self._next_beat = min(self._next_beat, now + self.settings.heartbeat)

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
        if len(self._dropped) < MAX_DROPPED:
            self._dropped.append((what + _describe(peer, session), reason))

    def _drop(self, session: Session, reason: str, now: float) -> None:
        """A peer broke the protocol, or does not read: forget it, tell it once, ignore it."""
        if isinstance(session.link, LegacyPeer):
            self._dismiss_legacy(session, reason, now)
            return
        peer = session.link.peer
        self._end_session(session, now)
        if peer is not None:
            self._peers.pop(peer, None)
            self._shun(peer, session, reason)

    def _relieve(self, now: float) -> None:
        """Too much waits for all clients together: drop those that let most wait, until it does not."""
        clients = (session for session in self._sessions.values() if not session.is_worker and session.link.held_bytes)
        for idlest in sorted(clients, key=lambda client: client.link.held_bytes, reverse=True):
            self._drop(idlest, "it does not read, and too much waits for all clients together", now)
            if self._ledger.bytes <= self.settings.broker_memory:
                return

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

    def _beat(self, now: float) -> None:
        """See to some sessions; to all of them in one go would keep requests waiting, where there are thousands."""
        # Who was asleep can't tell who was silent: what they said may still wait to be read.
        awake = now <= self._next_beat + self.settings.heartbeat
        if not self._to_beat:
            self._forget_farewells()
            self._tell_refused()
            self._to_beat = list(self._sessions.values())
            self._to_beat.reverse()
        for session in reversed(self._to_beat[-BEATS:]):
            if session.link.opened:
                session.link.beat()
                self._beat_requests(session)
                if awake:
                    self._check_life(session, now)
        del self._to_beat[-BEATS:]
        if not self._to_beat:
            self._next_beat = now + self.settings.heartbeat if self._sessions else math.inf

    # ---- from clients and workers

    def _on_goodbye(self, session: Session, command: c.Goodbye, now: float) -> None:
        self._end_session(session, now, polite=True)

    def _on_hello(self, session: Session, command: c.Hello, now: float) -> None:
        """The greeting came again: our answer may have been lost."""
        if command.session != session.id:
            raise ProtocolError("a second session over the same connection")
        self._welcome(session)

    def _ignore(self, session: Session, command: c.Command, now: float) -> None:
        """The BATCH was the link's."""

    # ---- statistics

    @property
    def skipped(self) -> int:
        """Commands whose tags are unknown, in all sessions there ever were."""
        return self._skipped + sum(session.link.skipped for session in self._sessions.values())

    @property
    def memory(self) -> int:
        """Bytes of requests that have no outcome, and of what waits for clients; `broker_memory` is their limit."""
        return self._ledger.bytes

    @property
    def timers(self) -> int:
        """How many deadlines of requests and sessions are watched."""
        return len(self._timers) - len(self._holdings)

    def services(self) -> list[Service]:
        """Return every service that is offered, waited for, or was lost lately."""
        return list(self._services.values())

    def sessions(self) -> list[Session]:
        """Return every session, connected or not."""
        return list(self._sessions.values())


def _describe(peer: bytes, session: Session | None) -> str:
    """Say who a peer is, for people: an identity that is a text stands there as such, and once."""
    text = text_of(peer)
    if session is None:
        return f"peer {text!r}" if text else f"peer ({peer.hex()})"
    return f"{session.role} {session.name!r}" + ("" if session.name == text else f" ({peer.hex()})")


#: What each command does, by who sends it: anything else from a greeted peer is a breach of the protocol.
_BOTH: Final[dict[type[c.Command], Any]] = {
    c.Batch: BrokerMachine._ignore,
    c.Hello: BrokerMachine._on_hello,
    c.Goodbye: BrokerMachine._on_goodbye,
}
CLIENT: Final = _BOTH | CLIENT_COMMANDS
WORKER: Final = _BOTH | WORKER_COMMANDS | {c.Holdings: Recovery._on_holdings}

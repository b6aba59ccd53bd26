"""The broker's machine, as its engine and its shell know it; each of its parts is a base class, in a module of its own.

A connection's way: `Greetings` say whose it is, and what becomes of that session; `Beats` look who is silent.  Peers of
older dialects come by `LegacyArrivals`; from then on their links say, and are told, the same commands.

A request's way: `ClientCommands._on_request` makes a job; `Placement` says which service it belongs to; `Dispatcher`
finds a worker for it, or lets it wait; `WorkerCommands` pass on what the worker says; a CANCEL, or the loss of either
side, ends it early; and `Endings` tell the client, and close the books.  After a restart, `Recovery` makes the job, of
what its client claims and a worker holds, and `AwaitedKeys` have those wait who ask for what a worker may have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, Final

from ..._errors import ProtocolError
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire.frames import Frame
from .beats import Beats
from .claims import AwaitedKey, Claim, Holding
from .clients import CLIENT_COMMANDS, ClientCommands
from .demand import Demand
from .directory import Directory
from .greetings import PEER_COMMANDS
from .job import Job
from .legacy import Finder
from .recovery import Recovery
from .service import Service
from .session import Session, SessionLink
from .workers import WORKER_COMMANDS, WorkerCommands

#: Deadlines that are met before requests get their turn: half a millisecond's work.
DEADLINES: Final = 256


class BrokerMachine(ClientCommands, WorkerCommands, Beats):
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
        #: The session for which `busy` was last true.
        self._busy: Session | None = None

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
            self._blame(session, frames, error, now)
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

    def _relieve(self, now: float) -> None:
        """Too much waits for all clients together: drop those that let most wait, until it does not."""
        clients = (session for session in self._sessions.values() if not session.is_worker and session.link.held_bytes)
        for idlest in sorted(clients, key=lambda client: client.link.held_bytes, reverse=True):
            self._drop(idlest, "it does not read, and too much waits for all clients together", now)
            if self._ledger.bytes <= self.settings.broker_memory:
                return

    def _handlers(self, *, is_worker: bool) -> dict[type[c.Command], Any]:
        return WORKER if is_worker else CLIENT

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


#: What each command does, by who sends it: anything else from a greeted peer is a breach of the protocol.
CLIENT: Final = PEER_COMMANDS | CLIENT_COMMANDS
WORKER: Final = PEER_COMMANDS | WORKER_COMMANDS | {c.Holdings: Recovery._on_holdings}

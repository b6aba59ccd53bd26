"""Peers of older dialects: how they come, what becomes of their mistakes, and how they go.

They don't greet.  A peer's first message tells which dialect it speaks, and from then on it is a session like any
other, whose link translates.  Where one of our own peers is shut out for a mistake, these are forgiven, as their RFCs
have it: a client's message is passed over, and a worker is told to start over.  Many workers do that at once, so one
whose offer was refused is told at the next beat only: else it would come and go as fast as it can, for ever.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from ...._errors import ProtocolError
from ...._settings import Settings
from ...._wire import commands as c
from ...._wire import zmdp1
from ...._wire.frames import Frame
from ...._wire.majordomo import detect, is_worker
from ..greetings import Greetings, text_of
from ..session import Session, SessionLink
from . import Finder, LegacyClient, LegacyPeer, LegacyWorker, NotReady

#: What our own messages begin with, whatever the version behind it.
_OURS: Final = zmdp1.MAGIC[:-1]
#: A legacy client can't claim its requests from a restarted broker: nothing is kept at workers for it to claim.
_NOBODY: Final = b""


class LegacyArrivals(Greetings):
    """The broker's side of peers that speak an older dialect."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: What was last said to workers that were dismissed, by peer, while it may not have left.
        self._farewells: dict[bytes, SessionLink] = {}
        #: Workers whose offers were refused, by peer: they are told at the next beat, and ignored until then.
        self._refused: dict[bytes, SessionLink] = {}

    @abstractmethod
    def receive(self, peer: bytes, frames: Sequence[Frame], *, now: float) -> None:
        """Take a message from a peer."""

    def _receive_greeting(self, peer: bytes, frames: Sequence[Frame], now: float) -> None:
        if is_ours(frames):
            super()._receive_greeting(peer, frames, now)
        elif peer not in self._shunned:
            self._receive_legacy(peer, frames, now)

    def _receive_legacy(self, peer: bytes, frames: Sequence[Frame], now: float) -> None:
        """Take the first message of a peer, or of one that has come back."""
        self._timers.now = self._keys.now = now
        if peer in self._refused:
            return
        try:
            session = self._recall(peer, frames, now) or self._meet(peer, frames)
        except ProtocolError as error:
            # In silence: an answer in a dialect that is not its own kills a Node peer.
            self.protocol_errors += 1
            self._note_dropped(peer, None, str(error))
            self._ignore_peer(peer)
            return
        if session is None:
            return
        self._timers.cancel(session)
        self._peers[peer] = self._sessions[session.id] = session
        session.link.open(peer, 0)
        session.heard = now
        self._expect_beats(now)
        self.receive(peer, frames, now=now)

    def _recall(self, peer: bytes, frames: Sequence[Frame], now: float) -> Session | None:
        """Return the session of a peer that was away, and has the name that it had."""
        session = self._sessions.get(_id(peer))
        if session is not None and isinstance(session.link, LegacyPeer) and session.link.disowns(frames):
            self._end_session(session, now)
            return None
        return session

    def _meet(self, peer: bytes, frames: Sequence[Frame]) -> Session | None:
        """Return a session for a new peer; None if there is no room for it.

        Raises:
            ProtocolError: it speaks no dialect that is understood.
        """
        dialects = [each for each in detect(peer, frames) if self.protocols is None or each.name in self.protocols]
        if not dialects:
            raise ProtocolError(self._what_is_spoken)
        if not self._has_room():
            self.turned_away += 1
            self._note_dropped(peer, None, f"{self.settings.broker_sessions:,} peers are here")
            return None
        worker = is_worker(frames)
        link: LegacyPeer = (LegacyWorker if worker else LegacyClient)(
            peer, dialects, self._dirty, self._timers, self.settings, self._ledger
        )
        session = link.session = Session(
            _id(peer),
            _name(peer, dialects[0].name),
            c.Limits.of(self.settings),
            link,
            self._handlers(is_worker=worker),
            is_worker=worker,
            digest=_NOBODY,
            appear=self.settings.legacy_wait if link.queues else math.inf,
        )
        return session

    def _obey(self, finder: Finder, now: float) -> None:
        """Do what a peer's own link has found out, as though the peer had said so."""
        session = finder.session
        try:
            for command in finder.due(now):
                session.handlers[type(command)](self, session, command, now)
        except ProtocolError as error:
            self._drop(session, str(error), now)

    def _blame(self, session: Session, frames: Sequence[Frame], error: ProtocolError, now: float) -> None:
        """A message was malformed, or not to be expected, or is another peer's who uses the same connection."""
        link = session.link
        peer = link.peer
        if not isinstance(link, LegacyPeer):
            super()._blame(session, frames, error, now)
        elif _is_anothers(link, frames):
            self._end_session(session, now)
            self._receive_greeting(peer, frames, now)
        elif isinstance(error, NotReady):
            # Nobody's mistake, and nothing for a log: after a restart of the broker, each of its workers comes so.
            self._end_session(session, now)
            self._bid_farewell(peer, link)
        elif session.is_worker:
            self._drop(session, str(error), now)
        else:
            self.protocol_errors += 1
            self._note_dropped(peer, session, str(error), what="a message of ")

    def _drop(self, session: Session, reason: str, now: float) -> None:
        if isinstance(session.link, LegacyPeer):
            self.protocol_errors += 1
            self._part(session, reason, now)
        else:
            super()._drop(session, reason, now)

    def _part(self, session: Session, reason: str, now: float) -> None:
        """Forget a peer that made a mistake, or is silent; a worker is told."""
        link = session.link
        peer = link.peer
        refused = not session.offers
        self._end_session(session, now)
        if peer is None:
            return
        self._note_dropped(peer, session, reason)
        if not session.is_worker:
            return  # no dialect has a word for that
        if refused:
            self._refused[peer] = link
            self._expect_beats(now)
        else:
            self._bid_farewell(peer, link)

    def _bid_farewell(self, peer: bytes, link: SessionLink) -> None:
        """Say the last word to a worker that is forgotten."""
        last = self._farewells.get(peer)
        # One that does not read, and makes one mistake after the other, is told once.
        if last is None or last.flushed:
            self._farewells[peer] = link
            link.open(peer, 0)
            link.put(c.Goodbye())

    def _forget_farewell(self, peer: bytes) -> None:
        """A connection is gone: what was not said over it is not for one who comes back under the same name."""
        self._refused.pop(peer, None)
        link = self._farewells.pop(peer, None)
        if link is not None:
            link.close()
            link.drop_outbox()

    def _tell_refused(self) -> None:
        """Say the last word to those whose offers were refused since the last beat: they may offer something else."""
        refused, self._refused = self._refused, {}
        for peer, link in refused.items():
            self._bid_farewell(peer, link)

    def _forget_farewells(self) -> None:
        """Let go of those that have been said."""
        if self._farewells:
            self._farewells = {peer: link for peer, link in self._farewells.items() if not link.flushed}


def is_ours(frames: Sequence[Frame]) -> bool:
    """Whether a message is ZMDP's, of whatever version; what has no frames, nobody else sends."""
    return not frames or bytes(memoryview(frames[0])[: len(_OURS)]) == _OURS


def _is_anothers(link: LegacyPeer, frames: Sequence[Frame]) -> bool:
    """Whether a message is not from the peer that the link is for."""
    if is_ours(frames):
        return True
    try:
        return link.disowns(frames)
    except ProtocolError:
        return False


def _id(peer: bytes) -> tuple[str, bytes]:
    """Return the key of a legacy peer's session, which no session of our own can have."""
    return ("legacy", peer)


def _name(peer: bytes, dialect: str) -> str:
    """Return whom others know a peer as: by the identity that it chose, if it is a text."""
    return text_of(peer) or f"{dialect}-{peer.hex()[-16:]}"

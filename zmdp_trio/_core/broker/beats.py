"""What the broker does at each heartbeat, though nobody has said anything."""

from __future__ import annotations

import math
from typing import Final

from ..._settings import Settings
from .job import RUNNING
from .legacy.arrivals import LegacyArrivals
from .session import Session

#: Sessions that are seen to before requests get their turn: half a millisecond's work.
BEATS: Final = 256


class Beats(LegacyArrivals):
    """Signs of life, ours and those of others."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._next_beat = math.inf
        #: Sessions that the beat which is due has not come to, the next one last.
        self._to_beat: list[Session] = []

    def _expect_beats(self, now: float) -> None:
        self._next_beat = min(self._next_beat, now + self.settings.heartbeat)

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

    def _beat_requests(self, session: Session) -> None:
        """Tell a worker that takes silence for having left who still waits, for callers that don't do so themselves."""
        if session.is_worker and session.link.request_beats:
            for job in session.held.values():
                if job.state is RUNNING and not job.owner.link.request_beats:
                    session.link.put_heartbeat(job.id)

    def _check_life(self, session: Session, now: float) -> None:
        """Part from a peer that has not given a sign of life for too long."""
        if now > session.heard + session.link.patience:
            self._part(session, f"it gave no sign of life for {session.link.patience:g} s", now)

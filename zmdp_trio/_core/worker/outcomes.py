"""What a worker's handlers lately came to, for a broker that is restarted before it has passed that on.

A broker's memory dies with it, and with that the replies that it had taken and not yet delivered, and the outcomes
that it kept for requests with a key.  The worker that made them keeps them too: all for about as long as the loss of a
broker may go unnoticed, those with a key for the key window.  Both tables are bounded in number and in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from ..._settings import Settings
from ..._wire import commands as c
from ..shared import Fingerprint, Origin, is_remembered
from .execution import Execution

#: What an outcome counts for in bytes, beside its body.
OVERHEAD: Final = 512


class Outcome(msgspec.Struct, gc=False):
    """How one execution ended.  There are thousands: such a struct is made fast, and is no work for the collector.

    Attributes:
        service: what was asked for; `offered` is what the worker offers, if that is another name.
        command: its FINAL or ERROR.
        first: number of the first of the partial replies in `sent`, which its caller may not have read.
        epoch: of the broker that the outcome was last sent to; empty for none.
    """

    caller: bytes
    call: int
    service: str
    offered: str
    key: str | None
    payload: Fingerprint | None
    endpoint: str
    epoch: bytes
    sent: deque[c.Partial] | None
    first: int
    command: c.Final | c.Error
    size: int
    at: float

    @property
    def origin(self) -> Origin:
        """What its request is called whichever broker it came by."""
        return self.caller, self.call

    def holding(self, now: float) -> c.Holding:
        """Return what a broker is told of it."""
        ended = max(now - self.at, 0.0)
        return c.Holding(self.caller, self.call, self.service, self.key, self.payload, ended, self.offered)


class _Table:
    """Outcomes, the oldest first, which are looked up by their origin after a broker's restart, and never else.

    So they are indexed when somebody asks for one: to do that for each would take half of the time that it is kept at.
    """

    def __init__(self, window: float, limit: int, size_limit: int) -> None:
        self._window = window
        self._limit = limit
        self._size_limit = size_limit
        self._size = 0
        #: All that count; those too whose request has come to something else since.
        self._ages: deque[Outcome] = deque()
        self._index: dict[Origin, Outcome] | None = None
        self._asked = False

    @property
    def outcomes(self) -> dict[Origin, Outcome]:
        """What each origin has come to, the oldest first."""
        self._asked = True
        if self._index is None:
            self._index = {outcome.origin: outcome for outcome in self._ages}
        return self._index

    def add(self, outcome: Outcome) -> None:
        if self._index is not None:
            self._index[outcome.origin] = outcome
        ages = self._ages
        ages.append(outcome)
        self._size += outcome.size
        while len(ages) > self._limit or self._size > self._size_limit:
            self._forget_oldest()

    def forget_old(self, now: float) -> None:
        while self._ages and self._ages[0].at + self._window <= now:
            self._forget_oldest()
        if not self._asked:
            self._index = None
        self._asked = False

    def _forget_oldest(self) -> None:
        oldest = self._ages.popleft()
        self._size -= oldest.size
        if self._index is not None and self._index[oldest.origin] is oldest:
            del self._index[oldest.origin]


class Outcomes:
    """Both tables of one worker."""

    def __init__(self, settings: Settings) -> None:
        # A broker is dead for up to the time of silence before that is noticed, and then away for up to `resume`.
        window = settings.silence + settings.resume + settings.heartbeat
        self._recent = _Table(window, settings.recent_limit, settings.recent_bytes)
        self._keyed = _Table(settings.key_window, settings.key_limit, settings.key_bytes)

    def __len__(self) -> int:
        return len(self._recent.outcomes) + len(self._keyed.outcomes)

    def add(self, execution: Execution, command: c.Final | c.Error, size: int, now: float) -> None:
        """Keep what an execution came to."""
        request, uplink = execution.request, execution.uplink
        outcome = Outcome(
            request.caller,
            request.call,
            request.asked or request.service,
            request.service if request.asked else "",
            request.key,
            execution.payload,
            uplink.endpoint,
            b"" if execution.orphaned else uplink.epoch,
            execution.sent,
            execution.first if execution.sent else execution.partials,
            command,
            size + execution.sent_bytes + OVERHEAD,
            now,
        )
        if request.key is None or not is_remembered(command):
            self._recent.add(outcome)
        else:
            self._keyed.add(outcome)

    def get(self, origin: Origin) -> Outcome | None:
        """Return the outcome of a request, if it is still known."""
        return self._recent.outcomes.get(origin) or self._keyed.outcomes.get(origin)

    def unknown_to(self, endpoint: str, epoch: bytes, *, keyed_only: bool) -> Iterator[Outcome]:
        """Yield the outcomes that were sent to the same endpoint's broker before it was restarted."""
        for table in (self._keyed,) if keyed_only else (self._recent, self._keyed):
            for outcome in table.outcomes.values():
                if outcome.endpoint == endpoint and outcome.epoch != epoch:
                    yield outcome

    def forget_old(self, now: float) -> None:
        """Let go of those whose time is up."""
        self._recent.forget_old(now)
        self._keyed.forget_old(now)

"""Which broker a call is sent to: by its key, or else by what is known of each broker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import Final

from ..._wire import commands as c
from ..uplink import Uplink
from .call import Call
from .ranking import ranked

#: Seconds for which a broker that did not know a service is asked for it last, and how many such cases are remembered.
ABSENCE: Final = 10.0
MAX_ABSENT: Final = 10_000
#: Seconds for which a broker that has come back is asked last: its workers may take as long to find it.
RETURN: Final = 3.0
#: Seconds that a keyed call waits for its broker, if that was not reached yet, or was just lost.
PATIENCE: Final = 1.0


class BrokerChoice:
    """The brokers as a client sees them.

    Attributes:
        absent: services that brokers did not know, and until when that is remembered.
    """

    def __init__(
        self, uplinks: Mapping[str, Uplink], unresolved: Mapping[str, str | None], calls: Mapping[Uplink, Sized]
    ) -> None:
        """Choose among what `uplinks` has at the time.

        Args:
            uplinks: the brokers, by endpoint.
            unresolved: names of brokers whose addresses are not known; None while the first look-up is under way.
            calls: what each broker has to do for this client.
        """
        self._uplinks = uplinks
        self._unresolved = unresolved
        self._calls = calls
        self._turn = 0
        #: Brokers that were away, and until when they are asked last.
        self._returning: dict[Uplink, float] = {}
        #: Brokers that were just lost, and until when those that know their keys had better wait for them.
        self._back_by: dict[Uplink, float] = {}
        self.absent: dict[tuple[Uplink, str], float] = {}

    def choose(self, call: Call, now: float, avoid: Uplink | None = None) -> Uplink | None:
        """Return the broker to send a call to: of those that live, the one that has the fewest of our calls."""
        if call.request.key is not None:
            return self._choose_by_key(call, call.request.key, now)
        if len(self._uplinks) == 1:
            (only,) = self._uplinks.values()
            return only if only.up else None
        up = [uplink for uplink in self._uplinks.values() if uplink.up]
        if len(up) < 2:
            return up[0] if up else None
        up = [uplink for uplink in up if uplink.wanted] or up
        up = [uplink for uplink in up if uplink is not avoid and uplink not in call.refused_by] or up
        if self._returning:
            up = [uplink for uplink in up if self._returning.get(uplink, now) <= now] or up
        if self.absent:
            service = call.request.service
            up = [uplink for uplink in up if self.absent.get((uplink, service), now) <= now] or up
        self._turn += 1
        first = self._turn % len(up)
        return min(up[first:] + up[:first], key=lambda uplink: len(self._calls[uplink]))

    def _choose_by_key(self, call: Call, key: str, now: float) -> Uplink | None:
        """Return the first in the key's ranking that is there; None while that is not known."""
        if not call.hasty and any(reason is None for reason in self._unresolved.values()):
            return None
        up = []
        for uplink in ranked(self._uplinks.values(), call.request.service, key):
            if uplink.up:
                up.append(uplink)
                if uplink.wanted and uplink not in call.refused_by:
                    return uplink
            elif not call.hasty and (uplink.untried or now < self._back_by.get(uplink, now)):
                return None
        return up[0] if up else None

    def other_for(self, call: Call, uplink: Uplink, now: float) -> Uplink | None:
        """Return a broker that has not refused the call, as this one has; None if there is none."""
        call.refused_by |= {uplink}
        other = self.choose(call, now)
        return other if other is not None and other.wanted and other not in call.refused_by else None

    # ---- what is known

    def note_absence(self, uplink: Uplink, request: c.Request, now: float) -> None:
        """A broker did not know a request's service; that it lacks a worker of some name says nothing."""
        if request.worker is None and len(self._uplinks) > 1:
            if len(self.absent) >= MAX_ABSENT:
                self.absent.clear()
            self.absent[uplink, request.service] = now + ABSENCE

    def note_loss(self, uplink: Uplink, now: float, *, was_up: bool) -> None:
        """The connection to a broker is gone, or there was none."""
        self._returning[uplink] = math.inf
        if was_up:
            self._back_by[uplink] = now + PATIENCE

    def note_up(self, uplink: Uplink, now: float, *, resumed: bool) -> None:
        """A broker is there, perhaps again; unless the session was resumed, it may be one that knows other services."""
        if not resumed:
            self._forget_absences(uplink)
        if uplink in self._returning:
            self._returning = {each: until for each, until in self._returning.items() if until > now}
            self._returning[uplink] = now + RETURN
        self._back_by.pop(uplink, None)

    def forget(self, uplink: Uplink) -> None:
        """A broker is not one of ours any more."""
        self._returning.pop(uplink, None)
        self._back_by.pop(uplink, None)
        self._forget_absences(uplink)

    def _forget_absences(self, uplink: Uplink) -> None:
        self.absent = {key: until for key, until in self.absent.items() if key[0] is not uplink}

"""The worker's sessions: what is done as they come up, are lost, and come back; and how the worker takes its leave.

It leaves all brokers when it drains, and a single one when that is no longer one of its own: there it serves what is on
its way, and asks for no more.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..._settings import Settings
from ..._wire import commands as c
from ..protocol import Protocol
from ..uplink import Greeted, Identity, Uplink
from .recovery import Unclaimed
from .sharing import Sharing


class Sessions(Sharing):
    """Uplinks, by whether they were greeted, are asked for no more requests, or have answered that."""

    def __init__(self, identity: Identity, settings: Settings, services: Mapping[str, int], protocol: Protocol) -> None:
        super().__init__(identity, settings, services)
        self._protocol = protocol
        self._undrained: dict[Uplink, None] = {}
        #: Retiring uplinks that were asked for no more requests, and whether the broker has answered.
        self._leaving: dict[Uplink, bool] = {}
        self.draining = False
        #: A WELCOME has come: the services can be called.
        self.welcomed = False

    def _make_uplink(self, endpoint: str, identity: Identity) -> Uplink:
        return self._protocol.worker(endpoint, identity, self.settings, self._wiring, tuple(self._leases))

    def _offers(self, uplink: Uplink) -> list[c.Offer] | None:
        if self.draining:
            return []
        return [c.Offer(name, leases.offer(uplink)) for name, leases in self._leases.items()]

    def _on_up(self, uplink: Uplink, greeted: Greeted, now: float) -> None:
        self.welcomed = True
        for leases in self._leases.values():
            if greeted is Greeted.RESUMED:
                leases.resumed(uplink)
            else:
                leases.fresh(uplink)
        if greeted is Greeted.RESTARTED:
            self._await_claims(uplink)
        elif greeted is Greeted.FRESH:
            self._orphan(uplink)
        self._limit_wait(uplink, now)
        self._tell_holdings(uplink, greeted, now)
        if self.draining:
            # It was greeted before the drain.
            uplink.link.put(c.Drain())
        self._share_out()

    def _on_down(self, uplink: Uplink, now: float) -> None:
        """Handlers go on: the session may come back."""
        self._undrained.pop(uplink, None)
        self._timers.cancel(self._unclaimed[uplink])

    def lost(self, uplink: Uplink, reason: str, *, now: float) -> None:
        super().lost(uplink, reason, now=now)
        self._leaving.pop(uplink, None)
        for leases in self._leases.values():
            leases.suspend(uplink)
        self._share_out()

    def _on_given_up(self, uplink: Uplink, now: float) -> None:
        uplink.link.drop_outbox()
        for leases in self._leases.values():
            leases.close(uplink)
        self._undrained.pop(uplink, None)
        self._orphan(uplink)
        self._share_out()

    def _on_removed(self, uplink: Uplink) -> None:
        self._leaving.pop(uplink, None)
        self._undrained.pop(uplink, None)
        del self._held[uplink], self._unclaimed[uplink]
        for leases in self._leases.values():
            leases.close(uplink)
        self._share_out()

    def _on_timer(self, key: Unclaimed | str, now: float) -> None:
        """A service's slots are to be shared out anew, or callers have not come back in time.

        (The handlers' deadlines are the shell's cancel scopes.)
        """
        if isinstance(key, Unclaimed):
            self._abandon(key)
        else:
            self._balance(key, now)

    # ---- leaving all brokers

    def drain(self) -> None:
        """Ask every broker for no more requests; `drained` tells when they all have said so."""
        if not self.draining:
            self.draining = True
            self._undrained = {uplink: None for uplink in self.uplinks.values() if uplink.up}
            for uplink in self._undrained:
                uplink.link.put(c.Drain())

    @property
    def drained(self) -> bool:
        """No broker will send another request, nothing runs, and what the handlers said has left.

        What a broker was away for is said when it is back, if that is in time.
        """
        if not self.draining or self._undrained or self.running or self._owes:
            return False
        return all(uplink.link.flushed for uplink in self.uplinks.values() if uplink.up)

    def _on_drained(self, uplink: Uplink, command: c.Drained, now: float) -> None:
        self._undrained.pop(uplink, None)
        if uplink in self._leaving:
            self._leaving[uplink] = True

    # ---- leaving one

    def retire(self, uplink: Uplink) -> None:
        if not uplink.retiring:
            for leases in self._leases.values():
                leases.ask(uplink)
            self._share_out()
        super().retire(uplink)

    def _is_done(self, uplink: Uplink) -> bool:
        """A broker that has work for us, a draining one for example, is served until it has none."""
        if self._held[uplink] or self._unclaimed[uplink]:
            return False
        if not uplink.up or self._leaving.get(uplink):
            return True
        if uplink not in self._leaving and not any(leases.has_work(uplink) for leases in self._leases.values()):
            self._leaving[uplink] = False
            uplink.link.put(c.Drain())
        return False

    def _parting(self, uplink: Uplink) -> bool:
        return uplink in self._leaving

"""Telling brokers which of the slots they may use; how many those are, `leases.py` decides."""

from __future__ import annotations

from collections.abc import Mapping

from ..._settings import Settings
from ..._wire import commands as c
from ..uplink import Identity, Uplink
from .leases import Leases
from .recovery import Recovery


class Sharing(Recovery):
    """The slots of each service, and what brokers say of theirs."""

    def __init__(self, identity: Identity, settings: Settings, services: Mapping[str, int]) -> None:
        super().__init__(identity, settings)
        self._leases: dict[str, Leases[Uplink]] = {name: Leases(slots) for name, slots in services.items()}

    def _share_out(self) -> None:
        """Leases may have changed, or slots have become free: tell whoever is concerned."""
        for name, leases in self._leases.items():
            self._tell_leases(name, leases)
            if leases.contended:
                self._timers.set(name, 0.0)  # at once: whoever frees a slot does not know the time

    def _balance(self, name: str, now: float) -> None:
        """Let a service's slots follow the demand."""
        leases = self._leases[name]
        self._timers.set(name, leases.balance(now))
        self._tell_leases(name, leases)

    def _tell_leases(self, name: str, leases: Leases[Uplink]) -> None:
        for uplink, slots in leases.changes():
            if uplink.up:
                uplink.link.put(c.Slots(name, slots))

    def _on_slots(self, uplink: Uplink, command: c.Slots, now: float) -> None:
        leases = self._leases.get(command.service)
        if leases is not None:
            leases.acknowledged(uplink, command.slots)
            self._share_out()

    def _on_wanted(self, uplink: Uplink, command: c.Wanted, now: float) -> None:
        leases = self._leases.get(command.service)
        if leases is not None:
            leases.want(uplink, command.queued, now)
            self._balance(command.service, now)

"""How brokers of one kind are spoken to."""

from __future__ import annotations

from collections.abc import Iterable

from .._settings import Settings
from .._wire import commands as c
from .uplink import Identity, Uplink, Wiring


class Protocol:
    """Our own protocol, ZMDP/1; what differs at the brokers of others is in `foreign`."""

    name = "zmdp/1"

    def client(self, endpoint: str, identity: Identity, settings: Settings, wiring: Wiring) -> Uplink:
        """Return a client's way to a broker."""
        return Uplink(endpoint, identity, settings, wiring.dirty)

    def worker(
        self, endpoint: str, identity: Identity, settings: Settings, wiring: Wiring, services: Iterable[str]
    ) -> Uplink:
        """Return the way to a broker of a worker with these services."""
        return Uplink(endpoint, identity, settings, wiring.dirty)

    def prepare(self, request: c.Request) -> None:
        """Put a request in the protocol's terms.

        Raises:
            RequestError: it asks for what the protocol has no words for.
        """


ZMDP1 = Protocol()

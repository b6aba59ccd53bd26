"""Host names in endpoints, and the addresses that stand behind them.

A name may have many addresses, which come and go: a Kubernetes headless service has one for each pod that is ready.
libzmq would take the first one and never look again, so names are looked up here, and only numbers are dialled.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, NoReturn

import attrs
import trio

from ._chance import Backoff, jittered

#: Seconds before a look-up that failed is tried again, at first and at most.
FIRST_DELAY: Final = 0.05
LAST_DELAY: Final = 2.0
#: Seconds from a doubt to the next look-up, at first.  Twice as long each time, until something has changed: whoever is
#: lost may be dialled in vain for long, and that is no reason to ask as often.
PATIENCE: Final = 0.25
_TCP: Final = "tcp://"


@attrs.frozen
class HostName:
    """A host that is called by a name, and a port of it."""

    host: str
    port: int

    async def look_up(self) -> frozenset[str]:
        """Return the endpoints of all its addresses, by number: the IPv4 ones, or if it has none, the IPv6 ones.

        Not both: they are ways to the same host, and a broker is to be dialled once.

        Raises:
            OSError: the name has no address, or nobody can tell now.
        """
        sockets = trio.socket
        try:
            found = await sockets.getaddrinfo(self.host, self.port, type=sockets.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"not a host name: {error}") from error
        for family, form in ((sockets.AF_INET, "tcp://{}:{}"), (sockets.AF_INET6, "tcp://[{}]:{}")):
            addresses = {_with_scope(address) for each, _, _, _, address in found if each == family}
            if addresses:
                return frozenset(form.format(address, self.port) for address in addresses)
        raise OSError("it has no address")


class Resolver:
    """Knows what stands behind the name in one endpoint, again and again.

    Attributes:
        broker: the endpoint with the name.
        endpoints: those by number, as far as is known.
    """

    def __init__(
        self, broker: str, name: HostName, interval: float, note: Callable[[Resolver, str | None], None]
    ) -> None:
        """Make a resolver, which asks while `run` does; `note` is told of each look-up, and why it failed if it did."""
        self.broker = broker
        self.endpoints: frozenset[str] = frozenset()
        self._name = name
        self._interval = interval
        self._note = note
        self._doubt = trio.Event()

    def doubt(self) -> None:
        """Something behind the name is lost: look again before the time has come."""
        self._doubt.set()

    async def run(self) -> NoReturn:
        """Look the name up until cancelled."""
        backoff, patience = Backoff(FIRST_DELAY, LAST_DELAY), PATIENCE
        while True:
            self._doubt = trio.Event()
            try:
                found = await self._name.look_up()
            except OSError as error:
                self._note(self, str(error))
                await backoff.pause()
                continue
            if found != self.endpoints:
                patience = PATIENCE
            backoff.reset()
            self.endpoints = found
            self._note(self, None)
            with trio.move_on_after(self._interval):
                await self._doubt.wait()
                await trio.sleep(jittered(patience))
                patience *= 2


def host_name(endpoint: str) -> HostName | None:
    """Return the name in an endpoint that has to be looked up; None if there is none, or the transport is to judge."""
    host, separator, port = endpoint.removeprefix(_TCP).rpartition(":")
    if not endpoint.startswith(_TCP) or not separator or not host or ";" in host or "*" in host:
        return None
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        return None
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return HostName(host, int(port))
    return None


def _with_scope(address: tuple[Any, ...]) -> str:
    """Return the number; of a link-local IPv6 address with its link."""
    number: str = address[0]
    scope = address[3] if len(address) > 3 else 0
    return f"{number}%{scope}" if scope and "%" not in number else number

"""Our client and our worker at brokers of other kinds.

To the machines a broker of another kind is an uplink like any other: its `link` takes the same commands, and returns
the same.  On the wire there are messages of the broker's dialect, over one connection or several.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..._errors import Code, InvalidArgument, RequestError
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire.majordomo import DIALECTS, Dialect
from ..._wire.protocols import PROTOCOLS, unknown
from .. import bodies
from ..protocol import ZMDP1, Protocol
from ..uplink import Identity, Uplink, Wiring
from .client import OPTIONS, ClientLink
from .link import ForeignUplink
from .worker import WorkerLink


class Foreign(Protocol):
    """One of the older dialects."""

    def __init__(self, dialect: Dialect) -> None:
        self.name = dialect.name
        self._dialect = dialect

    def client(self, endpoint: str, identity: Identity, settings: Settings, wiring: Wiring) -> Uplink:
        return ForeignUplink(ClientLink(self._dialect, endpoint, identity, settings, wiring), identity, settings)

    def worker(
        self, endpoint: str, identity: Identity, settings: Settings, wiring: Wiring, services: Iterable[str]
    ) -> Uplink:
        link = WorkerLink(self._dialect, endpoint, identity, settings, wiring, tuple(services))
        return ForeignUplink(link, identity, settings)

    def prepare(self, request: c.Request) -> None:
        if request.key is not None:
            raise self._unimplemented(request, "key")
        if request.worker is not None and not self._dialect.options:
            raise self._unimplemented(request, "worker")
        if request.headers and not (self._dialect.options and request.headers.keys() == {OPTIONS}):
            raise self._unimplemented(request, "headers")
        assert request.body is not None
        try:
            if self._dialect.json:
                body = bodies.to_json(request.content, request.body)
            else:
                [body, *more] = bodies.to_frames(request.content, request.body)
                if more:
                    return
        except ValueError as error:
            raise InvalidArgument(f"the payload, for {self.name}: {error}", service=request.service) from error
        if request.content == c.Content.MSGPACK:
            request.content = c.Content.JSON if self._dialect.json else c.Content.OPAQUE
            request.body = bytes(body)

    def _unimplemented(self, request: c.Request, option: str) -> RequestError:
        message = f"{self.name} has no words for {option}="
        return RequestError(message, code=Code.UNIMPLEMENTED, service=request.service)


_PROTOCOLS: Final[dict[str, Protocol]] = {
    name: Foreign(DIALECTS[name]) if name in DIALECTS else ZMDP1 for name in PROTOCOLS
}


def protocol_of(name: str) -> Protocol:
    """Return the protocol that users give this name.

    Raises:
        ValueError: there is none.
    """
    try:
        return _PROTOCOLS[name]
    except (KeyError, TypeError):
        raise unknown(name) from None

"""What the broker answers itself, from what it knows of its services: `mmi.` names, as RFC 8 has them, and `$dir`.

| Name | Payload | Answer |
|---|---|---|
| `mmi.service` | a service's name | "200" if a request for it would go to a worker, else "404" |
| `mmi.services` | | the names that workers offer |
| `mmi.workers` | a service's name, or nothing | the names of the workers that requests for it go to, or of all |
| `mmi.broker` | | the broker's name |
| `$dir` | a service's name, or nothing | the same; with nothing, the workers of each name that they offer |

Any other name that begins with `mmi.` is answered with "501".  An answer comes in the payload's own terms: MessagePack
or JSON; or bytes, in which a list is JSON text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from ..._errors import InvalidArgument, Overloaded
from ..._wire import commands as c
from ..._wire.frames import UNREADABLE
from .routing import Routes
from .service import Service

#: Names in one answer.
MAX_LISTED: Final = 100_000
_MSGPACK, _JSON = int(c.Content.MSGPACK), int(c.Content.JSON)


class Directory:
    """One broker's."""

    def __init__(self, broker: str, services: Mapping[str, Service], routes: Routes) -> None:
        """Make a directory of what `services` and `routes` hold at the time of each question."""
        self._broker = broker
        self._services = services
        self._routes = routes
        self._answers: dict[str, Callable[[str], Any]] = {
            "mmi.service": self._status,
            "mmi.services": self._names,
            "mmi.workers": self._workers,
            "mmi.broker": lambda _: self._broker,
            "$dir": lambda name: self._workers(name) if name else self._all(),
        }

    def answer(self, request: c.Request) -> c.Final:
        """Return the answer to a request for a reserved name.

        Raises:
            InvalidArgument: the payload is not the name of a service.
            Overloaded: there is too much to list.
        """
        answer = self._answers.get(request.service)
        value = "501" if answer is None else answer(_read(request))
        return c.Final(request.id, request.content, _write(request.content, value))

    def _status(self, name: str) -> str:
        if not name:
            raise InvalidArgument("mmi.service takes the name of a service")
        return "200" if name in self._answers or self._servers(name) else "404"

    def _names(self, _: str) -> list[str]:
        return sorted(name for name, service in self._services.items() if service.offers)

    def _workers(self, name: str) -> list[str]:
        services: Iterable[Service] = self._servers(name) if name else self._services.values()
        return _names_of_workers(list(services))

    def _all(self) -> dict[str, list[str]]:
        offered = self._names("")
        _limit(sum(len(self._services[name].offers) for name in offered))
        return {name: _names_of_workers([self._services[name]]) for name in offered}

    def _servers(self, name: str) -> list[Service]:
        """Return the services that a request for a name may go to."""
        service = self._services.get(name)
        return [service] if service is not None and service.offers else self._routes.serving(name)


def _names_of_workers(services: list[Service]) -> list[str]:
    _limit(sum(len(service.offers) for service in services))
    return sorted({session.name for service in services for session in service.offers})


def _limit(names: int) -> None:
    if names > MAX_LISTED:
        raise Overloaded(f"{names:,} names are more than are listed")


def _read(request: c.Request) -> str:
    """Return the name in a payload, empty if there is none."""
    content, body = request.content, request.body
    assert body is not None
    try:
        if content == _MSGPACK:
            name = msgspec.msgpack.decode(body, type=str | None)
        elif content == _JSON:
            name = msgspec.json.decode(body, type=str | None)
        else:
            name = bytes(body).decode()
    except UNREADABLE as error:
        raise InvalidArgument(f"the payload is not the name of a service: {error}") from None
    return name or ""


def _write(content: int, value: Any) -> bytes:
    if content == _MSGPACK:
        return msgspec.msgpack.encode(value)
    if content == _JSON or not isinstance(value, str):
        return msgspec.json.encode(value)
    return value.encode()

"""What callers may ask for: their arguments, checked before anything is sent."""

from __future__ import annotations

import math

from ._errors import InvalidArgument
from ._wire.commands import MAX_RETRY, Request


def on_the_wire(timeout: float | None) -> float | None:
    """Return a limit of silence as a REQUEST says it: the wire has no room for a whole number that is too large."""
    return None if timeout in (None, -1, math.inf) else float(min(timeout, 1e18))


def is_plain_name(service: object) -> bool:
    """Whether a service's name, as most are, is one that no check would refuse."""
    return type(service) is str and service != "" and service.isascii()


def check_arguments(request: Request, deadline: float | None) -> None:
    """Refuse what can't be sent: the broker would end the whole session for a message that it can't read.

    Raises:
        InvalidArgument: as the far side would for what it refuses.
    """
    service, timeout, retry = request.service, request.timeout, request.retry
    if not isinstance(service, str) or not service:
        raise InvalidArgument(f"a service's name is a string of at least one character, not {service!r}")
    if timeout is not None and not (_is_number(timeout) and timeout >= 0):
        raise InvalidArgument(f"timeout must be seconds, 0 or more, or None, not {timeout!r}", service=service)
    if deadline is not None and not (_is_number(deadline) and deadline == deadline):
        raise InvalidArgument(f"deadline must be a time on Trio's clock, not {deadline!r}", service=service)
    if type(retry) is not int or not 0 <= retry <= MAX_RETRY:
        raise InvalidArgument(f"retry must be a whole number from 0 to {MAX_RETRY:,}, not {retry!r}", service=service)
    try:
        if request.key or request.worker or type(service) is not str or not service.isascii():
            _check_strings(service=service, key=request.key or "", worker=request.worker or "")
        for name, value in (request.headers or {}).items():
            if type(value) is not str:
                raise InvalidArgument(f"header {name!r}: a string is wanted, not {value!r}")
            _check_strings(header=name, value=value)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"text that is no Unicode: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_strings(**strings: str) -> None:
    for name, value in strings.items():
        if type(value) is not str:
            raise InvalidArgument(f"{name}: a string is wanted, not {value!r}")
        if not value.isascii():
            value.encode()

"""Options of OMDP's and PIGATO's requests: what a client asks of the broker, and what a worker is told.

They are a JSON object, which may be missing, or be anything: what is unreadable is none, as PIGATO's own broker has it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import msgspec

from .._wire import commands as c
from .._wire.frames import UNREADABLE, Frame

#: The header in which options travel to workers that read headers.
HEADER: Final = "opts"
#: Seconds after which a request times out, if its options don't say; in them, milliseconds.
TIMEOUT: Final = 60.0
#: What concerns the broker alone; where there is anything else, a worker gets all of it.
_BROKERS: Final = frozenset(("timeout", "retry", "workerId", "persist"))
#: Above this, milliseconds that no clock of JavaScript's will see are none at all; above this, we say none.
_NEVER: Final = 2.0**53
_LONGEST: Final = 1e12

_read = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


@attrs.frozen
class Options:
    """What a client asks for beside its payload."""

    #: Longest silence between replies, in seconds; infinity for any.
    timeout: float = TIMEOUT
    #: How often it may run again.
    retry: int = 0
    #: The worker that is to run it.
    worker: str | None = None
    #: It is to outlive the broker.
    persist: bool = False
    #: All of them, if there are some that the broker does not know.
    text: str | None = None

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers that a request with these options has."""
        return None if self.text is None else {HEADER: self.text}


def read(frame: Frame) -> Options:
    """Return a request's options."""
    options = _object_in(frame)
    worker = options.get("workerId")
    return Options(
        timeout=_seconds(options.get("timeout")),
        retry=_retries(options.get("retry")),
        worker=worker if worker is None or isinstance(worker, str) else str(worker),
        persist=bool(options.get("persist")),
        text=None if options.keys() <= _BROKERS else bytes(frame).decode(),
    )


def for_broker(request: c.Request) -> bytes:
    """Return what a broker of OMDP or PIGATO is told: the shorter one of both limits, and who is to run it."""
    options = _object_in((request.headers or {}).get(HEADER, "").encode())
    limits = [limit for limit in (request.timeout, request.left) if limit is not None]
    options["timeout"] = _milliseconds(min(limits, default=None))
    if request.retry:
        options["retry"] = 1
    if request.worker is not None:
        options["workerId"] = request.worker
    return _write(options)


def for_worker(request: c.Request) -> bytes:
    """Return what a PIGATO worker is told: a caller's own options, or what they would be."""
    headers = dict(request.headers or {})
    own = headers.pop(HEADER, None)
    if own is not None:
        return own.encode()
    options: dict[str, Any] = {"timeout": _milliseconds(request.timeout)}
    if request.retry:
        options["retry"] = request.retry
    if headers:
        options["headers"] = headers
    return _write(options)


def concurrency(frame: Frame) -> int | None:
    """Return how many requests a worker's heartbeat says that it takes at once, below 0 for any; None if nothing."""
    value = _object_in(frame).get("concurrency")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _object_in(frame: Frame) -> dict[str, Any]:
    try:
        value = _read(frame) if len(frame) else None
    except UNREADABLE:
        return {}
    return value if isinstance(value, dict) else {}


def _milliseconds(seconds: float | None) -> int:
    """Return how options say a limit: none is -1, and 0 would be the default."""
    return -1 if seconds is None or 1000 * seconds >= _LONGEST else max(int(1000 * seconds), 1)


def _seconds(milliseconds: Any) -> float:
    """Return the time-out that options ask for; -1 is none, 0 the default, as in PIGATO's own broker."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool) or not milliseconds:
        return TIMEOUT
    return max(milliseconds, 0) / 1000 if -1 < milliseconds < _NEVER else math.inf


def _retries(value: Any) -> int:
    return int(min(value, c.MAX_RETRY)) if isinstance(value, int | float) and value > 0 else 0

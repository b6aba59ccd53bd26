"""Options of OMDP's and PIGATO's requests: what a client asks of the broker, and what a worker is told."""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import msgspec

from ...._wire import commands as c
from ...._wire.frames import UNREADABLE, Frame

#: The header in which options travel to workers that read headers.
HEADER: Final = "opts"
#: Seconds after which a request times out, if its options don't say; in them, milliseconds.
TIMEOUT: Final = 60.0
#: What concerns the broker alone; where there is anything else, a worker gets all of it.
_BROKERS: Final = frozenset(("timeout", "retry", "workerId", "persist"))
#: Above this, milliseconds that no clock of JavaScript's will see are none at all.
_NEVER: Final = 2.0**53

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
    """Return a request's options; what is unreadable is none, as PIGATO's own broker has it."""
    if not len(frame):
        return Options()
    try:
        options = _read(frame)
    except UNREADABLE:
        return Options()
    if not isinstance(options, dict):
        return Options()
    worker = options.get("workerId")
    return Options(
        timeout=_seconds(options.get("timeout")),
        retry=_retries(options.get("retry")),
        worker=worker if worker is None or isinstance(worker, str) else str(worker),
        persist=bool(options.get("persist")),
        text=None if options.keys() <= _BROKERS else bytes(frame).decode(),
    )


def for_worker(request: c.Request) -> bytes:
    """Return what a PIGATO worker is told: a caller's own options, or what they would be."""
    headers = dict(request.headers or {})
    own = headers.pop(HEADER, None)
    if own is not None:
        return own.encode()
    milliseconds = math.inf if request.timeout is None else request.timeout * 1000
    options: dict[str, Any] = {"timeout": int(milliseconds) if milliseconds < _NEVER else -1}
    if request.retry:
        options["retry"] = request.retry
    if headers:
        options["headers"] = headers
    return _write(options)


def concurrency(frame: Frame) -> int | None:
    """Return how many requests a worker's heartbeat says that it takes at once, below 0 for any; None if nothing."""
    try:
        value = _read(frame).get("concurrency") if len(frame) else None
    except (*UNREADABLE, AttributeError):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(milliseconds: Any) -> float:
    """Return the time-out that options ask for; -1 is none, 0 the default, as in PIGATO's own broker."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool) or not milliseconds:
        return TIMEOUT
    return max(milliseconds, 0) / 1000 if -1 < milliseconds < _NEVER else math.inf


def _retries(value: Any) -> int:
    return int(min(value, c.MAX_RETRY)) if isinstance(value, int | float) and value > 0 else 0

"""The exceptions that users meet: one tree for callers, two that handlers raise."""

from __future__ import annotations

import enum
import math
from typing import Any, ClassVar


class Code(enum.Enum):
    """What kind of failure a request ended with.  The value is its name on the wire."""

    #: The caller, or the side that served it, gave the request up.
    CANCELLED = "CANCELLED"
    #: The payload, or an option of the request, is not what the service takes.
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    #: A time limit passed: the deadline, or the longest silence between replies.
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    #: The service, or the thing that was asked of it, does not exist.
    NOT_FOUND = "NOT_FOUND"
    #: The caller may not do this.
    PERMISSION_DENIED = "PERMISSION_DENIED"
    #: A queue, a quota, or a limit is full.
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    #: Whoever should have answered is gone or going; another attempt may succeed.
    UNAVAILABLE = "UNAVAILABLE"
    #: The other side does not know this operation.
    UNIMPLEMENTED = "UNIMPLEMENTED"
    #: The service failed, and did not say how.
    INTERNAL = "INTERNAL"


class RequestError(Exception):
    """A request that ended without its final reply.

    Attributes:
        code: what kind of failure.
        message: one sentence for people; never a traceback.
        details: what the handler put in, any value that a payload may be; else None.
        service: the service that was asked.
    """

    #: Names the subclass on the wire; the empty reason is any failure of its code.
    reason: ClassVar[str] = ""
    default_code: ClassVar[Code] = Code.INTERNAL

    def __init__(
        self, message: str, *, code: Code | None = None, details: Any = None, service: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.details = details
        self.service = service

    def __str__(self) -> str:
        where = f"{self.service}: " if self.service else ""
        return f"{where}{self.message} [{self.code.value}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.code, self.details, self.service)


def _rebuild(cls: type[RequestError], message: str, code: Code, details: Any, service: str | None) -> RequestError:
    return cls(message, code=code, details=details, service=service)


class RequestCancelled(RequestError):
    """The request was cancelled, and not by the caller's own scope: its client was closed, say."""

    reason = "cancelled"
    default_code = Code.CANCELLED


class InvalidArgument(RequestError):
    """The payload can't be encoded, does not fit the service's annotation, or an option is out of range."""

    reason = "invalid-argument"
    default_code = Code.INVALID_ARGUMENT


class MessageTooLarge(InvalidArgument):
    """A payload, the headers, or a service name is above what the other side takes; nothing was sent."""

    reason = "message-too-large"


class DeadlineExceeded(RequestError):
    """The request's deadline passed, or no reply came for `timeout` seconds."""

    reason = "deadline-exceeded"
    default_code = Code.DEADLINE_EXCEEDED


class ServiceNotFound(RequestError):
    """No worker offers the service, and none appeared within the wait for one."""

    reason = "service-not-found"
    default_code = Code.NOT_FOUND


class Overloaded(RequestError):
    """A queue on the way is full; details holds `{"retry_after": seconds}` where the broker can tell."""

    reason = "overloaded"
    default_code = Code.RESOURCE_EXHAUSTED

    @property
    def retry_after(self) -> float | None:
        """Seconds after which another attempt makes sense; None where the broker can't tell."""
        seconds = self.details.get("retry_after") if isinstance(self.details, dict) else None
        # Details come from the other side, and may hold anything.
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < math.inf
        return seconds if known else None


class Unavailable(RequestError):
    """Whoever should answer is gone or going; `retry` runs such a request again."""

    reason = "unavailable"
    default_code = Code.UNAVAILABLE


class WorkerLost(Unavailable):
    """The worker that held the request is gone.  The handler may have run, in part or whole."""

    reason = "worker-lost"


class BrokerLost(Unavailable):
    """No broker could be reached, or the one that held the request is gone.  The handler may have run."""

    reason = "broker-lost"


class RequestRejected(Unavailable):
    """Every worker that offers the service rejected the request (`raise Reject`)."""

    reason = "rejected"


_BY_REASON: dict[str, type[RequestError]] = {
    cls.reason: cls
    for cls in (
        RequestError,
        RequestCancelled,
        InvalidArgument,
        MessageTooLarge,
        DeadlineExceeded,
        ServiceNotFound,
        Overloaded,
        Unavailable,
        WorkerLost,
        BrokerLost,
        RequestRejected,
    )
}
_CODES = {code.value: code for code in Code}


def error_from_wire(code: str, reason: str, message: str, details: Any, service: str | None) -> RequestError:
    """Build the exception that an ERROR command stands for.

    A reason or a code that a later version may have added falls back to what this one knows.
    """
    cls = _BY_REASON.get(reason, RequestError)
    return cls(message, code=_CODES.get(code, Code.INTERNAL), details=details, service=service)


class ServiceError(Exception):
    """Raised by a handler to end its request with an error of its own choosing.

    Args:
        code: the kind of failure that the caller sees.
        message: one sentence for people.
        details: any value that a payload may be.
    """

    def __init__(self, code: Code, message: str = "", details: Any = None) -> None:
        if not isinstance(code, Code):
            raise TypeError(f"code must be a zmdp_trio.Code, not {code!r}")
        if not isinstance(message, str):
            raise TypeError(f"message must be a string, not {message!r}")
        super().__init__(code, message, details)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} [{self.code.value}]"


class Reject(Exception):
    """Raised by a handler that is the wrong one to ask: the broker tries another worker, never this one again.

    Being busy is no reason to reject: a worker's slots say that.  Not allowed after a partial reply.
    """


class ProtocolError(Exception):
    """A peer broke the protocol: what it sent can't be read, or was not its to send."""

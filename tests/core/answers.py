"""What tests of the broker read off its answers, and off its counters."""

from __future__ import annotations

from typing import Any

from stage import Stage, check_counters

from zmdp_trio._wire import commands as c

NOT_FOUND = ("NOT_FOUND", "service-not-found")
LOST = ("UNAVAILABLE", "worker-lost")
GONE = ("UNAVAILABLE", "unavailable")
REJECTED = ("UNAVAILABLE", "rejected")
EXPIRED = ("DEADLINE_EXCEEDED", "deadline-exceeded")
OVERLOADED = ("RESOURCE_EXHAUSTED", "overloaded")
INVALID = ("INVALID_ARGUMENT", "invalid-argument")


def errors(speaker: Any) -> list[tuple[int, str, str]]:
    """Return id, code, and reason of the errors that came."""
    return [(error.id, error.code, error.reason) for error in speaker.take(c.Error)]


def bodies(speaker: Any) -> list[bytes]:
    """Return the bodies of the requests that a worker was given."""
    return [request.body for request in speaker.take(c.Request)]


def final(request: c.Request, body: bytes = b"!") -> c.Final:
    return c.Final(request.id, 0, body)


def counted(stage: Stage, name: str = "echo") -> dict[str, int]:
    """Return the counters that are not zero."""
    check_counters(stage.broker)
    counters = stage.service(name).counters
    return {slot: n for slot in type(counters).__slots__ if slot != "__weakref__" and (n := getattr(counters, slot))}

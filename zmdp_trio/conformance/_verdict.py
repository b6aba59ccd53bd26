"""How a check says what it has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from .._transport import EndpointError
from ._frames import describe


class NotAsSpecified(Exception):
    """The broker did something else than the text says; the message tells what was seen."""


class Unreachable(Exception):
    """There is nobody at the endpoint; the message tells why."""


def check_equal(what: str, seen: Sequence[bytes], wanted: Sequence[bytes]) -> None:
    """Compare frames.

    Args:
        what: what they are, for the report.
        seen: what came.
        wanted: what should have come.

    Raises:
        NotAsSpecified: they differ.
    """
    if list(seen) != list(wanted):
        raise NotAsSpecified(f"{what} is {describe(seen)}, not {describe(wanted)}")


@contextmanager
def ungrouped() -> Iterator[None]:
    """Take what a nursery raises out of its group, where it is a verdict and nothing else went wrong.

    Who is cancelled meanwhile gives no verdict.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        verdicts, rest = group.split((NotAsSpecified, Unreachable, EndpointError))
        if rest is not None and rest.split(trio.Cancelled)[1] is None:
            raise rest from None
        if verdicts is None or rest is not None:
            raise
        raise _first(verdicts) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

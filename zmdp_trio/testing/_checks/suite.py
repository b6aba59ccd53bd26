"""What the checks of transports have in common, and the list of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, TypeAlias

import trio

from .ends import End, Transport

#: Seconds that a check may take.
LIMIT: Final = 120

Check: TypeAlias = Callable[[Transport], Awaitable[None]]

registered: Final[list[Check]] = []


def check(body: Check) -> Check:
    """Add a check to the suite, and have it fail rather than hang."""

    @wraps(body)
    async def limited(transport: Transport) -> None:
        with trio.fail_after(LIMIT):
            await body(transport)

    registered.append(limited)
    return limited


@contextmanager
def refused(kind: type[Exception], says: str = "") -> Iterator[None]:
    """Expect an error, and what its text begins with."""
    text = None
    try:
        yield
    except kind as error:
        text = str(error)
    assert text is not None, f"{kind.__name__} was to be raised"
    assert text.startswith(says), text


async def expect_numbers(target: End, count: int) -> None:
    """Receive so many messages, numbered in their first frames."""
    for number in range(count):
        assert (await target.get_frames())[0] == b"%d" % number

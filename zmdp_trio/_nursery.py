"""A nursery that shows its caller the exception, not the group around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for tasks of our own beside the caller's code in the block.

    Our tasks don't fail, so what is in the group beside cancellations is what the caller's code raised: it comes out
    as it went in.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        # A cancellation beside an exception has done its work: that the scope around is cancelled, Trio knows anyway.
        _, rest = group.split(trio.Cancelled)
        if rest is None or len(rest.exceptions) > 1:
            raise
        raise_plain(rest.exceptions[0])


def raise_plain(error: BaseException) -> NoReturn:
    """Raise an exception out of the group that is being handled; the group does not become its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context

"""A nursery that shows its caller the exception, not the group around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
        error = rest.exceptions[0]
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
            del error, context

"""The line that tells how far a load is, on standard error, if that is a terminal."""

from __future__ import annotations

import math
import shutil
import sys
from contextlib import suppress
from typing import Final

import trio

from ._load import Load
from ._report import describe, milliseconds
from ._tally import together

_ERASE: Final = "\r\x1b[K"
#: Seconds between two looks.
_PAUSE: Final = 0.5


async def run_shown(load: Load, prefix: str = "") -> None:
    """Run a load, and show how it goes."""
    if sys.stderr is None or not sys.stderr.isatty():
        await load.run()
        return
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, load, prefix)
            await load.run()
            nursery.cancel_scope.cancel()
    finally:
        _write(_ERASE)


async def _show(load: Load, prefix: str) -> None:
    while True:
        await trio.sleep(_PAUSE)
        columns = shutil.get_terminal_size().columns
        _write(_ERASE + (prefix + status(load))[: columns - 1])


def status(load: Load) -> str:
    """Say how far a load is."""
    total = together(load.tallies)
    age = load.elapsed or load.age
    replies = sum(each.replies for each in load.reached) or total.latency.count
    parts = [describe(load.level), f"{replies / age:,.0f} replies/s" if age else ""]
    if total.latency.count:
        parts.append(f"p50 {milliseconds(total.latency.quantile(0.5) * 1000)}")
    if total.chunks:
        parts.append(f"{total.chunks / age:,.0f} chunks/s")
    parts.append(f"{total.failed:,} errors")
    if load.waiting:
        parts.append(f"waiting for {total.unfinished + load.unsent:,} replies")
    elif load.seconds < math.inf:
        parts.append(f"{max(0.0, load.seconds - age):.0f} s left")
    else:
        parts.append(f"{age:.0f} s")
    return "   ".join(part for part in parts if part)


def _write(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()

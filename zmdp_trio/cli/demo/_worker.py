"""The demo's worker process: `python -m zmdp_trio.cli.demo._worker BROKER ROOT SCRATCH`.

It says `ready` on its standard output, and ends when its standard input does: however the demo ends, its worker does
not outlive it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
import trio

from zmdp_trio import Service, serve_worker, service

from .._child import end_with_parent
from ._files import load_files


def witnessed(tail: Service[..., Any], query_type: Any) -> list[Service[..., Any]]:
    """Wrap `files.tail` so that the moment at which it ends is known, and add the service that tells it.

    time.monotonic() is one clock for all processes of a machine, so the client can subtract its own reading.
    """
    ended = trio.Event()
    moment = 0.0

    @service("files.tail")
    async def tail_file(query: dict[str, Any]) -> AsyncIterator[Any]:
        nonlocal moment
        async with aclosing(tail(msgspec.convert(query, query_type))) as chunks:
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                moment = time.monotonic()
                ended.set()

    @service("demo.cancelled")
    async def cancelled() -> float:
        await ended.wait()
        return moment

    return [tail_file, cancelled]


async def work(broker: str, root: str, scratch: str) -> None:
    """Offer the file services for `root`, and `files.tail` for the scratch folder, until standard input ends."""
    files = load_files()
    services = [each for each in files.file_services(root) if each.name != "files.tail"]
    tail = next(each for each in files.file_services(scratch) if each.name == "files.tail")
    services += witnessed(tail, files.TailQuery)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_with_parent, nursery.cancel_scope)
        await nursery.start(serve_worker, services, broker)
        print("ready", flush=True)  # noqa: T201 - this is how the demo learns it


if __name__ == "__main__":
    _, *arguments = sys.argv
    trio.run(partial(work, *arguments))

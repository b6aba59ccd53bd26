"""The worker of --own-worker: `python -m zmdp_trio.cli.bench._echo SERVICE PROTOCOL BROKER...`.

It offers SERVICE, which returns what it gets, and SERVICE.stream, which yields that `CHUNKS` times.  When a broker has
taken it on, it says so; it ends when its standard input does.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import trio

from zmdp_trio import Service, serve_worker, service

from .._child import end_with_parent

#: Partial replies of a stream.
CHUNKS: Final = 1_000


def services(name: str) -> list[Service[..., Any]]:
    """Make the services."""

    @service(name)
    async def echo(payload: Any) -> Any:
        return payload

    @service(f"{name}.stream")
    async def echo_on(payload: Any) -> AsyncIterator[Any]:
        for _ in range(CHUNKS):
            yield payload

    return [echo, echo_on]


async def work(name: str, protocol: str, *brokers: str) -> None:
    """Offer the services until standard input ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_with_parent, nursery.cancel_scope)
        await nursery.start(partial(serve_worker, services(name), *brokers, protocol=protocol))
        print("ready", flush=True)  # noqa: T201 - this is how the command learns it


if __name__ == "__main__":
    _, name, protocol, *brokers = sys.argv
    trio.run(work, name, protocol, *brokers)

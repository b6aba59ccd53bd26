"""zmdp-trio: a client, a broker, and a worker, all with the settings that they have by default."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import trio
from end import Figures, Tally, obey, run, say, spread, wait_for_end

from zmdp_trio import Client, open_broker, open_client, open_worker, service


@service("echo")
async def echo(payload: Any) -> Any:
    """Return what came."""
    return payload


@service("chunks")
async def chunks(size: int) -> AsyncIterator[bytes]:
    """Yield chunks of so many bytes, without end."""
    chunk = bytes(size)
    while True:
        yield chunk


async def stay() -> None:
    await trio.to_thread.run_sync(wait_for_end, abandon_on_cancel=True)


async def be_broker(options: dict[str, Any]) -> None:
    """Route requests, on an endpoint of the transport that is asked for."""
    async with open_broker(options.get("bind", "tcp://127.0.0.1:*")) as broker:
        say(address=broker.endpoints[0])
        await stay()


async def open_workers(stack: AsyncExitStack, address: str, number: int) -> None:
    for _ in range(number):
        worker = await stack.enter_async_context(open_worker([echo, chunks], address))
        await worker.wait_welcomed()


async def be_worker(options: dict[str, Any]) -> None:
    """Serve, as many workers."""
    async with AsyncExitStack() as stack:
        await open_workers(stack, options["address"], options["workers"])
        say(address=options["address"])
        await stay()


async def be_client(options: dict[str, Any]) -> None:
    """Make requests, as many clients."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(options["address"])) for _ in range(options["clients"])]
        for client in clients:
            assert await client.request("echo", b"hello") == b"hello"
        say()
        await take_orders(clients)


async def be_all(options: dict[str, Any]) -> None:
    """Be client, broker, and worker in one process and one loop."""
    async with open_broker("inproc://*") as broker, AsyncExitStack() as stack:
        await open_workers(stack, broker.endpoints[0], options["workers"])
        await be_client(options | {"address": broker.endpoints[0]})


async def take_orders(clients: list[Client]) -> None:
    async def requests(seconds: float, in_flight: int, size: int) -> Figures:
        payload = b"x" * size
        tally = Tally(seconds)
        async with trio.open_nursery() as nursery:
            for client in spread(in_flight, clients):
                nursery.start_soon(tally.keep_asking, partial(client.request, "echo", payload))
        return tally.figures()

    kept = AsyncExitStack()
    chunks: AsyncIterable[Any] | None = None

    async def streams(seconds: float, size: int, go_on: bool) -> Figures:
        nonlocal chunks
        if chunks is None:
            chunks = await kept.enter_async_context(clients[0].stream("chunks", size))
        tally = Tally(seconds)
        await tally.read(chunks)
        if not go_on:
            chunks = None
            await kept.aclose()
        return tally.figures()

    await obey(
        lambda: trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True),
        {"requests": requests, "streams": streams},
    )


run({"broker": be_broker, "worker": be_worker, "client": be_client, "all": be_all}, trio.run)

"""grpcio's aio: a server that answers and streams bytes as they are, which spares it protobuf; no broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from asyncio_end import stay, take_orders
from end import run, say


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def chunks(request: bytes, context: Any) -> AsyncIterator[bytes]:
    chunk = bytes(int(request))
    while True:
        yield chunk


async def be_worker(options: dict[str, Any]) -> None:
    """Serve."""
    handlers = {
        "echo": grpc.unary_unary_rpc_method_handler(echo),
        "chunks": grpc.unary_stream_rpc_method_handler(chunks),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(address=f"127.0.0.1:{port}")
    await stay()
    await server.stop(None)


async def be_client(options: dict[str, Any]) -> None:
    """Make requests over as many connections: channels share one unless each has a pool of its own."""
    local = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(options["address"], options=local) for _ in range(options["clients"])]
    asks = [channel.unary_unary("/bench/echo") for channel in channels]
    for ask in asks:
        assert await ask(b"hello") == b"hello"
    say()
    stream = channels[0].unary_stream("/bench/chunks")
    await take_orders(asks, lambda size: stream(b"%d" % size))


run({"worker": be_worker, "client": be_client}, lambda role, options: asyncio.run(role(options)))

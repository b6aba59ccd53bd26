"""Whatever credit callers grant, a worker keeps no more for its broker than `outbox` allows, and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from zmdp_trio import Request, Service, SyncRequest, Worker, open_broker, open_client, open_worker, service

SIZE, OUTBOX, MESSAGES = 1_000, 10_000, 300

#: The worker whose outbox the handlers look at, and the most that was in there.
worker_here: list[Worker] = []
seen: list[int] = []


def look() -> None:
    [uplink] = worker_here[0]._machine.uplinks.values()
    seen.append(uplink.link.outbox_bytes)


@service("yields")
async def yields() -> AsyncIterator[bytes]:
    for _ in range(MESSAGES):
        yield bytes(SIZE)
        look()


@service("sends")
async def sends(request: Request) -> None:
    for _ in range(MESSAGES):
        await request.send(bytes(SIZE))
        look()


@service("yields.sync")
def yields_sync() -> Iterator[bytes]:
    for _ in range(MESSAGES):
        yield bytes(SIZE)
        look()


@service("sends.sync")
def sends_sync(request: SyncRequest) -> None:
    for _ in range(MESSAGES):
        request.send(bytes(SIZE))
        look()


async def read_all(handler: Service[..., Any]) -> list[int]:
    """Stream from a handler whose caller grants credit without end; return the sizes of what came."""
    endless = {"credit_messages": 2**40, "credit_bytes": 2**40, "connection_credit": 2**47}
    seen.clear()
    async with (
        open_broker("memory://outbox"),
        open_worker([handler], "memory://outbox", outbox=OUTBOX) as worker,
        open_client("memory://outbox", **endless) as client,  # type: ignore[arg-type]
    ):
        worker_here[:] = [worker]
        with trio.fail_after(30):
            async with client.stream(handler.name) as stream:
                return [len(part) async for part in stream]


@pytest.mark.parametrize("handler", [yields, sends], ids=lambda each: each.name)
async def test_tasks_wait_for_a_connection_that_is_full_and_go_on(
    handler: Service[..., Any], autojump_clock: object
) -> None:
    assert await read_all(handler) == [SIZE] * MESSAGES
    assert max(seen) <= OUTBOX + 2 * SIZE
    if handler is yields:
        assert max(seen) > OUTBOX, "it never came to the limit: this test shows nothing"


@pytest.mark.parametrize("handler", [yields_sync, sends_sync], ids=lambda each: each.name)
async def test_threads_wait_for_a_connection_that_is_full_and_go_on(handler: Service[..., Any]) -> None:
    assert await read_all(handler) == [SIZE] * MESSAGES

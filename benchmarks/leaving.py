"""How long after its caller has left a handler's `finally` begins, over tcp, in three processes.

Each way of leaving (break, end of `async with`, a cancel scope around `request`, `aclose` of the client, and kill -9 of
the client's process) is tried while the handler sleeps, sends, and waits for credit.  Times are in milliseconds; the
clock is CLOCK_MONOTONIC, which all processes of one machine share.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

import trio
from case import Case, Figures, Target
from peers import OURS, Stage
from processes import answer, start

from zmdp_trio import Client, open_broker, open_client, open_worker, service

#: Where a task notes when its caller left.
left_at: list[float] = []

#: Far more than the credit of one request.
ENDLESS = 10**9

#: When handlers ended.
ended, last_ended = trio.open_memory_channel[float](100)


@service("hold")
async def hold(how: str) -> AsyncIterator[Any]:
    """Sleep, send now and then, or send as fast as credit allows; note when it ends."""
    try:
        yield "started"
        if how == "sleeps":
            await trio.sleep_forever()
        for _ in range(ENDLESS):
            yield b"x"
            if how == "sends":
                await trio.sleep(0.001)
    finally:
        ended.send_nowait(time.monotonic())


@service("ended")
async def tell_ended() -> float:
    """Return when the last handler ended, as soon as it has."""
    return await last_ended.receive()


async def broker_main(pipe: Connection) -> None:
    """Be the broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        pipe.send(broker.endpoints[0])
        await answer(pipe)


async def worker_main(pipe: Connection, endpoint: str) -> None:
    """Be the worker."""
    async with open_worker([hold, tell_ended], endpoint) as worker:
        await worker.wait_welcomed()
        pipe.send("ready")
        await answer(pipe)


async def victim_main(pipe: Connection, endpoint: str, how: str) -> None:
    """Be the client that is killed."""
    async with open_client(endpoint) as client, client.stream("hold", how, timeout=None) as stream:
        await anext(stream)
        await settle(stream, how)
        pipe.send("started")
        if how == "sends":
            async for _ in stream:
                pass
        await trio.sleep_forever()


async def settle(stream: Any, how: str) -> None:
    """Read on until the handler is where it is wanted."""
    if how == "sends":
        for _ in range(10):
            await anext(stream)
    else:
        await trio.sleep(0.02)


async def leave_by_break(endpoint: str, client: Client, how: str) -> float:
    """`break` out of a bare `async for`."""
    read = 0
    async for _ in client.stream("hold", how):
        read += 1
        if how != "sends" or read > 10:
            await trio.sleep(0.02)
            left = time.monotonic()
            break
    return left


async def leave_block(endpoint: str, client: Client, how: str) -> float:
    """The end of `async with`."""
    async with client.stream("hold", how) as stream:
        await anext(stream)
        await settle(stream, how)
        left = time.monotonic()
    return left


async def cancel_request(endpoint: str, client: Client, how: str) -> float:
    """A cancel scope around `request`."""
    with trio.CancelScope() as scope:
        first = True

        async def on_partial(_: Any) -> None:
            nonlocal first
            if how == "waits for credit" and not first:
                await trio.sleep_forever()
            first = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_soon, scope)
            await client.request("hold", how, on_partial=on_partial)
    return left_at.pop()


async def cancel_soon(scope: trio.CancelScope) -> None:
    """Cancel, and note when."""
    await trio.sleep(0.05)
    left_at.append(time.monotonic())
    scope.cancel()


async def close_client(endpoint: str, client: Client, how: str) -> float:
    """`aclose` of the client."""
    async with open_client(endpoint) as other, aclosing(other.stream("hold", how)) as stream:
        await anext(stream)
        await settle(stream, how)
        left = time.monotonic()
        await other.aclose()
    return left


async def kill_client(endpoint: str, client: Client, how: str) -> float:
    """kill -9 of the client's process."""
    victim = start(victim_main, endpoint, how)
    await victim.receive()
    left = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    return left


STATES = ("sleeps", "sends", "waits for credit")
Leave = Callable[[str, Client, str], Awaitable[float]]
WAYS: tuple[Leave, ...] = (leave_by_break, leave_block, cancel_request, close_client)

#: How often each way is tried in each state, for each second that a turn is to last.
TIMES_PER_SECOND = 5


@asynccontextmanager
async def running() -> AsyncIterator[str]:
    """Run a broker and a worker, and provide where they are."""
    broker = start(broker_main)
    endpoint = await broker.receive()
    worker = start(worker_main, endpoint)
    await worker.receive()
    try:
        yield endpoint
    finally:
        for process in (worker, broker):
            process.pipe.close()


async def leave(endpoint: str, client: Client, way: Leave, how: str, times: int) -> list[float]:
    """Return after how many milliseconds the handler's `finally` began, each time."""
    taken = []
    for _ in range(times):
        left = await way(endpoint, client, how)
        taken.append(1000 * (await client.request("ended", timeout=None) - left))
    return taken


async def leave_all_ways(stage: Stage, seconds: float) -> Figures:
    """Leave in every way, in every state of the handler, which takes some fifty milliseconds each."""
    times = max(1, round(TIMES_PER_SECOND * seconds))
    async with running() as endpoint, open_client(endpoint) as client:
        taken = [await leave(endpoint, client, way, how, times) for way in WAYS for how in STATES]
    return {
        "median_ms": statistics.median(each for some in taken for each in some),
        "slowest_way_ms": max(map(statistics.median, taken)),
        "worst_ms": max(map(max, taken)),
    }


async def be_killed(stage: Stage, seconds: float) -> Figures:
    """Kill a client while the handler sends: nothing tells the broker but that it is not heard from."""
    async with running() as endpoint, open_client(endpoint) as client:
        (taken,) = await leave(endpoint, client, kill_client, "sends", 1)
    return {"after_ms": taken}


CASES = [
    Case(
        name="cancel",
        title="from leaving to the handler's `finally`, by all ways of leaving",
        note="`break`, the end of `async with`, a cancel scope around `request`, and `aclose` of the client, while the "
        "handler sleeps, sends, and waits for credit.",
        subjects={OURS: leave_all_ways},
        figure="median_ms",
        targets=(Target(OURS, at_most=2),),
        beyond=4.0,
    ),
    Case(
        name="killed",
        title="from kill -9 of the client to the handler's `finally`",
        note="It may be as late as four heartbeat intervals: 10 s.",
        subjects={OURS: be_killed},
        figure="after_ms",
        beyond=9.0,
        rounds=1,
    ),
]

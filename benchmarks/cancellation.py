"""How long after its caller has left a handler's `finally` begins, over tcp, in three processes.

    python benchmarks/cancellation.py [--times 50] [--json]

Each way of leaving (break, end of `async with`, a cancel scope around `request`, `aclose` of the client, and kill -9 of
the client's process) is tried while the handler sleeps, sends, and waits for credit.  Times are in milliseconds; the
clock is CLOCK_MONOTONIC, which all processes of one machine share.  `make bench` has all but kill -9 as a case.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from multiprocessing.connection import Connection
from typing import Any

import trio
from case import Case, Figures
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
WAYS = {
    "break": leave_by_break,
    "end of async with": leave_block,
    "scope around request": cancel_request,
    "aclose of the client": close_client,
}


async def leave_all_ways(times: int, kills: int) -> AsyncIterator[tuple[str, str, list[float]]]:
    """Try every way of leaving in every state of the handler.

    Yields:
        The way, the state, and after how many milliseconds the handler's `finally` began, each time.
    """
    broker = start(broker_main)
    endpoint = await broker.receive()
    worker = start(worker_main, endpoint)
    await worker.receive()
    async with open_client(endpoint) as client:
        rows = [(name, leave, how, times) for name, leave in WAYS.items() for how in STATES]
        rows += [("kill -9", kill_client, how, kills) for how in STATES if kills]
        for name, leave, how, number in rows:
            taken = []
            for _ in range(number):
                left = await leave(endpoint, client, how)
                taken.append(1000 * (await client.request("ended") - left))
            yield name, how, taken
    for process in (worker, broker):
        process.pipe.close()


async def measure(stage: Stage, seconds: float) -> Figures:
    """Leave in every way, which takes some fifty milliseconds each."""
    times = max(1, int(seconds))
    taken = [each async for _, _, each in leave_all_ways(times, kills=0)]
    return {
        "median_ms": statistics.median(each for some in taken for each in some),
        "slowest_way_ms": max(map(statistics.median, taken)),
        "worst_ms": max(map(max, taken)),
    }


CASES = [
    Case(
        name="cancel",
        title="from leaving to the handler's `finally`, by all ways of leaving",
        subjects={OURS: measure},
        figure="median_ms",
        seconds=5,
    )
]


async def main(times: int, kills: int, as_json: bool) -> None:
    """Tell how each way of leaving did."""
    results = []
    async for name, how, taken in leave_all_ways(times, kills):
        row = {"left by": name, "handler": how, "median_ms": statistics.median(taken), "worst_ms": max(taken)}
        results.append(row)
        if not as_json:
            figures = f"median {row['median_ms']:8.2f} ms, worst {row['worst_ms']:8.2f} ms"
            sys.stdout.write(f"{name:<22} while it {how:<18} {figures}\n")
            sys.stdout.flush()
    if as_json:
        json.dump(results, sys.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, help="tries of each way but kill -9")
    parser.add_argument("--kills", type=int, default=3, help="tries of kill -9, up to (L+1) x HB = 10 s each")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    arguments = parser.parse_args()
    trio.run(main, arguments.times, arguments.kills, arguments.json)

"""What the full stack does in three processes over tcp: requests and partial replies a second, and the broker's CPU.

    python benchmarks/speed.py [--seconds 5] [--workers 1 100] [--json]

The broker, the workers (all in one process), and the client each have a process.  Figures depend on the machine:
compare ratios within one run.  CPU is user plus system time of the process, read from the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from typing import Any

import trio
from processes import Process, answer, cpu_seconds, start

from zmdp_trio import Client, Final, open_broker, open_client, open_worker, service

PARTIALS = 20_000


@service("echo")
async def echo(payload: Any) -> Any:
    """Return what came."""
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    """Yield n numbers."""
    for i in range(n):
        yield i
    yield Final(n)


async def broker_main(pipe: Connection) -> None:
    """Be the broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        pipe.send(broker.endpoints[0])
        await answer(pipe)


async def workers_main(pipe: Connection, endpoint: str, workers: int) -> None:
    """Be all the workers."""
    async with AsyncExitStack() as stack:
        for _ in range(workers):
            worker = await stack.enter_async_context(open_worker([echo, count], endpoint))
            await worker.wait_welcomed()
        pipe.send("ready")
        await answer(pipe)


async def sequential(client: Client, seconds: float) -> dict[str, float]:
    """One request at a time."""
    latencies = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        await client.request("echo", "x" * 16)
        latencies.append(time.perf_counter() - begin)
    quantiles = statistics.quantiles(latencies, n=100)
    return {"requests": len(latencies), "p50_us": quantiles[49] * 1e6, "p99_us": quantiles[98] * 1e6}


async def pipelined(client: Client, seconds: float, in_flight: int = 100) -> dict[str, float]:
    """So many tasks, each with one request after the other."""
    done = 0
    end = time.perf_counter() + seconds

    async def ask_on() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await client.request("echo", "x" * 16)
            done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(ask_on)
    return {"requests": done}


async def streaming(client: Client, seconds: float) -> dict[str, float]:
    """One stream of small partial replies after the other."""
    done = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        async with client.stream("count", PARTIALS) as stream:
            async for _ in stream:
                done += 1
    return {"requests": done}


async def many_streams(client: Client, seconds: float, streams: int = 100) -> dict[str, float]:
    """So many streams of small partial replies at once."""
    done = 0
    end = time.perf_counter() + seconds

    async def read_on() -> None:
        nonlocal done
        while time.perf_counter() < end:
            async with client.stream("count", PARTIALS // 10) as stream:
                async for _ in stream:
                    done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(read_on)
    return {"requests": done}


async def measure(name: str, run: Any, client: Client, seconds: float, broker: Process, worker: Process) -> Any:
    """Run one load, and return its figures."""
    await run(client, min(seconds, 0.5))
    before = await broker.ask("cpu"), await worker.ask("cpu"), cpu_seconds(), time.perf_counter()
    figures = await run(client, seconds)
    after = await broker.ask("cpu"), await worker.ask("cpu"), cpu_seconds(), time.perf_counter()
    spent = [b - a for a, b in zip(before, after, strict=True)]
    count = figures.pop("requests")
    per = [1e6 * each / count for each in spent[:3]]
    return {
        "load": name,
        "per_second": count / spent[3],
        "broker_us": per[0],
        "worker_us": per[1],
        "client_us": per[2],
        **figures,
    }


async def main(seconds: float, workers: list[int], as_json: bool, only: str | None) -> None:
    """Measure every load with every number of workers."""
    results = []
    loads = {
        "one at a time": sequential,
        "100 in flight": pipelined,
        "1 stream": streaming,
        "100 streams": many_streams,
    }
    for number in workers:
        broker = start(broker_main)
        endpoint = await broker.receive()
        worker = start(workers_main, endpoint, number)
        await worker.receive()
        async with open_client(endpoint) as client:
            for name, run in loads.items():
                if only is None or only in name:
                    result = {"workers": number} | await measure(name, run, client, seconds, broker, worker)
                    results.append(result)
                    if not as_json:
                        show(result)
        worker.pipe.close()
        broker.pipe.close()
    if as_json:
        json.dump({"cpus": os.cpu_count(), "python": sys.version.split()[0], "results": results}, sys.stdout)


def show(result: dict[str, Any]) -> None:
    """Print one line of figures."""
    latency = f"  p50 {result['p50_us']:.0f} us, p99 {result['p99_us']:.0f} us" if "p50_us" in result else ""
    sys.stdout.write(
        f"{result['workers']:>3} workers, {result['load']:<15} {result['per_second']:>9,.0f}/s   CPU per item: "
        f"broker {result['broker_us']:.1f}, worker {result['worker_us']:.1f}, client {result['client_us']:.1f} us"
        f"{latency}\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 100], help="numbers of workers to try")
    parser.add_argument("--only", help="loads whose name contains this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    trio.run(main, arguments.seconds, arguments.workers, arguments.json, arguments.only)

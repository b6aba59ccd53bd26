"""What a slow reader costs: the broker's memory, the handler's lead, its neighbour's rate; and a large file's memory.

    python benchmarks/slow_reader.py [--seconds 60] [--megabytes 1000] [--json]

An endless producer streams to a reader that pauses; meanwhile another stream on the same connection goes on, and its
rate is compared with its rate alone, in turns.  Then `files.read` streams a file, and the checksum is compared.
Memory is resident memory of the broker's and the worker's process (Linux).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio
from processes import Process, start

from zmdp_trio import Client, open_broker, open_client, open_worker, service

sys.path.append(str(Path(__file__).parent.parent))

from examples.files import file_services  # type: ignore[attr-defined]  # mypy takes the module of that name

MIB = 2**20
produced = 0


@service("endless")
async def endless(size: int) -> AsyncIterator[bytes]:
    """Yield for ever, and count."""
    global produced
    produced = 0
    while True:
        produced += 1
        yield bytes(size)


@service("produced")
async def tell_produced() -> int:
    """Return how many values `endless` has come to yield."""
    return produced


@service("numbers")
async def numbers(n: int) -> AsyncIterator[int]:
    """Yield n numbers."""
    for i in range(n):
        yield i


async def broker_main(pipe: Connection) -> None:
    """Be the broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        pipe.send(broker.endpoints[0])
        await trio.sleep_forever()


async def worker_main(pipe: Connection, endpoint: str, root: str) -> None:
    """Be the worker."""
    services = [endless, tell_produced, numbers, *file_services(Path(root))]
    async with open_worker(services, endpoint) as worker:
        await worker.wait_welcomed()
        pipe.send("ready")
        await trio.sleep_forever()


async def rate(client: Client, seconds: float) -> float:
    """Partial replies a second of a stream that is read."""
    done = 0
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds:
        async with client.stream("numbers", 2_000) as stream:
            async for _ in stream:
                done += 1
    return done / (time.perf_counter() - begin)


async def pause(client: Client, broker: Process, seconds: float, size: int) -> dict[str, Any]:
    """Let a reader pause on an endless stream, and see what that costs."""
    await rate(client, 1)
    alone, beside = [], []
    async with client.stream("endless", size, timeout=None) as stream:
        await anext(stream)
        before = broker.memory()
        await trio.sleep(seconds)
        growth = broker.memory() - before
        lead = await client.request("produced")
    for _ in range(5):
        alone.append(await rate(client, 1))
        async with client.stream("endless", size, timeout=None) as stream:
            await anext(stream)
            beside.append(await rate(client, 1))
    return {
        "seconds paused": seconds,
        "bytes per reply": size,
        "broker grew by MiB": growth / MIB,
        "replies the handler was ahead": lead - 1,
        "neighbour's rate, of its rate alone": statistics.median(b / a for a, b in zip(alone, beside, strict=True)),
    }


def look_at(path: Path) -> tuple[int, bytes]:
    """Return a file's size and its SHA-256."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").digest()


async def read_file(client: Client, processes: dict[str, Process], path: Path) -> dict[str, Any]:
    """Stream a file, and compare its checksum with the disk's."""
    await client.request("files.read", {"path": path.name, "length": 50 * MIB})
    before = {name: process.memory() for name, process in processes.items()}
    peak = dict.fromkeys(processes, 0)
    digest = hashlib.sha256()
    size, expected = await trio.to_thread.run_sync(look_at, path)
    begin = time.perf_counter()
    async with client.stream("files.read", {"path": path.name}) as stream:
        async for chunk in stream:
            digest.update(chunk)
            for name, process in processes.items():
                peak[name] = max(peak[name], process.memory() - before[name])
    seconds = time.perf_counter() - begin
    return {
        "MiB": size / MIB,
        "MiB per second": size / MIB / seconds,
        "checksum": "right" if digest.digest() == expected else "WRONG",
        **{f"{name} grew by MiB": growth / MIB for name, growth in peak.items()},
    }


async def main(seconds: float, megabytes: int, as_json: bool) -> None:
    """Measure both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large"
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(10**6))
        broker = start(broker_main)
        endpoint = await broker.receive()
        worker = start(worker_main, endpoint, folder)
        await worker.receive()
        async with open_client(endpoint) as client:
            results = {
                "a paused reader, small replies": await pause(client, broker, seconds, 16),
                "a paused reader, large replies": await pause(client, broker, seconds / 10, 2**18),
                "a large file": await read_file(client, {"broker": broker, "worker": worker}, path),
            }
    if as_json:
        json.dump(results, sys.stdout)
        return
    for name, figures in results.items():
        sys.stdout.write(f"{name}\n")
        for what, figure in figures.items():
            shown = f"{figure:,.2f}" if isinstance(figure, float) else str(figure)
            sys.stdout.write(f"    {what:<38} {shown:>12}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the reader pauses")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    trio.run(main, arguments.seconds, arguments.megabytes, arguments.json)

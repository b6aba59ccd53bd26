"""The four things that the demo does, each with figures of what it saw."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from zmdp_trio import Client, ServiceNotFound

from .._failures import Failure, explain
from .._values import size
from ._show import Show, milliseconds

#: What a step found out, for --json.
Figures = dict[str, Any]

REQUESTS: Final = 1_000
_IN_FLIGHT: Final = 100
_LINES: Final = 20


async def stream_file(client: Client, show: Show, file: Path, total: int) -> Figures:
    """Stream the first `total` bytes of a file through the broker, and hold them against those on the disk."""
    digest, received, chunks = hashlib.sha256(), 0, 0
    began = time.perf_counter()
    with show.progress(total) as advance:
        async with client.stream("files.read", {"path": file.name, "length": total}) as stream:
            async for chunk in stream:
                digest.update(chunk)
                received += len(chunk)
                chunks += 1
                advance(len(chunk))
    seconds = time.perf_counter() - began
    show.fact("received", f"{size(received)} in {seconds:.2f} s, {chunks:,} chunk{'' if chunks == 1 else 's'}")
    show.fact("rate", f"{size(received / seconds)}/s")
    await _check_sum(show, file, total, digest.hexdigest())
    figures = {"path": str(file), "bytes": received, "chunks": chunks, "seconds": seconds}
    return figures | {"bytes_per_second": received / seconds, "sha256": digest.hexdigest()}


async def _check_sum(show: Show, file: Path, total: int, received: str) -> None:
    on_disk = await trio.to_thread.run_sync(_sha256, file, total, abandon_on_cancel=True)
    if received != on_disk:
        raise Failure(f"what arrived is not what is on the disk: SHA-256 {received} instead of {on_disk}")
    show.good("SHA-256", f"{received[:16]}...  as on the disk")


def _sha256(path: Path, total: int) -> str:
    digest, left = hashlib.sha256(), total
    with path.open("rb") as file:
        while left and (data := file.read(min(left, 2**20))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()


async def time_requests(client: Client, show: Show, file: Path) -> Figures:
    """Ask for the size of a file again and again: one at a time for the latency, then many at once for the rate."""
    query = {"path": file.name, "sha256": False}
    times = []
    began = time.perf_counter()
    for _ in range(REQUESTS):
        sent = time.perf_counter()
        await client.request("files.stat", query)
        times.append(time.perf_counter() - sent)
    rate = REQUESTS / (time.perf_counter() - began)
    latency = _percentiles(times)
    show.fact("one by one", f"{rate:,.0f} requests/s")
    show.fact("latency", "   ".join(f"{name} {milliseconds(value)}" for name, value in latency.items()))
    at_once = await _rate_at_once(client, query)
    show.fact("at once", f"{at_once:,.0f} requests/s with {_IN_FLIGHT} in flight")
    figures = {"count": REQUESTS, "per_second": rate, "per_second_at_once": at_once, "in_flight": _IN_FLIGHT}
    return figures | {"latency_ms": {name: value * 1000 for name, value in latency.items()}}


async def _rate_at_once(client: Client, query: dict[str, object]) -> float:
    todo = iter(range(REQUESTS))

    async def caller() -> None:
        for _ in todo:
            await client.request("files.stat", query)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(_IN_FLIGHT):
            nursery.start_soon(caller)
    return REQUESTS / (time.perf_counter() - began)


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(int(rank * len(ordered)), len(ordered) - 1)] for name, rank in ranks.items()}


async def leave_midway(client: Client, show: Show, log: Path) -> Figures:
    """Follow a growing file, leave, and ask the worker when its handler was cancelled."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_grow, log)
        lines = 0
        async with client.stream("files.tail", {"path": log.name, "offset": 0, "poll": 0.01}) as stream:
            async for chunk in stream:
                lines += chunk.count(b"\n")
                if lines >= _LINES:
                    break
            left = time.monotonic()
        waited = time.monotonic() - left
        delay = await client.request("demo.cancelled", timeout=10) - left
        nursery.cancel_scope.cancel()
    show.fact("followed", f"{lines} lines of a growing file, then left")
    show.good("cancelled", f"the handler, {milliseconds(delay)} after the client left")
    return {"lines": lines, "handler_cancelled_after_ms": delay * 1000, "client_free_after_ms": waited * 1000}


async def _grow(log: Path, task_status: trio.TaskStatus[None]) -> None:
    async with await trio.open_file(log, "w", buffering=1) as file:
        task_status.started()
        for number in itertools.count(1):
            await file.write(f"line {number}\n")
            await trio.sleep(0.01)


async def meet_error(client: Client, show: Show) -> Figures:
    """Ask for what nobody offers, and show the error as `zmdp call` would."""
    began = time.perf_counter()
    try:
        await client.request("files.shred", {"path": "everything"})
    except ServiceNotFound as error:
        failure = explain(error)
        assert failure is not None
        seconds = time.perf_counter() - began
        show.fact("zmdp says", failure.line(), style="yellow")
        show.fact("after", f"{seconds:.2f} s, in which such a worker might have appeared")
        return {**failure.record(), "status": failure.status, "seconds": seconds}
    raise Failure("a service that nobody offers gave a reply")

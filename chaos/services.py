"""What the workers serve, and the ledger in which they note every execution that began."""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import trio

from zmdp_trio import Code, Final, Service, ServiceError, SyncRequest, service


class Job(msgspec.Struct):
    """The payload of a request."""

    #: Which job it is: the same for all requests that share a key.
    number: int
    #: How long it takes.
    seconds: float
    #: Partial replies of a stream.
    chunks: int = 0


class Ledger:
    """A file that all workers append to.  A line that was written survives the kill -9 of its writer."""

    def __init__(self, path: Path, worker: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._worker = worker
        self._count = itertools.count()

    def note(self, number: int) -> str:
        """Note that a job's execution begins; return the execution's name."""
        execution = f"{self._worker}/{next(self._count)}"
        os.write(self._file, f"{number} {execution}\n".encode())
        return execution


def read_ledger(path: Path) -> dict[int, list[str]]:
    """Return the executions of each job, by the job's number, in the order in which they began."""
    executions: dict[int, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        number, execution = line.split()
        executions[int(number)].append(execution)
    return executions


def noted_services(ledger: Ledger) -> list[Service[..., Any]]:
    """Make services that note each execution before anything else, and reply with its name."""

    @service("work")
    async def work(job: Job) -> str:
        execution = ledger.note(job.number)
        await trio.sleep(job.seconds)
        return execution

    @service("grind")
    def grind(job: Job) -> str:
        execution = ledger.note(job.number)
        time.sleep(job.seconds)
        return execution

    @service("count")
    async def count(job: Job) -> AsyncIterator[Any]:
        execution = ledger.note(job.number)
        for i in range(job.chunks):
            yield i
            await trio.sleep(job.seconds / job.chunks)
        yield Final(execution)

    return [work, grind, count]


# ---- for the soak, which notes nothing


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("pause")
async def pause(seconds: float) -> None:
    await trio.sleep(seconds)


@service("numbers")
async def numbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@service("blobs")
async def blobs(size: int) -> AsyncIterator[bytes]:
    """Send zeros for ever."""
    while True:
        yield bytes(size)


@service("refuse")
async def refuse(detail: int) -> None:
    raise ServiceError(Code.NOT_FOUND, "as asked", detail)


@service("square", concurrency=4)
def square(n: int) -> int:
    return n * n


@service("lines", concurrency=4)
def lines(n: int) -> Iterator[str]:
    for i in range(n):
        yield f"line {i}"


@service("wait", concurrency=4)
def wait(request: SyncRequest) -> None:
    """Work until the caller has left."""
    while request.active:
        time.sleep(0.005)


SOAK_SERVICES: list[Service[..., Any]] = [echo, pause, numbers, blobs, refuse, square, lines, wait]

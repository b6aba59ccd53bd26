"""One of the processes of a run: `python -m chaos.peers ROLE PART`, started by `processes.Peer`.

It says one line of JSON when it is ready, and one for each question that comes as a line on its standard input.  When
that ends it ends too, so none outlives the program that started it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import msgspec
import trio

from zmdp_trio import Broker, Settings, Worker, open_broker, open_client, open_worker

from .mixed import MixedLoad
from .services import SOAK_SERVICES, Ledger, noted_services


class Part(msgspec.Struct):
    """What a process is told."""

    name: str
    endpoints: list[str]
    settings: dict[str, int | float] = {}
    #: Where a worker notes its executions; without it, it serves the soak's services.
    ledger: str = ""
    #: A client's load: operations a second, and the seed.
    rate: float = 0
    seed: int = 0


#: What a process can be asked.
Answers: TypeAlias = Mapping[str, Callable[[], Awaitable[Any]]]


async def play_broker(part: Part) -> None:
    """Be a broker."""
    async with open_broker(*part.endpoints, name=part.name, settings=settings_of(part)) as broker:
        say({"endpoints": broker.endpoints})

        async def statistics() -> dict[str, Any]:
            return broker_statistics(broker)

        await answer({"statistics": statistics})


async def play_worker(part: Part) -> None:
    """Be a worker."""
    services = noted_services(Ledger(Path(part.ledger), part.name)) if part.ledger else SOAK_SERVICES
    async with open_worker(services, *part.endpoints, name=part.name, settings=settings_of(part)) as worker:
        await worker.wait_welcomed()
        say("welcomed")

        async def statistics() -> dict[str, Any]:
            return worker_statistics(worker)

        await answer({"statistics": statistics})


async def play_client(part: Part) -> None:
    """Be the soak's client."""
    settings = settings_of(part)
    async with (
        open_client(*part.endpoints, name=part.name, settings=settings) as client,
        trio.open_nursery() as nursery,
    ):
        load = MixedLoad(client, part.endpoints, settings, rate=part.rate, seed=part.seed)
        nursery.start_soon(load.run)
        say("ready")

        async def statistics() -> dict[str, Any]:
            return {**attrs.asdict(client.statistics()), **load.figures()}

        await answer({"statistics": statistics, "rest": load.rest, "go": load.go})
        nursery.cancel_scope.cancel()


ROLES = {"broker": play_broker, "worker": play_worker, "client": play_client}


def settings_of(part: Part) -> Settings:
    """Return the settings that a process was told; it leaves without draining, whatever still runs."""
    return msgspec.convert({"drain_grace": 0, **part.settings}, Settings)


def broker_statistics(broker: Broker) -> dict[str, Any]:
    """Return a broker's numbers as what JSON can say."""
    statistics = broker.statistics()
    services = {name: attrs.asdict(each) for name, each in statistics.services.items()}
    return {**attrs.asdict(statistics, recurse=False), "services": services, "total": attrs.asdict(statistics.total)}


def worker_statistics(worker: Worker) -> dict[str, Any]:
    """Return a worker's numbers as what JSON can say."""
    statistics = worker.statistics()
    services = {name: attrs.asdict(each) for name, each in statistics.services.items()}
    return {**attrs.asdict(statistics, recurse=False), "services": services}


def say(what: Any) -> None:
    """Say one line of JSON to the program that started us."""
    line = msgspec.json.encode(what) + b"\n"
    while line:
        line = line[os.write(sys.stdout.fileno(), line) :]


async def answer(answers: Answers) -> None:
    """Answer questions until there will be no more."""
    async for question in questions():
        if question == "collect":
            say(collect())
        else:
            say(await answers[question]())


def collect() -> bool:
    """Free what nobody uses, and give it back to the system; tell whether the allocator can do that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    return trim is not None and bool(trim(0))


async def questions() -> AsyncIterator[str]:
    """Yield the lines of standard input."""
    buffer = b""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        async for chunk in stream:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                yield line.decode()


if __name__ == "__main__":
    trio.run(ROLES[sys.argv[1]], msgspec.json.decode(sys.argv[2], type=Part))

"""What a request costs the broker while many others are there who ask for nothing: CPU, memory, and the spread case.

Five busy clients and five busy workers have 100 requests in flight at a broker that has nobody else, and at one with
5,000 idle clients, 1,000 idle workers, 10,000 services, or 100,000 queued requests beside them.  Both brokers run all
the time; they are measured in turn.

Everything is a process of its own over tcp, and everybody is a real `Client` or `Worker`.  Figures depend on the
machine: compare ratios within one run.  CPU is user plus system time of a process, read from the kernel, so libzmq's
threads are in it, and its heartbeats.  Every idle peer takes some four file descriptors: see `ulimit -n`.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import attrs
import trio
from case import Case, Figures, Target, load
from case import Measure as Turn
from peers import OURS
from processes import Process, cpu_seconds, start

from zmdp_trio import Client, open_broker, open_client, serve_worker, service

IN_FLIGHT: Final = 100
BUSY: Final = 5
#: Turns of the two brokers, with a crowd and without, in one of `make bench`.
ROUNDS: Final = 5
#: Peers that one helper process holds, since each needs descriptors.
PEERS: Final = 1_000
#: Seconds over which the CPU of those who do nothing is taken: two heartbeat intervals.
IDLE: Final = 5.0
#: Limits of the broker that are in the way of such crowds.
ROOM: Final[dict[str, Any]] = {"broker_services": 20_000, "queue_requests": 200_000, "client_queue": 200_000}


@service("echo", concurrency=IN_FLIGHT)
async def echo(payload: Any) -> Any:
    """Return what came."""
    return payload


@service("slow", concurrency=1)
async def slow(payload: Any) -> None:
    """Return never."""
    await trio.sleep_forever()


# ---- what the processes do


async def obey(pipe: Connection, act: Callable[[str], Awaitable[Any]] | None = None) -> None:
    """Answer `cpu` with our CPU time, anything else with what `act` returns, until the pipe is closed."""
    while True:
        await trio.lowlevel.wait_readable(pipe.fileno())
        try:
            what = pipe.recv()
        except EOFError:
            return
        pipe.send(cpu_seconds() if what == "cpu" or act is None else await act(what))


async def broker_main(pipe: Connection) -> None:
    """Be a broker."""
    use_all_descriptors()
    async with open_broker("tcp://127.0.0.1:*", **ROOM) as broker:
        pipe.send(broker.endpoints[0])
        await obey(pipe)


async def workers_main(pipe: Connection, endpoint: str, services: Sequence[str], workers: int, each: int) -> None:
    """Be workers: they offer these services, and so many more, `each` of them, that nobody else offers."""
    use_all_descriptors()
    offers = [OFFERED[name] for name in services]
    # Each has a task of its own: scopes inside of scopes would cost the more, the more there are.
    async with trio.open_nursery() as nursery:
        for number in range(workers):
            more = [service(f"{os.getpid()}-{number}-{n}")(other) for n in range(each)]
            await nursery.start(partial(serve_worker, [*offers, *more], endpoint, drain_grace=0))
        pipe.send("ready")
        await obey(pipe)
        nursery.cancel_scope.cancel()


async def other(payload: Any) -> Any:
    """Be offered, and not asked for."""
    return payload


OFFERED: Final = {each.name: each for each in (echo, slow, service("other")(other))}


async def clients_main(pipe: Connection, endpoint: str, clients: int) -> None:
    """Be clients that share the requests in flight for so many seconds as the question says."""
    async with open_clients(endpoint, clients) as all_of_them:
        pipe.send("ready")

        async def act(seconds: str) -> Any:
            return await ask_on_all(all_of_them, float(seconds))

        await obey(pipe, act)


async def idle_clients_main(pipe: Connection, endpoint: str, clients: int) -> None:
    """Be clients that have asked once."""
    async with open_clients(endpoint, clients):
        pipe.send("ready")
        await obey(pipe)


async def queued_main(pipe: Connection, endpoint: str, requests: int) -> None:
    """Be a client whose requests wait for a worker that is busy."""
    async with open_client(endpoint) as client, trio.open_nursery() as nursery:
        for _ in range(requests):
            nursery.start_soon(wait_for_ever, client)
        pipe.send("ready")
        await obey(pipe)
        nursery.cancel_scope.cancel()


async def wait_for_ever(client: Client) -> None:
    """Ask for what does not come."""
    await client.request("slow", "x" * 16, timeout=None)


@asynccontextmanager
async def open_clients(endpoint: str, number: int) -> AsyncIterator[list[Client]]:
    """Open clients, and have each ask once, so that all of them are connected."""
    use_all_descriptors()
    async with trio.open_nursery() as nursery:
        yield [await nursery.start(be_client, endpoint) for _ in range(number)]
        nursery.cancel_scope.cancel()


async def be_client(endpoint: str, task_status: trio.TaskStatus[Client]) -> None:
    """Be a client that has asked once, for whom it may concern."""
    async with open_client(endpoint) as client:
        await client.request("echo", "x" * 16)
        task_status.started(client)
        await trio.sleep_forever()


async def ask_on_all(clients: Sequence[Client], seconds: float) -> dict[str, float]:
    """Keep the requests in flight, spread over the clients; return how many there were, and how long they took."""
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def ask_on(client: Client) -> None:
        while (asked := time.perf_counter()) < end:
            await client.request("echo", "x" * 16)
            latencies.append(time.perf_counter() - asked)

    async with trio.open_nursery() as nursery:
        for number in range(IN_FLIGHT):
            nursery.start_soon(ask_on, clients[number % len(clients)])
    quantiles = statistics.quantiles(latencies, n=100)
    spent = time.perf_counter() - begin
    return {
        "requests": len(latencies),
        "per_second": len(latencies) / spent,
        "p50_us": 1e6 * quantiles[49],
        "p99_us": 1e6 * quantiles[98],
    }


def use_all_descriptors() -> None:
    """Have as many file descriptors as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# ---- a broker and those who keep it busy


@attrs.frozen
class Side:
    """A broker, and its busy peers."""

    endpoint: str
    broker: Process
    workers: Process
    clients: Process

    @classmethod
    async def open(cls) -> Side:
        """Start all of them."""
        broker = start(broker_main)
        endpoint = await broker.receive()
        working = start(workers_main, endpoint, ["echo"], BUSY, 0)
        await working.receive()
        asking = start(clients_main, endpoint, BUSY)
        await asking.receive()
        return cls(endpoint, broker, working, asking)

    async def measure(self, seconds: float) -> dict[str, float]:
        """Run the load, and return what it cost: microseconds of CPU per request, by process, and what it did."""
        processes = {"broker": self.broker, "worker": self.workers, "client": self.clients}
        before = [await process.ask("cpu") for process in processes.values()]
        figures = await self.clients.ask(str(seconds))
        after = [await process.ask("cpu") for process in processes.values()]
        requests = figures.pop("requests")
        spent = {f"{name}_us": 1e6 * (b - a) / requests for name, a, b in zip(processes, before, after, strict=True)}
        return {**spent, **figures}

    def processes(self) -> list[Process]:
        """Return all of them, in the order in which they may end."""
        return [self.clients, self.workers, self.broker]


def close(processes: Sequence[Process]) -> None:
    """End these processes."""
    for process in processes:
        process.pipe.close()


# ---- crowds


@attrs.frozen
class Crowd:
    """Those who are there beside the busy ones.

    Attributes:
        number: how many clients, workers, services, or requests.
        start: starts the helper processes, at an endpoint.
    """

    what: str
    number: int
    start: Callable[[str, int], list[Process]]


def idle_clients(endpoint: str, number: int) -> list[Process]:
    """Start idle clients, so many in each process."""
    return [start(idle_clients_main, endpoint, each) for each in shares(number, PEERS)]


def idle_workers(endpoint: str, number: int) -> list[Process]:
    """Start idle workers."""
    return [start(workers_main, endpoint, ["other"], each, 0) for each in shares(number, PEERS)]


def many_services(endpoint: str, number: int) -> list[Process]:
    """Start workers that offer so many services."""
    return [start(workers_main, endpoint, [], each, 1_000) for each in shares(number // 1_000, PEERS)]


def queued_requests(endpoint: str, number: int) -> list[Process]:
    """Start clients whose requests wait."""
    blocked = start(workers_main, endpoint, ["slow"], 1, 0)
    return [blocked, *(start(queued_main, endpoint, each) for each in shares(number, 25_000))]


def shares(number: int, most: int) -> list[int]:
    """Divide a number into parts."""
    return [min(most, number - begin) for begin in range(0, number, most)]


CROWDS: Final = (
    Crowd("idle clients", 5_000, idle_clients),
    Crowd("idle workers", 1_000, idle_workers),
    Crowd("services", 10_000, many_services),
    Crowd("queued requests", 100_000, queued_requests),
)


async def beside(crowd: Crowd, seconds: float) -> Figures:
    """Measure a broker by itself, and one with a crowd, in turn."""
    use_all_descriptors()
    alone, crowded = await Side.open(), await Side.open()
    await alone.measure(seconds)
    await crowded.measure(seconds)
    memory = crowded.broker.memory()
    helpers = crowd.start(crowded.endpoint, crowd.number)
    for helper in helpers:
        await helper.receive()
    # What has just come is still acknowledged, and what was freed for it is not yet used again.
    await trio.sleep(IDLE)
    idle = await share_of_a_core(crowded.broker, IDLE)
    memory = crowded.broker.memory() - memory
    pairs = [(await alone.measure(seconds), await crowded.measure(seconds)) for _ in range(ROUNDS)]
    close([*helpers, *crowded.processes(), *alone.processes()])
    ratios = [with_them["broker_us"] / without["broker_us"] for without, with_them in pairs]
    return {
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "broker_us": statistics.median(each["broker_us"] for _, each in pairs),
        "alone_us": statistics.median(each["broker_us"] for each, _ in pairs),
        "bytes_each": memory / crowd.number,
        "idle_percent": idle,
    }


async def share_of_a_core(process: Process, seconds: float) -> float:
    """Return how much of a core a process uses, in percent."""
    begin, before = time.perf_counter(), await process.ask("cpu")
    await trio.sleep(seconds)
    spent: float = await process.ask("cpu") - before
    return 100 * spent / (time.perf_counter() - begin)


def turn(crowd: Crowd) -> Turn:
    """Return what takes a turn: one for each crowd, since it takes long to come."""
    return lambda stage, seconds: beside(crowd, seconds)


CASES = [
    Case(
        name="crowd",
        title=f"{IN_FLIGHT} requests in flight beside a crowd: the broker's CPU per request, of that without",
        note=f"Of {BUSY} clients and {BUSY} workers, at a broker that has nobody else and at one with the crowd, in "
        f"turn, {ROUNDS} times: the ratio is the median of these. Everybody is a real `Client` or `Worker`, and has "
        "every setting as it is; the broker's limits are raised for so many.",
        subjects={f"{crowd.number:,} {crowd.what}": turn(crowd) for crowd in CROWDS},
        figure="ratio",
        reference=None,
        targets=(
            *(Target(f"{crowd.number:,} {crowd.what}", at_most=1.25) for crowd in CROWDS),
            Target("1,000 idle workers", at_most=3, figure="idle_percent"),
        ),
        seconds=0.6,
        beyond=28.0,
        rounds=1,
    ),
    Case(
        name="spread",
        title=f"{IN_FLIGHT} requests in flight, spread over clients and workers: the broker's CPU per request",
        subjects={
            f"{clients} clients, {workers} workers": load(
                OURS, "requests", system={"clients": clients, "workers": workers}, in_flight=IN_FLIGHT, size=16
            )
            for clients, workers in ((1, 1), (1, 100), (100, 1), (100, 100))
        },
        figure="broker_us",
        reference=None,
        seconds=0.6,
        beyond=2.0,
    ),
]

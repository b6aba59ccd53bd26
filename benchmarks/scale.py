"""What a request costs the broker while many others are there who ask for nothing: CPU, memory, and the spread case.

    python benchmarks/scale.py [--only clients] [--rounds 5] [--seconds 1] [--json]

* `clients`, `workers`, `services`, `queued`: five busy clients and five busy workers, 100 requests in flight, at a
  broker that has nobody else, and at one with 5,000 idle clients, 1,000 idle workers, 10,000 services, or 100,000
  queued requests beside them.  Both brokers run all the time; they are measured in turn, round by round.
* `spread`: the same 100 requests in flight between 1 or 100 clients and 1 or 100 workers.

Everything is a process of its own over tcp, and everybody is a real `Client` or `Worker`.  Figures depend on the
machine: compare ratios within one run.  CPU is user plus system time of a process, read from the kernel, so libzmq's
threads are in it, and its heartbeats.  Every idle peer takes some four file descriptors: see `ulimit -n`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import attrs
import case
import trio
from peers import Stage
from processes import Process, cpu_seconds, start

from zmdp_trio import Client, open_broker, open_client, serve_worker, service

IN_FLIGHT: Final = 100
BUSY: Final = 5
#: Seconds; what everybody has unless told.
HEARTBEAT: Final = 2.5
#: Turns of the two brokers, with a crowd and without, in one of `make bench`.
ROUNDS: Final = 5
#: Peers that one helper process holds, since each needs descriptors.
PEERS: Final = 1_000
#: Seconds over which the CPU of those who do nothing is taken, or a heartbeat interval, if that is longer.
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


async def broker_main(pipe: Connection, heartbeat: float) -> None:
    """Be a broker."""
    use_all_descriptors()
    async with open_broker("tcp://127.0.0.1:*", heartbeat=heartbeat, **ROOM) as broker:
        pipe.send(broker.endpoints[0])
        await obey(pipe)


async def workers_main(
    pipe: Connection, heartbeat: float, endpoint: str, services: Sequence[str], workers: int, each: int
) -> None:
    """Be workers: they offer these services, and so many more, `each` of them, that nobody else offers."""
    use_all_descriptors()
    offers = [OFFERED[name] for name in services]
    # Each has a task of its own: scopes inside of scopes would cost the more, the more there are.
    async with trio.open_nursery() as nursery:
        for number in range(workers):
            more = [service(f"{os.getpid()}-{number}-{n}")(other) for n in range(each)]
            await nursery.start(partial(serve_worker, [*offers, *more], endpoint, heartbeat=heartbeat, drain_grace=0))
        pipe.send("ready")
        await obey(pipe)
        nursery.cancel_scope.cancel()


async def other(payload: Any) -> Any:
    """Be offered, and not asked for."""
    return payload


OFFERED: Final = {each.name: each for each in (echo, slow, service("other")(other))}


async def clients_main(pipe: Connection, heartbeat: float, endpoint: str, clients: int) -> None:
    """Be clients that share the requests in flight for so many seconds as the question says."""
    async with open_clients(endpoint, clients, heartbeat) as all_of_them:
        pipe.send("ready")

        async def act(seconds: str) -> Any:
            return await load(all_of_them, float(seconds))

        await obey(pipe, act)


async def idle_clients_main(pipe: Connection, heartbeat: float, endpoint: str, clients: int) -> None:
    """Be clients that have asked once."""
    async with open_clients(endpoint, clients, heartbeat):
        pipe.send("ready")
        await obey(pipe)


async def queued_main(pipe: Connection, heartbeat: float, endpoint: str, requests: int) -> None:
    """Be a client whose requests wait for a worker that is busy."""
    async with open_client(endpoint, heartbeat=heartbeat) as client, trio.open_nursery() as nursery:
        for _ in range(requests):
            nursery.start_soon(wait_for_ever, client)
        pipe.send("ready")
        await obey(pipe)
        nursery.cancel_scope.cancel()


async def wait_for_ever(client: Client) -> None:
    """Ask for what does not come."""
    await client.request("slow", "x" * 16, timeout=None)


@asynccontextmanager
async def open_clients(endpoint: str, number: int, heartbeat: float) -> AsyncIterator[list[Client]]:
    """Open clients, and have each ask once, so that all of them are connected."""
    use_all_descriptors()
    async with trio.open_nursery() as nursery:
        yield [await nursery.start(be_client, endpoint, heartbeat) for _ in range(number)]
        nursery.cancel_scope.cancel()


async def be_client(endpoint: str, heartbeat: float, task_status: trio.TaskStatus[Client]) -> None:
    """Be a client that has asked once, for whom it may concern."""
    async with open_client(endpoint, heartbeat=heartbeat) as client:
        await client.request("echo", "x" * 16)
        task_status.started(client)
        await trio.sleep_forever()


async def load(clients: Sequence[Client], seconds: float) -> dict[str, float]:
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
    async def open(cls, heartbeat: float, clients: int = BUSY, workers: int = BUSY) -> Side:
        """Start all of them."""
        broker = start(broker_main, heartbeat)
        endpoint = await broker.receive()
        working = start(workers_main, heartbeat, endpoint, ["echo"], workers, 0)
        await working.receive()
        asking = start(clients_main, heartbeat, endpoint, clients)
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

    def close(self) -> None:
        """End all of them."""
        close([self.clients, self.workers, self.broker])


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
        start: starts the helper processes, with a heartbeat interval, at an endpoint.
    """

    what: str
    number: int
    start: Callable[[float, str, int], list[Process]]


def idle_clients(heartbeat: float, endpoint: str, number: int) -> list[Process]:
    """Start idle clients, so many in each process."""
    return [start(idle_clients_main, heartbeat, endpoint, each) for each in shares(number, PEERS)]


def idle_workers(heartbeat: float, endpoint: str, number: int) -> list[Process]:
    """Start idle workers."""
    return [start(workers_main, heartbeat, endpoint, ["other"], each, 0) for each in shares(number, PEERS)]


def many_services(heartbeat: float, endpoint: str, number: int) -> list[Process]:
    """Start workers that offer so many services."""
    return [start(workers_main, heartbeat, endpoint, [], each, 1_000) for each in shares(number // 1_000, PEERS)]


def queued_requests(heartbeat: float, endpoint: str, number: int) -> list[Process]:
    """Start clients whose requests wait."""
    blocked = start(workers_main, heartbeat, endpoint, ["slow"], 1, 0)
    return [blocked, *(start(queued_main, heartbeat, endpoint, each) for each in shares(number, 25_000))]


def shares(number: int, most: int) -> list[int]:
    """Divide a number into parts."""
    return [min(most, number - begin) for begin in range(0, number, most)]


CROWDS: Final = {
    "clients": Crowd("idle clients", 5_000, idle_clients),
    "workers": Crowd("idle workers", 1_000, idle_workers),
    "services": Crowd("services", 10_000, many_services),
    "queued": Crowd("queued requests", 100_000, queued_requests),
}


async def beside(crowd: Crowd, number: int, rounds: int, seconds: float, heartbeat: float) -> dict[str, Any]:
    """Measure a broker by itself, and one with a crowd, in turn."""
    alone, crowded = await Side.open(heartbeat), await Side.open(heartbeat)
    await alone.measure(seconds)
    await crowded.measure(seconds)
    memory = crowded.broker.memory()
    begin = time.perf_counter()
    helpers = crowd.start(heartbeat, crowded.endpoint, number)
    for helper in helpers:
        await helper.receive()
    took = time.perf_counter() - begin
    # What has just come is still acknowledged, and what was freed for it is not yet used again.
    await trio.sleep(IDLE)
    groups = {"broker": [crowded.broker], "empty broker": [alone.broker], "crowd": helpers}
    idle = await shares_of_a_core(groups, max(IDLE, heartbeat))
    memory = crowded.broker.memory() - memory
    pairs = [(await alone.measure(seconds), await crowded.measure(seconds)) for _ in range(rounds)]
    close(helpers)
    crowded.close()
    alone.close()
    return {
        "crowd": crowd.what,
        "number": number,
        "heartbeat_s": heartbeat,
        "seconds_to_come": took,
        "broker_bytes_each": memory / number,
        "idle_percent_of_a_core": idle,
        "alone": summaries([pair[0] for pair in pairs]),
        "beside": summaries([pair[1] for pair in pairs]),
        "ratio": summary([with_them["broker_us"] / without["broker_us"] for without, with_them in pairs]),
    }


async def shares_of_a_core(processes: dict[str, list[Process]], seconds: float) -> dict[str, float]:
    """Return how much of a core groups of processes use, in percent."""

    async def spent() -> list[float]:
        return [sum([await process.ask("cpu") for process in group]) for group in processes.values()]

    begin, before = time.perf_counter(), await spent()
    await trio.sleep(seconds)
    after, end = await spent(), time.perf_counter()
    return {name: 100 * (b - a) / (end - begin) for name, a, b in zip(processes, before, after, strict=True)}


# ---- many busy peers


async def spread(
    numbers: Sequence[tuple[int, int]], rounds: int, seconds: float, heartbeat: float
) -> list[dict[str, Any]]:
    """Measure the same load between so many clients and workers, in turn."""
    sides = {number: await Side.open(heartbeat, *number) for number in numbers}
    found: dict[tuple[int, int], list[dict[str, float]]] = {number: [] for number in numbers}
    for side in sides.values():
        await side.measure(min(seconds, 0.5))
    for _ in range(rounds):
        for number, side in sides.items():
            found[number].append(await side.measure(seconds))
    for side in sides.values():
        side.close()
    return [
        {"clients": clients, "workers": workers, **summaries(figures)} for (clients, workers), figures in found.items()
    ]


# ---- what is shown


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum, and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summaries(figures: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the summary of each figure over all rounds."""
    return {name: summary([each[name] for each in figures]) for name in figures[0]}


def told(figures: dict[str, float], form: str = ".1f") -> str:
    """Return a summary as text."""
    return f"{figures['median']:{form}} ({figures['min']:{form}} to {figures['max']:{form}})"


def show_crowd(result: dict[str, Any]) -> None:
    """Print what a crowd cost."""
    idle = result["idle_percent_of_a_core"]
    sys.stdout.write(
        f"{result['number']:,} {result['crowd']}: broker CPU per request {told(result['beside']['broker_us'])} us, "
        f"alone {told(result['alone']['broker_us'])} us: ratio {told(result['ratio'], '.2f')}\n"
        f"    {result['beside']['per_second']['median']:,.0f} requests a second, "
        f"alone {result['alone']['per_second']['median']:,.0f}\n"
        f"    broker's memory: {result['broker_bytes_each']:,.0f} bytes each\n"
        f"    of a core, nobody busy: broker {idle['broker']:.2f} % (empty one {idle['empty broker']:.2f} %), "
        f"the crowd itself {idle['crowd']:.2f} %\n"
    )


def show_spread(result: dict[str, Any]) -> None:
    """Print one line of figures."""
    cpu = ", ".join(f"{name} {told(result[f'{name}_us'])}" for name in ("broker", "worker", "client"))
    sys.stdout.write(
        f"{result['clients']:>3} clients, {result['workers']:>3} workers: {result['per_second']['median']:>7,.0f}/s   "
        f"CPU per request: {cpu} us   p50 {result['p50_us']['median']:,.0f}, p99 {result['p99_us']['median']:,.0f} us\n"
    )


def turn(crowd: Crowd) -> case.Measure:
    """Return what takes a turn in `make bench`: one for each crowd, since it takes long to come."""

    async def measure(stage: Stage, seconds: float) -> case.Figures:
        use_all_descriptors()
        found = await beside(crowd, crowd.number, ROUNDS, seconds, HEARTBEAT)
        return {
            "ratio": found["ratio"]["median"],
            "broker_us": found["beside"]["broker_us"]["median"],
            "alone_us": found["alone"]["broker_us"]["median"],
            "bytes_each": found["broker_bytes_each"],
            "idle_percent": found["idle_percent_of_a_core"]["broker"],
        }

    return measure


CASES = [
    case.Case(
        name="crowd",
        title=f"{IN_FLIGHT} requests in flight beside a crowd: the broker's CPU per request, of that without",
        subjects={f"{crowd.number:,} {crowd.what}": turn(crowd) for crowd in CROWDS.values()},
        figure="ratio",
        reference=None,
        rounds=1,
    )
]


async def main(arguments: argparse.Namespace) -> None:
    """Measure, and print."""
    use_all_descriptors()
    results: dict[str, Any] = {"crowds": [], "spread": []}
    for name, crowd in CROWDS.items():
        if name in arguments.only:
            number = max(int(crowd.number * arguments.part), 1)
            measured = await beside(crowd, number, arguments.rounds, arguments.seconds, arguments.heartbeat)
            results["crowds"].append(measured)
            if not arguments.json:
                show_crowd(measured)
    if "spread" in arguments.only:
        numbers = [(1, 1), (1, 100), (100, 1), (100, 100)]
        results["spread"] = await spread(numbers, arguments.rounds, arguments.seconds, arguments.heartbeat)
        if not arguments.json:
            for each in results["spread"]:
                show_spread(each)
    if arguments.json:
        json.dump({"cpus": os.cpu_count(), "python": sys.version.split()[0], **results}, sys.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CROWDS, "spread"], default=[*CROWDS, "spread"])
    parser.add_argument("--part", type=float, default=1.0, help="of each crowd, for a quick look")
    parser.add_argument("--heartbeat", type=float, default=HEARTBEAT, help="everybody's interval, in seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each load")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    trio.run(main, parser.parse_args())

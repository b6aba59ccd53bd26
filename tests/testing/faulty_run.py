"""A cluster with every kind of fault, and all that it did: `python faulty_run.py SEED` prints it, line by line."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import trio

from zmdp_trio import Final, RequestError, service
from zmdp_trio.testing import Cluster, Faults, MemoryPort, open_cluster, run


@service("echo")
async def echo(payload: Any) -> Any:
    await trio.sleep(random.random())
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        await trio.sleep(0.1)
        yield i
    yield Final(n)


class Trace:
    """A hook that notes what passes, and what becomes of it."""

    def __init__(self, faults: Faults) -> None:
        self.lines: list[str] = []
        self._faults = faults

    def __call__(self, source: MemoryPort, target: MemoryPort, frames: list[Any]) -> Iterable[float]:
        delays = self._faults(source, target, frames)
        content = zlib.crc32(b"".join(map(bytes, frames)))
        self.note(f"{source.name} -> {target.name} {content:08x} {', '.join(map(repr, delays)) or 'dropped'}")
        return delays

    def note(self, what: str) -> None:
        self.lines.append(f"{trio.current_time()!r} {what}")


async def faulty(seed: int) -> list[str]:
    trace = Trace(Faults(seed=seed, drop=0.05, double=0.05, reorder=0.05, delay=(0, 0.1)))
    async with open_cluster(echo, count, brokers=2, workers=3, clients=3) as cluster:
        cluster.network.hook = trace
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harm, cluster, trace)
            for client in cluster.clients:
                for i in range(5):
                    nursery.start_soon(call, client, i, trace)
        cluster.network.hook = None
    return trace.lines


async def harm(cluster: Cluster, trace: Trace) -> None:
    """Kill, restart, part, and heal."""
    await trio.sleep(2)
    await kill_while_it_runs(cluster, trace)
    await trio.sleep(2)
    await cluster.add_worker(name="worker-2", wait=False)
    cluster.partition(["broker"], ["worker", "client-3"])
    await trio.sleep(15)
    cluster.heal()
    await cluster.restart_broker("broker-2")
    await trio.sleep(5)
    await cluster.stop("worker-3")


async def kill_while_it_runs(cluster: Cluster, trace: Trace) -> None:
    """Kill a worker in the middle of a stream: one request is lost, whatever else happens."""
    stream = cluster.clients[0].stream("count", 100, worker="worker-2", timeout=60)
    try:
        await anext(stream)
        cluster.kill("worker-2")
        trace.note(f"came to its end, with {[each async for each in stream]!r}")
    except RequestError as error:
        trace.note(repr(error))


async def call(client: Any, number: int, trace: Trace) -> None:
    for i in range(10):
        try:
            if number % 2:
                outcome = await client.request("echo", [number, i], retry=1, timeout=5)
            else:
                outcome = [reply async for reply in client.stream("count", i, timeout=5)]
        except RequestError as error:
            outcome = error
        trace.note(f"{client.name} {number} {i}: {outcome!r}")
        await trio.sleep(random.random())


def main() -> None:
    sys.stdout.writelines(f"{line}\n" for line in run(faulty, int(sys.argv[1]), seed=int(sys.argv[1])))


if __name__ == "__main__":
    main()

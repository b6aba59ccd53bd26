"""Brokers and workers as processes, and the faults they were put to."""

from __future__ import annotations

import argparse
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from .peers import Part
from .processes import Ended, Peer
from .program import wanted_settings
from .services import read_ledger
from .verdict import Fault, check_at_rest, check_counters, check_protocol

#: Seconds in which everything must have come to rest once the last request has its outcome.
REST = 15.0


class ProcessCluster:
    """Brokers and workers that can be killed and replaced."""

    def __init__(self, folder: Path, settings: dict[str, int | float], seed: int) -> None:
        """Make a cluster; its ledger and its log are in `folder`."""
        self.ledger = folder / "ledger"
        self.log = folder / "log"
        self.settings = settings
        self.brokers: dict[str, Peer] = {}
        self.endpoints: dict[str, str] = {}
        self.workers: dict[str, Peer] = {}
        self.faults: list[Fault] = []
        #: What the brokers' counters did wrong while the run lasted.
        self.violations: list[str] = []
        self._random = random.Random(seed)
        self._started = 0

    async def start_broker(self, name: str) -> None:
        """Start a broker, where it was before if it was."""
        part = Part(name, [self.endpoints.get(name, "tcp://127.0.0.1:*")], self.settings)
        broker = await Peer.start("broker", part, self.log)
        try:
            self.endpoints[name] = (await broker.ready())["endpoints"][0]
        except BaseException:
            await broker.kill()
            raise
        self.brokers[name] = broker

    async def start_worker(self) -> None:
        """Start one more worker, for all brokers."""
        self._started += 1
        part = Part(f"worker-{self._started}", [*self.endpoints.values()], self.settings, str(self.ledger))
        worker = await Peer.start("worker", part, self.log)
        try:
            await worker.ready()
        except BaseException:
            await worker.kill()
            raise
        self.workers[part.name] = worker

    async def replace_worker(self) -> None:
        """Kill a worker, any of those that are ready, and start another one."""
        worker = self.workers.pop(self._random.choice(list(self.workers)))
        fault = Fault("worker", worker.name, trio.current_time())
        self.faults.append(fault)
        await worker.kill()
        await self.start_worker()
        fault.ended = trio.current_time()

    async def kill_broker(self, name: str) -> Fault:
        """Kill a broker; the fault ends when somebody says so."""
        fault = Fault("broker", name, trio.current_time())
        self.faults.append(fault)
        await self.brokers.pop(name).kill()
        return fault

    async def restart_broker(self, fault: Fault) -> None:
        """Start a broker that was killed."""
        await self.start_broker(fault.name)
        fault.ended = trio.current_time()

    async def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the numbers of the brokers that live; what does not add up is noted."""
        found = {}
        for name, broker in list(self.brokers.items()):
            try:
                found[name] = await broker.ask("statistics")
            except Ended:
                continue
            self.violations += check_counters(name, found[name])
        return found

    async def rest(self) -> dict[str, dict[str, Any]]:
        """Wait until nobody holds a request; note who still does, and who saw what was not to be expected."""
        deadline = trio.current_time() + REST
        while True:
            brokers = await self.statistics()
            everybody = {**brokers, **{name: await worker.ask("statistics") for name, worker in self.workers.items()}}
            busy = [each for name, numbers in everybody.items() for each in check_at_rest(name, numbers)]
            if not busy or trio.current_time() > deadline:
                break
            await trio.sleep(0.1)
        self.violations += busy
        self.violations += [each for name, numbers in everybody.items() for each in check_protocol(name, numbers)]
        return brokers

    def executions(self) -> dict[int, list[str]]:
        """Return what the workers noted."""
        return read_ledger(self.ledger)

    async def close(self) -> None:
        """Kill everybody."""
        for peer in (*self.brokers.values(), *self.workers.values()):
            await peer.kill()


@asynccontextmanager
async def open_process_cluster(
    folder: Path, options: argparse.Namespace, brokers: Sequence[str], workers: int
) -> AsyncIterator[ProcessCluster]:
    """Start brokers and workers, and kill them all at the end."""
    cluster = ProcessCluster(folder, wanted_settings(options), options.seed)
    try:
        for broker in brokers:
            await cluster.start_broker(broker)
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(cluster.start_worker)
        yield cluster
    finally:
        await cluster.close()

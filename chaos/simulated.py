"""Clusters in memory and in virtual time, and every fault there is: a thousand seeds, each a run that repeats.

    python -m chaos.simulated [--seeds 1000] [--first 0] [--json]

Each run has one to three brokers, some workers, and a client with twenty requests a second; for half a minute,
messages are dropped, doubled, and overtaken, brokers and workers are killed, or stopped, and come back, and the network
parts and heals.  What must hold is in verdict.py, and that nothing is left of any request.  A seed that is violated is
printed with what was: `--first SEED --seeds 1` repeats it.  The exit code is 1 if there was one.

Before that, an hour with a broker that is killed halfway, and back a minute later, is simulated, and timed.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import attrs
import trio

from zmdp_trio import Broker, Final, RequestError, Service, Settings, Worker, service
from zmdp_trio.testing import Cluster, Faults, host, open_cluster, run

from .load import Load, State
from .peers import broker_statistics
from .services import Job
from .show import live, report
from .verdict import Evidence, check_counters, check_executions, check_outcomes, check_streams

#: Seconds of faults, and requests a second, in each run.
SECONDS, RATE = 30.0, 20.0
#: The longest job, in seconds: long enough to be there when something happens.
LONGEST = 3.0
#: What a request may end as when it may not run again, or had begun to reply.
ALLOWED = {"WorkerLost", "BrokerLost", "Unavailable", "ServiceNotFound"}
#: An hour, and how often something is asked in it.
HOUR, EVERY = 3600.0, 20.0
HALFWAY = int(HOUR / EVERY / 2)


class Ledger:
    """The executions of each job that began: the worker, and a number."""

    def __init__(self) -> None:
        self.executions: defaultdict[int, list[str]] = defaultdict(list)
        self._count = itertools.count()

    def note(self, number: int) -> str:
        """Note that a job's execution begins; return the execution's name."""
        execution = f"{host.get()}/{next(self._count)}"
        self.executions[number].append(execution)
        return execution


def noted_services(ledger: Ledger) -> list[Service[..., Any]]:
    """Make the services of the load: none of them needs a thread."""

    async def execute(job: Job) -> str:
        execution = ledger.note(job.number)
        await trio.sleep(job.seconds)
        return execution

    async def count(job: Job) -> AsyncIterator[Any]:
        execution = ledger.note(job.number)
        for i in range(job.chunks):
            yield i
            await trio.sleep(job.seconds / job.chunks)
        yield Final(execution)

    return [service("work", concurrency=20)(execute), service("grind")(execute), service("count")(count)]


class Mischief:
    """What befalls a cluster."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._brokers = [broker.name for broker in cluster.brokers]
        self._dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        #: Workers that were.
        self.killed: set[str] = set()
        #: A broker was away for so long that its peers forgot it, and with it, that there are keys to be asked for.
        self.forgotten = False
        #: Seconds between two acts, on average.
        self._pace = self._dice.choice((3, 3, 0.6))
        #: Peers that take their leave, or are away.
        self._busy: set[str] = set()

    async def run(self, seconds: float) -> None:
        """Do harm for so long; then all is well again, once those who were killed are back."""
        dice = self._dice
        acts = {
            "kill worker": self._kill_worker,
            "kill broker": self._kill_broker,
            "stop worker": self._stop_worker,
            "stop broker": self._stop_broker,
            "part": self._part,
        }
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.sleep(dice.expovariate(1 / self._pace))
                    what = dice.choice(list(acts))
                    self.done[what] += 1
                    nursery.start_soon(acts[what])
        self._cluster.heal()
        self._cluster.network.hook = None
        for name in self._brokers:
            if name not in {broker.name for broker in self._cluster.brokers}:
                await self._cluster.restart_broker(name)
        await self._cluster.add_worker(wait=False)

    def _pick(self, peers: Sequence[Broker | Worker], *, but: int = 0) -> str | None:
        """Return the name of one of these that is all right, and that from now on is not; None to leave so many be."""
        names = [peer.name for peer in peers if peer.name not in self._busy]
        if len(names) <= but:
            return None
        name = self._dice.choice(names)
        self._busy.add(name)
        return name

    async def _kill_worker(self) -> None:
        if (worker := self._pick(self._cluster.workers, but=1)) is not None:
            self.killed.add(worker)
            self._cluster.kill(worker)
            await trio.sleep(self._dice.uniform(0, 2))
            await self._cluster.add_worker(wait=False)

    async def _stop_worker(self) -> None:
        if (worker := self._pick(self._cluster.workers, but=1)) is not None:
            # What it knows of keys is gone with it.
            self.killed.add(worker)
            await self._cluster.stop(worker)
            await self._cluster.add_worker(wait=False)

    async def _kill_broker(self) -> None:
        if (broker := self._pick(self._cluster.brokers)) is not None:
            self._cluster.kill(broker)
            await self._start_again(broker)

    async def _stop_broker(self) -> None:
        if (broker := self._pick(self._cluster.brokers)) is not None:
            with trio.CancelScope(shield=True):
                await self._cluster.stop(broker)
            await self._start_again(broker)

    async def _start_again(self, broker: str) -> None:
        away = self._dice.choice((0, 1, 4, 15)) * self._dice.random()
        self.forgotten |= away > Settings().resume - 1
        await trio.sleep(away)
        with trio.CancelScope(shield=True):
            await self._cluster.restart_broker(broker)
        self._busy.discard(broker)

    async def _part(self) -> None:
        cluster = self._cluster
        peers = [each.name for each in cluster.brokers]
        peers += [each.name for each in cluster.workers]
        peers += [each.name for each in cluster.clients]
        self._dice.shuffle(peers)
        cut = self._dice.randrange(1, len(peers))
        cluster.partition(peers[:cut], peers[cut:])
        await trio.sleep(self._dice.choice((0.5, 5, 15)) * self._dice.random())
        cluster.heal()


async def simulate(seed: int, seconds: float = SECONDS, rate: float = RATE) -> tuple[Counter[str], list[str]]:
    """Run one seed; return what happened, by how often, and what was violated."""
    dice = random.Random(seed)
    ledger = Ledger()
    services = noted_services(ledger)
    brokers, workers = dice.choice((1, 1, 2, 3)), dice.choice((2, 3, 4))
    try:
        async with open_cluster(
            *services,
            brokers=brokers,
            workers=workers,
            connect=60,
            limit=10_000,
            credit_messages=dice.choice((1, 2, 64)),
            credit_bytes=dice.choice((1, 2**20)),
        ) as cluster:
            faults = cluster.network.hook = Faults(
                seed=seed, drop=0.01, double=0.02, reorder=0.03, delay=(0, 0.01), late=0.3
            )
            mischief = Mischief(cluster, seed)
            load = Load(cluster.client, rate=rate, seed=seed, retry=50, timeout=600, longest=LONGEST)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mischief.run, seconds)
                nursery.start_soon(load.run, seconds)
            await cluster.settle()
            found = [
                each for broker in cluster.brokers for each in check_counters(broker.name, broker_statistics(broker))
            ]
    except AssertionError as error:
        return Counter(), [str(error)]
    evidence = Evidence(load.outcomes, ledger.executions, [], {}, 0)
    # Whom a broker that is stopped turns away has lost nothing, and where there is no other one, is told just that.  So
    # is who asks for a service whose last worker left in good order, while the others could not be reached.
    turned_away = {"ServiceNotFound"} if mischief.done["stop worker"] else set()
    accepted = [
        outcome
        for outcome in load.outcomes
        if "is draining" not in outcome.message and outcome.error not in turned_away
    ]
    found += check_outcomes(attrs.evolve(evidence, outcomes=accepted))
    for check in (check_streams, check_executions):
        found += check(evidence)
    if brokers == 1 and not mischief.forgotten:
        found += check_keys(load, ledger, mischief.killed)
    found += [
        f"request {outcome.order.number}: {outcome.error}: {outcome.message}"
        for outcome in load.outcomes
        if outcome.lost and outcome.error not in ALLOWED
    ]
    happened = load.counts + mischief.done
    happened += Counter(dropped=faults.dropped, doubled=faults.doubled, reordered=faults.reordered)
    return happened, found


def check_keys(load: Load, ledger: Ledger, killed: set[str]) -> Iterator[str]:
    """Those who share a key share an execution, unless the broker and the worker that knew of it were both killed."""
    groups = defaultdict(list)
    for outcome in load.outcomes:
        if outcome.order.key is not None and not outcome.order.retry:
            groups[outcome.order.key].append(outcome)
    for key, group in groups.items():
        executions = ledger.executions[group[0].order.job.number]
        answered = all(outcome.state is State.ANSWERED for outcome in group)
        if answered and not all(execution.split("/")[0] in killed for execution in executions[:-1]):
            yield f"key {key!r}: executed by {executions}"


async def simulate_hour() -> int:
    """Simulate an hour with two brokers, one of which is away for its middle minute; return how many replies came."""
    ledger = Ledger()
    answered = 0
    async with open_cluster(*noted_services(ledger), brokers=2, workers=2) as cluster:
        for number in range(int(HOUR / EVERY)):
            if number == HALFWAY:
                cluster.kill("broker")
            if number == HALFWAY + int(60 / EVERY):
                await cluster.restart_broker("broker")
            try:
                await cluster.client.request("work", {"number": number, "seconds": 0.1}, retry=1)
            except RequestError as error:
                raise AssertionError(f"request {number} was not answered") from error
            answered += 1
            await trio.sleep_until((number + 1) * EVERY)
    return answered


def main(options: argparse.Namespace) -> int:
    """Run all seeds, and say what was violated."""
    began = time.perf_counter()
    answered = run(simulate_hour)
    hour = time.perf_counter() - began
    happened: Counter[str] = Counter()
    found: list[str] = []
    began = time.perf_counter()
    with live("simulated") as show:
        for seed in range(options.first, options.first + options.seeds):
            each, violated = run(simulate, seed, seed=seed)
            happened += each
            found += [f"seed {seed}: {what}" for what in violated]
            show({"seed": seed, "violated": len(found), **happened})
    seconds = time.perf_counter() - began
    figures = {
        "an hour with a failover, s": round(hour, 2),
        "requests answered in it": answered,
        "seeds": options.seeds,
        "seconds each": round(seconds / options.seeds, 2),
        "happened": dict(happened),
    }
    return report(figures, found, as_json=options.json)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(parse()))

"""Mixed load on a broker, a worker, and a client, each its own process: what it leaves of memory and descriptors.

    python -m chaos.soak [--seconds 600] [--rate 300] [--json]

The load rests every `--every` seconds, and only then is measured: with nothing under way, file descriptors must be
exactly as many as at the first rest after `--warm-up`, and every table must be empty.  Each process collects its
garbage, and has the allocator give back what is free (glibc's malloc_trim), before its resident memory is read.  That
is noisy all the same, since one object keeps a whole page; so a leak is called what shows twice: at the end there is
more than tolerated above the first rest, and the median of the slopes between all pairs of rests (Theil and Sen) says
so too.  Tolerated are 48 bytes per request, less than any entry of a table takes, but at least `--least` MiB, since
samples at rest differ by up to 7.  Linux only: it reads /proc.  The exit code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from .cluster import REST
from .peers import Part
from .processes import Peer
from .program import carry_out
from .show import live
from .verdict import check_at_rest, check_counters, check_protocol

MIB = 2**20
#: Bytes that may remain of each request: see above.
PER_REQUEST = 48
#: Outcomes that are kept are no leak: so few that there are as many after the warm-up as at the end.
SETTINGS: dict[str, int | float] = {"key_limit": 500, "recent_limit": 500, "recent_bytes": MIB}


@attrs.frozen
class Sample:
    """What a process has at rest."""

    #: Seconds since the start.
    at: float
    #: Requests made so far.
    requests: int
    memory: dict[str, int]
    descriptors: dict[str, int]


class Soak:
    """The three processes, and what was measured of them."""

    def __init__(self, peers: dict[str, Peer]) -> None:
        self.peers = peers
        self.samples: list[Sample] = []
        self.violations: list[str] = []
        #: The most memory of each process at any moment.
        self.peaks = dict.fromkeys(peers, 0)
        self._begin = trio.current_time()

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return trio.current_time() - self._begin

    async def ask(self) -> dict[str, dict[str, Any]]:
        """Return everybody's numbers."""
        numbers = {name: await peer.ask("statistics") for name, peer in self.peers.items()}
        self.violations += check_counters("broker", numbers["broker"])
        for name, peer in self.peers.items():
            self.peaks[name] = max(self.peaks[name], peer.memory())
        return numbers

    async def rest(self) -> None:
        """Let the load rest until nobody holds anything; take a sample, and let it go on."""
        await self.peers["client"].ask("rest")
        settled = await self._settle()
        for peer in self.peers.values():
            await peer.ask("collect")
        requests = settled["client"]["requests"]
        memory = {name: peer.memory() for name, peer in self.peers.items()}
        descriptors = {name: peer.descriptors() for name, peer in self.peers.items()}
        self.samples.append(Sample(self.seconds, requests, memory, descriptors))

    async def _settle(self) -> dict[str, dict[str, Any]]:
        """Wait until tables are empty, and descriptors as many as at the first rest; note what does not become so."""
        deadline = trio.current_time() + REST
        while True:
            numbers = await self.ask()
            found = [each for name, table in numbers.items() for each in check_at_rest(name, table)]
            found += self._check_broker(numbers) + self._check_descriptors()
            if not found or trio.current_time() > deadline:
                self.violations += [f"{each} (at rest, after {self.seconds:.0f} s)" for each in found]
                return numbers
            await trio.sleep(0.1)

    def _check_broker(self, numbers: dict[str, dict[str, Any]]) -> list[str]:
        """The broker knows the one client and the worker, keeps no message, and has seen each request once."""
        broker, requests = numbers["broker"], numbers["client"]["requests"]
        peers = {"clients": broker["clients"], "workers": broker["workers"]}
        found = [f"broker: {count} {who}" for who, count in peers.items() if count != 1]
        seen = broker["total"]["received"] + broker["total"]["joined"]
        if seen != requests:
            found.append(f"broker: it has seen {seen} requests, {requests} were made")
        return found

    def _check_descriptors(self) -> list[str]:
        if not self.samples:
            return []
        first = self.samples[0].descriptors
        now = {name: peer.descriptors() for name, peer in self.peers.items()}
        return [f"{name}: {now[name]} descriptors, first {first[name]}" for name in now if now[name] != first[name]]

    async def close(self) -> None:
        """Kill everybody."""
        for peer in self.peers.values():
            await peer.kill()


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the median slope between all pairs of points (Theil and Sen): what single outliers don't change."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(samples, 2))


def check_memory(samples: Sequence[Sample], least: float) -> list[str]:
    """Return which processes leak; differences below `least` bytes are none."""
    first, last = samples[0], samples[-1]
    tolerance = max(least, PER_REQUEST * (last.requests - first.requests))
    found = []
    for name in first.memory:
        growth = last.memory[name] - first.memory[name]
        trend = slope([(sample.at, sample.memory[name]) for sample in samples]) * (last.at - first.at)
        if min(growth, trend) > tolerance:
            found.append(
                f"{name}: {growth / MIB:.1f} MiB more after {last.requests - first.requests} requests, "
                f"{trend / MIB:.1f} MiB by its slope; {tolerance / MIB:.1f} MiB are tolerated"
            )
    return found


async def start(options: argparse.Namespace, folder: Path) -> Soak:
    """Start the processes."""
    log = folder / "log"
    peers: dict[str, Peer] = {}
    try:
        broker = peers["broker"] = await Peer.start("broker", Part("broker", ["tcp://127.0.0.1:*"], SETTINGS), log)
        endpoints = (await broker.ready())["endpoints"]
        peers["worker"] = await Peer.start("worker", Part("worker", endpoints, SETTINGS), log)
        await peers["worker"].ready()
        part = Part("client", endpoints, rate=options.rate, seed=options.seed)
        peers["client"] = await Peer.start("client", part, log)
        await peers["client"].ready()
    except BaseException:
        await Soak(peers).close()
        raise
    return Soak(peers)


async def watch(soak: Soak) -> None:
    """Show how far it is, twice a second."""
    with live("soak") as show:
        while True:
            numbers = await soak.ask()
            figures = {"seconds": f"{soak.seconds:.0f}", "requests": numbers["client"]["requests"]}
            for name, peer in soak.peers.items():
                figures[name] = f"{peer.memory() / MIB:.1f} MiB {peer.descriptors()} fds"
            show({**figures, "rests": len(soak.samples), "wrong": numbers["client"]["wrongs"]})
            await trio.sleep(0.5)


async def main(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run it; return the figures and what was violated."""
    soak = await start(options, folder)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, soak)
            client = soak.peers["client"]
            await client.ask("go")
            await trio.sleep(options.warm_up)
            while True:
                await soak.rest()
                if soak.seconds >= options.seconds:
                    break
                await client.ask("go")
                await trio.sleep(min(options.every, options.seconds - soak.seconds))
            nursery.cancel_scope.cancel()
        numbers = await soak.ask()
    finally:
        await soak.close()
    found = [*soak.violations, *check_memory(soak.samples, options.least * MIB), *numbers["client"]["wrong"]]
    found += [each for name, table in numbers.items() if name != "client" for each in check_protocol(name, table)]
    return figures_of(soak, numbers), found


def figures_of(soak: Soak, numbers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures, for people and programs."""
    samples = soak.samples
    first, last = samples[0], samples[-1]
    return {
        "seconds": last.at,
        "operations": numbers["client"]["kinds"],
        "requests": last.requests,
        "requests since the warm-up": last.requests - first.requests,
        "MiB at the first rest": in_mib(first.memory),
        "MiB at the last rest": in_mib(last.memory),
        "MiB by slope": {
            name: slope([(each.at, each.memory[name]) for each in samples]) * (last.at - first.at) / MIB
            for name in soak.peers
        },
        "MiB at most": in_mib(soak.peaks),
        "descriptors, first rest": first.descriptors,
        "descriptors, last rest": last.descriptors,
        "rests": [{"at": each.at, **in_mib(each.memory)} for each in samples],
        "broker": numbers["broker"]["total"],
    }


def in_mib(sizes: dict[str, int]) -> dict[str, float]:
    """Return sizes in MiB."""
    return {name: size / MIB for name, size in sizes.items()}


def need(proc: Path) -> None:
    """End the program where a process can't be looked at."""
    if not (proc / "self" / "statm").exists():
        sys.exit(f"soak: this system has no {proc}, from which memory and descriptors are read; run it on Linux")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default 600)")
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds before the first rest (default 60)")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two rests (default 30)")
    parser.add_argument("--rate", type=float, default=300.0, help="operations a second (default 300)")
    parser.add_argument("--least", type=float, default=8.0, help="MiB that are tolerated in any case (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the load (default 0)")
    parser.add_argument("--folder", type=Path, help="a new folder, for the processes' log")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.seconds <= options.warm_up:
        parser.error("--seconds must be more than --warm-up: what is compared is before and after")
    return options


if __name__ == "__main__":
    options = parse()
    need(Path("/proc"))
    sys.exit(carry_out(main, options))

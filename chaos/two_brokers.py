"""Two brokers under load, all workers and the client with both, and kill -9 of one of them.

    python -m chaos.two_brokers [--seconds 60] [--rate 500] [--json]

A quarter into the run one broker is killed; `--away` seconds later it is restarted.  Requests with `retry` must all be
answered, others answered or BrokerLost, and none may run twice.  From `--steady` seconds after the kill on, none may
fail, and nine in ten must be answered within a second: so the rate is what it was, since it does not wait for answers.
The same holds after the restart, from twice as long on: for its first seconds clients ask a broker that came back
last, since its workers may not be there yet.  And after that it must get its share.  The exit code is 1 if something
did not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from zmdp_trio import Settings, open_client

from .cluster import ProcessCluster, open_process_cluster
from .load import Load, Outcome, latencies, load_figures
from .program import add_options, carry_out
from .show import live
from .verdict import BROKER_LOST, Evidence, Fault, check_at_rest, check_protocol, violations

BROKERS = ("broker-a", "broker-b")
#: Seconds of one line of the table around a fault.
STEP = 0.5
#: Steps before and after it.
BEFORE, AFTER = 4, 10
#: The part of the requests that a broker must get once it is back; with two of them, half would be fair.
SHARE = 0.3
#: The part of the requests that must be answered in so many seconds when all is well.
RATE, PROMPT = 0.9, 1.0


@attrs.frozen
class Step:
    """What happened in one step: requests by when they were made, and by when they ended, as they should or not."""

    at: float
    made: int
    ended: int
    failed: int


def steps(outcomes: Sequence[Outcome], moment: float) -> list[Step]:
    """Return the steps around a moment."""
    table = []
    for i in range(-BEFORE, AFTER):
        begin, end = moment + i * STEP, moment + (i + 1) * STEP
        ended = [outcome for outcome in outcomes if begin <= outcome.ended < end]
        table.append(
            Step(
                at=i * STEP,
                made=sum(begin <= outcome.started < end for outcome in outcomes),
                ended=sum(not outcome.lost for outcome in ended),
                failed=sum(outcome.lost for outcome in ended),
            )
        )
    return table


def steady_after(outcomes: Sequence[Outcome], moment: float) -> float:
    """Return how long after a moment the last request was made that failed, or took longer than a second."""
    slow = [
        outcome.started - moment
        for outcome in outcomes
        if outcome.started >= moment and (outcome.lost or outcome.ended - outcome.started > PROMPT)
    ]
    return max(slow, default=0.0)


def unsteady(outcomes: Sequence[Outcome], begin: float, end: float, why: str) -> list[str]:
    """Return what is wrong with some seconds in which all should be well."""
    made = [outcome for outcome in outcomes if begin <= outcome.started < end]
    failed = [outcome for outcome in made if outcome.lost]
    prompt = sum(not outcome.lost and outcome.ended - outcome.started <= PROMPT for outcome in made)
    found = [f"{why}: request {outcome.order.number} ended as {outcome.error}" for outcome in failed]
    if prompt < RATE * len(made):
        found.append(f"{why}: {len(made)} requests were made, {prompt} answered within {PROMPT:g} s")
    return found


async def kill_one(cluster: ProcessCluster, load: Load, after: float, away: float) -> None:
    """Kill a broker after some seconds, and restart it after some more; what the start takes, the load takes longer."""
    await trio.sleep(after)
    fault = await cluster.kill_broker(BROKERS[0])
    await trio.sleep(away)
    await cluster.restart_broker(fault)
    load.prolong(fault.seconds - away)


@attrs.frozen
class Look:
    """What one look at the brokers found."""

    at: float
    received: dict[str, int]


async def watch(cluster: ProcessCluster, load: Load, looks: list[Look]) -> None:
    """Show how far it is, and look at the brokers' counters, twice a second."""
    begin = trio.current_time()
    with live("two brokers") as show:
        while True:
            numbers = await cluster.statistics()
            received = {name: each["total"]["received"] + each["total"]["joined"] for name, each in numbers.items()}
            looks.append(Look(trio.current_time(), received))
            seconds = f"{trio.current_time() - begin:.0f}"
            show({"seconds": seconds, "outstanding": load.outstanding, **load.counts, **received})
            await trio.sleep(STEP)


async def main(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run it; return the figures and what was violated."""
    settings = Settings(heartbeat=options.heartbeat, resume=options.resume)
    async with (
        open_process_cluster(folder, options, BROKERS, options.workers) as cluster,
        open_client(*cluster.endpoints.values(), name="driver", settings=settings) as client,
    ):
        looks: list[Look] = []
        begin = trio.current_time()
        load = Load(client, rate=options.rate, seed=options.seed, retry=options.retry, timeout=options.timeout)
        async with trio.open_nursery() as watching:
            watching.start_soon(watch, cluster, load, looks)
            async with trio.open_nursery() as working:
                working.start_soon(kill_one, cluster, load, options.seconds / 4, options.away)
                working.start_soon(load.run, options.seconds)
            end = trio.current_time()
            watching.cancel_scope.cancel()
        await cluster.rest()
        numbers = attrs.asdict(client.statistics())
    [fault] = cluster.faults
    evidence = Evidence(load.outcomes, cluster.executions(), cluster.faults, BROKER_LOST, settings.silence, False)
    found = [*violations(evidence), *cluster.violations]
    found += [*check_at_rest("client", numbers), *check_protocol("client", numbers)]
    found += unsteady(load.outcomes, fault.began + options.steady, fault.ended, "with one broker")
    found += unsteady(load.outcomes, fault.ended + 2 * options.steady, end - STEP, "with both again")
    share = share_of(fault, load.outcomes, looks, since=end - (end - fault.ended) / 4)
    if share < SHARE:
        found.append(f"the broker that came back got {share:.0%} of the requests")
    return {
        **load_figures(load, end - begin),
        "jobs executed again": sum(len(each) > 1 for each in evidence.executions.values()),
        "share of who came back": share,
        "around the kill": [attrs.asdict(step) for step in steps(load.outcomes, fault.began)],
        "around the return": [attrs.asdict(step) for step in steps(load.outcomes, fault.ended)],
        "seconds until steady": {
            "kill": steady_after([each for each in load.outcomes if each.started < fault.ended], fault.began),
            "return": steady_after(load.outcomes, fault.ended),
        },
        "ms before the kill": latencies([each for each in load.outcomes if each.ended < fault.began]),
        "ms when steady again": latencies(
            [each for each in load.outcomes if fault.began + options.steady < each.started < fault.ended]
        ),
    }, found


def share_of(fault: Fault, outcomes: Sequence[Outcome], looks: Sequence[Look], *, since: float) -> float:
    """Return which part of the requests a broker got from some time after its return; at first, clients spare it."""
    late = [look for look in looks if look.at >= since and fault.name in look.received]
    if len(late) < 2:
        return 0.0
    first, last = late[0], late[-1]
    made = sum(first.at <= outcome.started < last.at for outcome in outcomes)
    return (last.received[fault.name] - first.received[fault.name]) / max(made, 1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seconds=60)
    parser.add_argument("--steady", type=float, default=3.0, help="seconds until all is well again (default 3)")
    parser.add_argument("--away", type=float, default=15.0, help="seconds until the broker is back (default 15)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(carry_out(main, parse()))

"""A broker and workers under load, all of them processes over tcp, and kill -9 of one after the other.

    python -m chaos.kills [--seconds 60] [--rate 500] [--json]

Every second a worker, whichever it is, is killed and replaced at once; the broker is killed `--broker-kills` times, and
restarted where it was.  Half of the requests have `retry`, some a `key`; some are streams, some are left midway.
What must hold is in verdict.py.  The exit code is 1 if something did not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import attrs
import trio

from zmdp_trio import Settings, open_client

from .cluster import ProcessCluster, open_process_cluster
from .load import Load, load_figures
from .program import add_options, carry_out
from .show import live
from .verdict import BROKER_LOST, NOT_RUN, WORKER_LOST, Evidence, check_at_rest, check_protocol, violations

BROKER = "broker"


async def kill_workers(cluster: ProcessCluster, every: float, seconds: float) -> None:
    """Kill a worker every so many seconds, but never the last one that is ready."""
    due = trio.current_time()
    end = due + seconds
    async with trio.open_nursery() as nursery:
        while (due := due + every) < end:
            await trio.sleep_until(due)
            if len(cluster.workers) > 1:
                nursery.start_soon(cluster.replace_worker)


async def kill_broker(cluster: ProcessCluster, times: int, seconds: float) -> None:
    """Kill the broker so many times in so many seconds, at even distances."""
    begin = trio.current_time()
    for i in range(times):
        await trio.sleep_until(begin + seconds * (i + 1) / (times + 1))
        await cluster.restart_broker(await cluster.kill_broker(BROKER))


async def watch(cluster: ProcessCluster, load: Load, title: str) -> None:
    """Show how far it is, and look at the broker's counters, twice a second."""
    begin = trio.current_time()
    with live(title) as show:
        while True:
            await cluster.statistics()
            show(
                {
                    "seconds": f"{trio.current_time() - begin:.0f}",
                    "outstanding": load.outstanding,
                    **load.counts,
                    "workers": len(cluster.workers),
                    "killed": len(cluster.faults),
                }
            )
            await trio.sleep(0.5)


async def main(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run it; return the figures and what was violated."""
    settings = Settings(heartbeat=options.heartbeat, resume=options.resume)
    async with (
        open_process_cluster(folder, options, [BROKER], options.workers) as cluster,
        open_client(cluster.endpoints[BROKER], name="driver", settings=settings) as client,
    ):
        load = Load(client, rate=options.rate, seed=options.seed, retry=options.retry, timeout=options.timeout)
        async with trio.open_nursery() as watching:
            watching.start_soon(watch, cluster, load, "kill -9")
            async with trio.open_nursery() as working:
                if options.worker_interval:
                    working.start_soon(kill_workers, cluster, options.worker_interval, options.seconds)
                working.start_soon(kill_broker, cluster, options.broker_kills, options.seconds)
                working.start_soon(load.run, options.seconds)
            watching.cancel_scope.cancel()
        brokers = await cluster.rest()
        numbers = attrs.asdict(client.statistics())
    evidence = Evidence(
        load.outcomes, cluster.executions(), cluster.faults, WORKER_LOST | BROKER_LOST | NOT_RUN, settings.silence
    )
    found = [*violations(evidence), *cluster.violations]
    found += [*check_at_rest("client", numbers), *check_protocol("client", numbers)]
    return {
        **load_figures(load, options.seconds),
        "executions": sum(map(len, evidence.executions.values())),
        "jobs executed again": sum(len(each) > 1 for each in evidence.executions.values()),
        "workers killed": sum(fault.role == "worker" for fault in cluster.faults),
        "brokers killed": sum(fault.role == "broker" for fault in cluster.faults),
        "broker away for s": [
            round(fault.ended - fault.began, 2) for fault in cluster.faults if fault.role == "broker"
        ],
        "last broker": brokers[BROKER]["total"],
    }, found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seconds=60)
    parser.add_argument("--worker-interval", type=float, default=1.0, help="seconds between kills; 0 for none")
    parser.add_argument("--broker-kills", type=int, default=2, help="how often the broker is killed (default 2)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(carry_out(main, parse()))

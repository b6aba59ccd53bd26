"""Brokers under examination."""

from __future__ import annotations

from collections.abc import Collection

import trio
from reference import Broker

from zmdp_trio.conformance import Outcome, Report, Target, check_broker
from zmdp_trio.conformance._run import JOBS
from zmdp_trio.conformance._verdict import ungrouped


async def examine(
    kind: type[Broker] = Broker, *rfcs: int, only: Collection[str] = (), prefix: str = "conformance.", jobs: int = JOBS
) -> Report:
    """Check a broker in memory."""
    with ungrouped():
        async with trio.open_nursery() as nursery:
            (endpoint,) = await nursery.start(kind("memory://*", heartbeat=2.5).run)
            report = await check_broker(Target(endpoint, endpoint, prefix=prefix), rfcs=rfcs, only=only, jobs=jobs)
            nursery.cancel_scope.cancel()
    return report


def ids(report: Report, outcome: Outcome) -> set[str]:
    """Name the checks with an outcome."""
    return {each.id for each in report.results if each.outcome is outcome}


def short(name: str) -> str:
    """Leave out the RFC's number, and the version where that follows."""
    return name.split("/", 2 if name.startswith("8/") else 1)[-1]

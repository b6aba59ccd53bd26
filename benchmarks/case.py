"""What a case is: one piece of work that several subjects do in turn, round by round."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from peers import OURS, PEERS, Need, Stage, open_system

#: What was measured, by name.  A name's ending is its unit: `_us`, `_ms`, `_mib`, `per_second`.
Figures = dict[str, float]

#: Measures one subject once, for about so many seconds.
Measure = Callable[[Stage, float], Awaitable[Figures]]


@attrs.frozen
class Target:
    """What a case is to show: the ratio to a subject, or where there is none, the subject's figure."""

    subject: str
    at_least: float | None = None
    at_most: float | None = None
    #: Another figure than the one that the case compares.
    figure: str | None = None

    def reached_by(self, value: float) -> bool:
        """Tell whether a figure is what was wanted."""
        return not (
            (self.at_least is not None and value < self.at_least) or (self.at_most is not None and value > self.at_most)
        )


@attrs.frozen(kw_only=True)
class Case:
    """One piece of work.

    A module that has a list of them, `CASES`, and stands in `run.MODULES`, takes part in `make bench`.
    """

    #: In the command line and in the results: short, without spaces.
    name: str
    #: In tables, and in the progress display.
    title: str
    #: Who does the work, in the order of their first turns: peers of `peers.PEERS`, or whatever else can be measured.
    subjects: Mapping[str, Measure]
    #: The figure that is compared.
    figure: str
    #: Who is compared with everybody else, and is measured whenever somebody is; None if there is nothing to compare.
    reference: str | None = OURS
    #: How it is measured, where there is more to say than for all cases.
    note: str = ""
    #: What it is to show.
    targets: tuple[Target, ...] = ()
    #: How long each turn lasts, in seconds; warm-up comes on top.
    seconds: float = 0.8
    #: What a turn takes beyond that, in seconds, roughly: what is started, and warms up.
    beyond: float = 0.6
    #: What must be installed for any of it; what a peer needs is in its own row.
    needs: tuple[Need, ...] = ()
    #: At most so many rounds, where there are many points and each matters less.
    rounds: int | None = None
    #: In which plots of plots.py this is a point, and at what place on the axis below.
    plots: Mapping[str, float] = {}


def load(name: str, do: str, *, system: Mapping[str, Any] | None = None, **order: Any) -> Measure:
    """Return what puts a load on a peer.

    Args:
        name: the peer's.
        do: `requests` or `streams`, see `peers.System.load`.
        system: how it differs from the system that runs anyway: see `peers.open_system`.
        order: the load's own arguments.
    """

    async def measure(stage: Stage, seconds: float) -> Figures:
        if system is None:
            return await (await stage.system(name)).load(do, seconds=seconds, **order)
        async with open_system(PEERS[name], **system) as running:
            return await running.load(do, seconds=seconds, **order)

    return measure

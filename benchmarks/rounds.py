"""Rounds: all subjects have their turns in each, and are compared within it, since figures depend on the machine."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

#: What was measured, by name.
Figures = dict[str, float]
#: Measures one subject once.
Measure = Callable[[], Awaitable[Figures]]


async def take_turns(
    subjects: Mapping[str, Measure], rounds: int, tell: Callable[[str], None]
) -> list[dict[str, Figures]]:
    """Measure each subject once in each round, beginning with another one each time."""
    results = []
    names = list(subjects)
    for number in range(rounds):
        figures = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figures[name] = await subjects[name]()
            told = "  ".join(f"{what} {figure:,.1f}" for what, figure in figures[name].items())
            tell(f"  round {number + 1}  {name:<14} {told}\n")
        results.append({name: figures[name] for name in names})
    return results


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum, and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(results: list[dict[str, Figures]], figure: str, ours: str) -> dict[str, dict[str, float]]:
    """Return our figure by each other's, round by round."""
    return {
        name: spread([each[ours][figure] / each[name][figure] for each in results])
        for name in results[0]
        if name != ours
    }


def shown(figures: dict[str, float]) -> str:
    """Return what `spread` has found, for people."""
    return f"median {figures['median']:,.2f} ({figures['min']:,.2f} to {figures['max']:,.2f})"


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    return {"cpus": os.cpu_count(), "python": sys.version.split()[0]}

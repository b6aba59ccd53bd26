"""What was measured: kept as JSON, merged with what was measured before, and compared.

    {"machine": ..., "versions": {subject: {name: version}}, "missing": {subject: why},
     "cases": {name: {"title", "figure", "reference", "plots",
                      "rounds": [{"taken": when, "figures": {subject: {name: figure}}}]}}}

Where a turn failed, it has the figure `error`, which tells why.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from case import Case, Figures
from peers import PEERS

#: Digits that a figure is kept with.
DIGITS = 4


@attrs.frozen
class Spread:
    """The median of something, and how far it went."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of values, if there are any."""
    all_of_them = sorted(values)
    if not all_of_them:
        return None
    return Spread(statistics.median(all_of_them), all_of_them[0], all_of_them[-1])


class Results:
    """All that was measured."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        self.data: dict[str, Any] = data or {"machine": {}, "versions": {}, "missing": {}, "cases": {}}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what a file has; nothing, if there is none."""
        return cls(json.loads(path.read_text()) if path.exists() else None)

    def write(self, path: Path) -> None:
        """Write a file, with a line for each turn."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(self.data) + "\n")

    # ---- taking

    def begin(self, case: Case, subjects: Iterable[str]) -> None:
        """Forget what these subjects did before in a case, which they are about to do again."""
        before = self.data["cases"].get(case.name, {"rounds": []})
        again = set(subjects) - {case.reference}
        kept = []
        for each in before["rounds"]:
            figures = {name: figure for name, figure in each["figures"].items() if name not in again}
            if figures.keys() - {case.reference}:
                kept.append(each | {"figures": figures})
        self.data["cases"][case.name] = {
            "title": case.title,
            "figure": case.figure,
            "reference": case.reference,
            "plots": dict(case.plots),
            "rounds": kept,
        }

    def begin_round(self, case: Case) -> dict[str, Figures]:
        """Return where the figures of one more round go, by subject."""
        figures: dict[str, Figures] = {}
        taken = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.data["cases"][case.name]["rounds"].append({"taken": taken, "figures": figures})
        return figures

    # ---- telling

    def cases(self) -> list[str]:
        """Return the names of the cases."""
        return list(self.data["cases"])

    def subjects(self, case: str) -> list[str]:
        """Return who was measured in a case: the reference, other peers as they stand in their table, the rest."""
        record = self.data["cases"][case]
        names = dict.fromkeys(name for each in record["rounds"] for name in each["figures"])
        order = [record["reference"], *PEERS]
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def values(self, case: str, subject: str, figure: str) -> Spread | None:
        """Return what one figure of a subject was."""
        rounds = self.data["cases"][case]["rounds"]
        return spread(each["figures"][subject][figure] for each in rounds if figure in each["figures"].get(subject, {}))

    def ratios(self, case: str, subject: str, figure: str | None = None) -> Spread | None:
        """Return the reference's figure divided by the subject's, of each round that has both."""
        record = self.data["cases"][case]
        name = figure or record["figure"]
        pairs = [
            (each["figures"].get(record["reference"], {}), each["figures"].get(subject, {}))
            for each in record["rounds"]
        ]
        return spread(ours[name] / its[name] for ours, its in pairs if name in ours and name in its)

    def errors(self) -> list[str]:
        """Return what failed."""
        return [
            f"{name}, {subject}: {figures['error']}"
            for name, case in self.data["cases"].items()
            for each in case["rounds"]
            for subject, figures in each["figures"].items()
            if "error" in figures
        ]


def lines(value: Any, indent: str = "") -> str:
    """Return JSON that has each innermost object on a line of its own."""
    nested = isinstance(value, dict | list) and any(isinstance(each, dict | list) for each in within(value))
    if not nested:
        return json.dumps(value)
    deeper = indent + " "
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    items = [key + lines(each, deeper) for key, each in zip(keys, within(value), strict=True)]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}{last}"


def within(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value)


def rounded(figures: Figures) -> Figures:
    """Return figures with as many digits as mean something."""
    return {name: float(f"{value:.{DIGITS}g}") for name, value in figures.items()}


def machine() -> dict[str, Any]:
    """Return what there is to know about this machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "taken": time.strftime("%Y-%m-%d", time.gmtime()),
        "load before": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """Return the processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()

"""Write what docs/performance/results.json has: the end of docs/performance.md, its plots, and README.md's table.

`make performance` does it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import plots
import tables
from case import Case
from peers import OURS, PEERS
from results import Results
from run import all_cases

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "performance.md"
FOLDER: Final = DOCUMENT.parent / "performance"
RESULTS: Final = FOLDER / "results.json"

README: Final = DOCUMENT.parents[1] / "README.md"

BEGIN: Final = "<!-- From here to the end: written by `make performance` from performance/results.json. -->"
BEGIN_TABLE: Final = "<!-- Written by `make performance` from docs/performance/results.json. -->"
END: Final = "<!-- The end. -->"

#: What README.md shows: what it is called there, the case, and who is beside it.
SHOWN: Final = (
    ("requests, 100 in flight", "requests-100", ("nats-py", "PIGATO", "grpc.aio", "zerorpc")),
    ("one request at a time, median, µs", "requests-1", ("nats-py", "PIGATO", "grpc.aio", "zerorpc")),
    ("chunks of 16 bytes on one stream", "stream-16", ("grpc.aio", "zerorpc")),
    ("chunks of 64 KiB on one stream, MiB", "bulk-64k", ("bare relay", "grpc.aio")),
    ("MDP 0.2 between C peers, 100 clients", "mdp-100", ("bare pyzmq loop", "zmq_proxy")),
    ("from leaving to the handler's `finally`, ms", "cancel", ()),
)


def section(results: Results) -> str:
    """Return what stands between the marks."""
    cases = [one_case(results, case) for case in detailed(results)]
    targets = tables.targets_table(results, all_cases()) or "Nothing yet."
    begin = (BEGIN, "## What it is to show", SHOW, targets, "## What was measured", where(results))
    return "\n\n".join((*begin, *cases, *plotted(results), END)) + "\n"


#: What stands above the table of targets.
SHOW: Final = (
    "*2 x nats-py*: the median of the rounds' ratios of our figure to nats-py's. The cases are below, in this order, "
    "each with the command that repeats it."
)


def detailed(results: Results) -> list[Case]:
    """Return the cases that have tables of their own: all but those that are a mere point in a plot."""
    return [
        case for case in all_cases() if case.name in results.cases() and not (case.plots and case.rounds is not None)
    ]


def where(results: Results) -> str:
    """Tell about the machine, and how each peer was run."""
    machine = results.data["machine"]
    lines = [
        f"- **{name}**: {PEERS[name].how}. ({', '.join(f'{what} {version}' for what, version in versions.items())})"
        for name, versions in results.data["versions"].items()
        if name in PEERS
    ]
    facts = (machine["taken"], machine["cpu"], f"{machine['cpus']} CPUs", machine["system"])
    return f"{', '.join(facts)}, Python {machine['python']}.\n\n" + "\n".join(lines)


def heading(title: str) -> str:
    return f"### {title[0].upper()}{title[1:]}"


def repeat(cases: str) -> str:
    return f'`make bench BENCH="--cases {cases}"`'


def one_case(results: Results, case: Case) -> str:
    """Return a case's heading, how to repeat it, how it is measured, and its table."""
    rounds = tables.rounds_of(results, case.name)
    told = f"{repeat(case.name)}; {rounds} round{'s' if rounds > 1 else ''}"
    return "\n\n".join(
        part for part in (heading(case.title), told, case.note, tables.case_table(results, case.name)) if part
    )


def plotted(results: Results) -> Iterator[str]:
    """Return each plot, with the figures under it, and how to repeat it."""
    for plot in plots.PLOTS:
        points = plots.points_of(plot, results)
        if len(points) > 1:
            image = f"![{plot.title}](performance/{plot.file}.svg)"
            cases = repeat(" ".join(case for _, case in points))
            yield f"{heading(plot.title)}\n\n{cases}\n\n{image}\n\n{curve_table(plot, results)}"


def curve_table(plot: plots.Plot, results: Results) -> str:
    """Return the table of what a plot shows upwards, by the places of its cases."""
    points = plots.points_of(plot, results)
    head = [plot.up.label, *(f"{place:,.0f}" for place, _ in points)]
    rows = [
        [name, *(tables.narrow(results.values(case, name, str(plot.up.figure))) for _, case in points)]
        for name, _ in plots.curves(plot, results)
    ]
    return tables.table(head, rows)


def readme_table(results: Results) -> str:
    """Return what README.md has between the marks, and the marks."""
    rows = [
        [
            what,
            tables.narrow(results.values(case, OURS, results.data["cases"][case]["figure"])),
            ", ".join(f"{tables.narrow(ratio)} x {name}" for name in names if (ratio := results.ratios(case, name))),
            repeat(case),
        ]
        for what, case, names in SHOWN
        if case in results.cases()
    ]
    return f"{BEGIN_TABLE}\n{tables.table(['', 'a second, or as said', 'beside others', 'again'], rows)}\n{END}\n"


def marked(path: Path, begin: str) -> str:
    """Return what a document has between the marks, and the marks."""
    found = re.search(rf"^{re.escape(begin)}$.*?^{re.escape(END)}$\n", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[0]


def main() -> None:
    """Put what is written in the place of what was; and draw the plots."""
    results = Results.read(RESULTS)
    for path, begin, text in ((DOCUMENT, BEGIN, section(results)), (README, BEGIN_TABLE, readme_table(results))):
        path.write_text(path.read_text().replace(marked(path, begin), text))
    why_not = plots.missing()
    if why_not is not None:
        sys.exit(f"the plots are as they were: {why_not}")
    plots.draw(results, FOLDER)


if __name__ == "__main__":
    main()

"""Write the end of docs/performance.md, and its plots, from docs/performance/results.json: `make performance`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import plots
import tables
from peers import PEERS
from results import Results
from run import all_cases

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "performance.md"
FOLDER: Final = DOCUMENT.parent / "performance"
RESULTS: Final = FOLDER / "results.json"

BEGIN: Final = "<!-- From here to the end: written by `make performance` from performance/results.json. -->"
END: Final = "<!-- The end. -->"


def section(results: Results) -> str:
    """Return what stands between the marks."""
    cases = [one_case(results, case) for case in detailed(results)]
    return "\n\n".join((BEGIN, "## What was measured", where(results), *cases, *plotted(results), END)) + "\n"


def detailed(results: Results) -> list[str]:
    """Return the cases that have tables of their own: all but those that are a mere point in a plot."""
    points = [case.name for case in all_cases() if case.plots and case.rounds is not None]
    return [case.name for case in all_cases() if case.name in results.cases() and case.name not in points]


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


def one_case(results: Results, case: str) -> str:
    """Return a case's heading, how to repeat it, and its table."""
    title = results.data["cases"][case]["title"]
    rounds = len(results.data["cases"][case]["rounds"])
    return f"{heading(title)}\n\n{repeat(case)}; {rounds} rounds\n\n{tables.case_table(results, case)}"


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


def written() -> str:
    """Return what the document has between the marks, and the marks."""
    found = re.search(rf"^{re.escape(BEGIN)}$.*^{re.escape(END)}$\n", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[0]


def main() -> None:
    """Put the section in the place of the former one, or at the document's end; and draw the plots."""
    results = Results.read(RESULTS)
    before = DOCUMENT.read_text().split(BEGIN)[0].rstrip()
    DOCUMENT.write_text(f"{before}\n\n{section(results)}")
    why_not = plots.missing()
    if why_not is not None:
        sys.exit(f"the plots are as they were: {why_not}")
    plots.draw(results, FOLDER)


if __name__ == "__main__":
    main()

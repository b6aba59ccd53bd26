"""Reports for people, as a table, and for programs, as JSON."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Final, TextIO

import attrs
import msgspec

from ._clauses import Level
from ._run import Outcome, Report, Result

#: Checks that are named when one of so many has ended the broker.
_SUSPECTS: Final = 8

_STYLES: Final = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.NOT_SPOKEN: "yellow"}


def to_json(report: Report) -> str:
    """Return a report as one JSON object."""
    record = {
        "target": attrs.asdict(report.target),
        "spoken": list(report.spoken),
        "seconds": round(report.seconds, 3),
        "alive": report.alive,
        "ended_at": list(report.ended_at),
        "summary": {outcome.value: report.count(outcome) for outcome in Outcome},
        "results": [attrs.asdict(each) for each in report.results],
    }
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode()


def show(report: Report, file: TextIO) -> None:
    """Write a report: a table on a terminal, if rich is installed, and lines elsewhere."""
    if file.isatty() and importlib.util.find_spec("rich") is not None:
        _show_table(report, file)
    else:
        file.writelines(f"{line}\n" for line in lines(report))


def lines(report: Report) -> Iterator[str]:
    """Yield a report line by line; what went wrong stands below the line of the check."""
    width = max(len(each.id) for each in report.results)
    for each in report.results:
        yield f"{each.outcome.value:<12}  {each.level.value:<6}  {each.id:<{width}}  {each.section}: {each.clause}"
        if each.seen:
            yield f"{'':<12}  {'':<6}  {'':<{width}}  {_remark(each)}"
    yield ""
    yield from summary(report)


def summary(report: Report) -> Iterator[str]:
    """Yield what it comes to."""
    target, spoken = report.target, ", ".join(f"RFC {rfc}" for rfc in report.spoken) or "none of the RFCs"
    yield f"{target.clients} answers to {spoken}; {report.seconds:.1f} s, heartbeat interval {target.heartbeat:g} s"
    for level in Level:
        counts = ", ".join(f"{report.count(each, level)} {each.value}" for each in Outcome if report.count(each, level))
        if counts:
            yield f"{level.value:<6}  {counts}"
    if not report.alive:
        yield _last_words(report)


def _last_words(report: Report) -> str:
    """Say when the broker ended."""
    suspects = report.ended_at
    if not suspects:
        return "the broker has ended"
    if len(suspects) == 1:
        return f"the broker has ended at {suspects[0]}"
    shown = [*suspects[:_SUSPECTS], *(["..."] if len(suspects) > _SUSPECTS else [])]
    return f"the broker has ended at one of {len(suspects)} checks: {', '.join(shown)}; --jobs 1 finds out which"


def _remark(result: Result) -> str:
    return f"seen: {result.seen}" if result.outcome is Outcome.FAIL else result.seen


def _show_table(report: Report, file: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("result", "level", "check", "clause", pad_edge=False, show_lines=False)
    for each in report.results:
        clause = Text(f"{each.section}: {each.clause}", style="dim")
        if each.seen:
            clause.append(f"\n{_remark(each)}", style="red" if each.outcome is Outcome.FAIL else "")
        style = _STYLES.get(each.outcome, "dim")
        table.add_row(Text(each.outcome.value, style=style), each.level.value, each.id, clause)
    console = Console(file=file, highlight=False)
    console.print(table)
    for line in summary(report):
        console.print(Text(line))

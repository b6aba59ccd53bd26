"""Results in tables of Markdown, which people read as they are."""

from __future__ import annotations

from collections.abc import Sequence

from case import Case, Target
from results import Results, Spread

#: How figures are called; others by their names.  What is not here, and has no unit, is not shown.
LABELS = {
    "per_second": "a second",
    "mib_per_second": "MiB a second",
    "p50_us": "p50, µs",
    "p99_us": "p99, µs",
    "p999_us": "p99.9, µs",
    "cpu_us": "CPU of each, µs",
    "client_us": "client's",
    "broker_us": "broker's",
    "worker_us": "worker's",
    "p99_of_p50": "p99 / p50",
    "alone_us": "broker's without",
    "bytes_each": "its memory, bytes each",
    "idle_percent": "its CPU with nobody busy, % of a core",
}
HIDDEN = ("count", "seconds", "error")
UNITS = {"us": "µs", "ms": "ms", "mib": "MiB"}


def label(figure: str) -> str:
    """Return how a figure is called in the head of a table."""
    if figure in LABELS:
        return LABELS[figure]
    name, _, unit = figure.rpartition("_")
    return f"{name.replace('_', ' ')}, {UNITS[unit]}" if unit in UNITS else figure.replace("_", " ")


def short(value: float) -> str:
    """Return a number with three digits that mean something, or all of a large one."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def wide(spread: Spread | None) -> str:
    """Return median, minimum, and maximum."""
    if spread is None:
        return ""
    return f"{short(spread.median)} ({short(spread.least)} to {short(spread.most)})"


def narrow(spread: Spread | None) -> str:
    """Return the median alone."""
    return "" if spread is None else short(spread.median)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns are in line."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def case_table(results: Results, case: str) -> str:
    """Return the table of one case: its subjects, their figures, and the reference's beside them."""
    record = results.data["cases"][case]
    main, reference = record["figure"], record["reference"]
    subjects = results.subjects(case)
    figures = dict.fromkeys(
        name
        for each in record["rounds"]
        for turn in each["figures"].values()
        for name in turn
        if name not in HIDDEN and name != main
    )
    order = sorted(figures, key=lambda name: list(LABELS).index(name) if name in LABELS else -1)
    compared = reference is not None and subjects != [reference]
    head = ["", label(main), *([f"{reference} / it"] if compared else []), *map(label, order)]
    rows = [
        [
            subject,
            wide(results.values(case, subject, main)),
            *([wide(results.ratios(case, subject)) if subject != reference else ""] if compared else []),
            *(narrow(results.values(case, subject, name)) for name in order),
        ]
        for subject in subjects
    ]
    return table(head, rows)


def measured(results: Results, case: str, target: Target) -> Spread | None:
    """Return what a target is about: a ratio, or where there is nothing to compare, a figure."""
    record = results.data["cases"][case]
    if record["reference"] in (None, target.subject):
        return results.values(case, target.subject, target.figure or record["figure"])
    return results.ratios(case, target.subject, target.figure)


def wanted(results: Results, case: str, target: Target) -> str:
    """Return a target in words."""
    record = results.data["cases"][case]
    bound = f"at least {target.at_least:g}" if target.at_least is not None else f"at most {target.at_most:g}"
    figure = label(target.figure or record["figure"])
    if record["reference"] is None:
        return f"{target.subject}: {figure} {bound}"
    return f"{figure}: {bound}" if target.subject == record["reference"] else f"{figure}: {bound} x {target.subject}"


def targets_table(results: Results, cases: Sequence[Case]) -> str | None:
    """Return the table of what the cases are to show, and whether they do; None if there is nothing."""
    rows = [
        [
            case.name,
            wanted(results, case.name, target),
            wide(spread),
            "yes" if target.reached_by(spread.median) else "**no**",
        ]
        for case in cases
        if case.name in results.cases()
        for target in case.targets
        if (spread := measured(results, case.name, target)) is not None
    ]
    return table(["case", "wanted", "measured", "reached"], rows) if rows else None


def rounds_of(results: Results, case: str) -> int:
    """Return how many rounds a case had."""
    return len(results.data["cases"][case]["rounds"])

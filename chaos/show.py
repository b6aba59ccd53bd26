"""What a run shows while it lasts, on standard error, and at its end, on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

#: Violations that are shown to people; --json has all.
SHOWN = 20
#: Seconds between two lines where no terminal is.
LINE = 5.0


@contextmanager
def live(title: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show the latest figures; yields what takes them.  Without a terminal, a line now and then."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as display:
            yield lambda figures: display.update(_grid(title, figures), refresh=True)
        return
    due = time.monotonic()

    def line(figures: Mapping[str, Any]) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE
            sys.stderr.write(f"{title}: {', '.join(f'{name} {value}' for name, value in figures.items())}\n")

    yield line


def _grid(title: str, figures: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(title, style="bold cyan"))
    for name, value in figures.items():
        table.add_row(Text(name, style="dim"), str(value))
    return table


def report(figures: Mapping[str, Any], violations: Sequence[str], *, as_json: bool) -> int:
    """Print the figures, and what was violated; return the exit code: 1 if anything was."""
    if as_json:
        sys.stdout.write(json.dumps({**figures, "violations": violations}) + "\n")
        return int(bool(violations))
    console = Console(highlight=False, soft_wrap=True)
    for name, value in figures.items():
        console.print(Text(f"{name:<28}", style="dim"), Text(_text(value)), sep="")
    for violation in violations[:SHOWN]:
        console.print(Text(violation, style="red"))
    if violations:
        console.print(Text(f"{len(violations)} violations", style="bold red"))
    else:
        console.print(Text("nothing was violated", style="bold green"))
    return int(bool(violations))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "".join(f"\n  {_text(each)}" for each in value)
    return f"{value:,.2f}" if isinstance(value, float) else str(value)

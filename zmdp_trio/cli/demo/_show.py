"""How the demo shows what it does: in colour on a terminal, in plain lines elsewhere, not at all for --json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TransferSpeedColumn
from rich.text import Text

_LABEL = 12


class _Console(Console):
    """A console that says it like any other file when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Show:
    """Headings, and facts in two columns below them."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = _Console(quiet=quiet, highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._console.print(Text(f"\n{text}", style="bold cyan"))

    def fact(self, label: str, text: str, *, style: str = "") -> None:
        """Add a line to the section."""
        self._console.print(Text(f"  {label:<{_LABEL}}", style="dim"), Text(text, style=style), sep="")

    def good(self, label: str, text: str) -> None:
        """Add a line that says that something is as it should be."""
        self.fact(label, text, style="green")

    def end(self, text: str) -> None:
        """Say the last words."""
        self._console.print(Text(f"\n{text}", style="bold green"))

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar, on a terminal, for `total` bytes; yields what adds to it."""
        if not self._console.is_terminal or self._console.quiet:
            yield lambda size: None
            return
        columns = (TaskProgressColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress("  [dim]progress  [/]", BarColumn(30), *columns, console=self._console) as bar:
            task = bar.add_task("", total=total)
            yield lambda size: bar.advance(task, size)


def milliseconds(seconds: float) -> str:
    """Write a short time for people, in a column."""
    return f"{seconds * 1000:.2f} ms"

"""What the programs that run processes share: options, a folder, and the report at the end."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import trio

from zmdp_trio import Settings

from .show import report

#: A run: it gets its options and its folder, and returns the figures and what was violated.
Run: TypeAlias = Callable[[argparse.Namespace, Path], Awaitable[tuple[dict[str, Any], list[str]]]]


def carry_out(run: Run, options: argparse.Namespace) -> int:
    """Run it, and report; return the exit code."""
    with run_folder(options.folder) as folder:
        figures, violations = trio.run(run, options, folder)
    return report(figures, violations, as_json=options.json)


@contextmanager
def run_folder(wanted: Path | None) -> Iterator[Path]:
    """Make the folder that is wanted, else one that goes away."""
    if wanted is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        wanted.mkdir(parents=True)
        yield wanted


def add_options(parser: argparse.ArgumentParser, *, seconds: float) -> None:
    """Add the options that the runs share."""
    defaults = Settings()
    parser.add_argument("--seconds", type=float, default=seconds, help=f"how long (default {seconds:g})")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second (default 500)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default 4)")
    parser.add_argument("--retry", type=int, default=3, help="of the half of the requests that have it (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the load and of whom to kill (default 0)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a request may go unanswered (default 30)")
    parser.add_argument("--heartbeat", type=float, default=defaults.heartbeat, help="the setting, everywhere")
    parser.add_argument("--resume", type=float, default=defaults.resume, help="the setting, everywhere")
    parser.add_argument("--appear", type=float, default=defaults.appear, help="the setting, of the brokers")
    parser.add_argument("--folder", type=Path, help="a new folder, for the ledger and the processes' log")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def wanted_settings(options: argparse.Namespace) -> dict[str, int | float]:
    """Return the settings that were asked for."""
    return {"heartbeat": options.heartbeat, "resume": options.resume, "appear": options.appear}

"""Measure zmdp-trio and its peers side by side.

    python benchmarks/run.py [--rounds 5] [--cases NAME ...] [--peers NAME ...] [--quick] [--into FILE]

In each round every case is done by all its subjects in turn, and the next round begins with another one of them.
Ratios are made within a round, where the machine was much the same for all; their median, minimum, and maximum are
told.  Results go to a file of JSON after each round, and plots beside it.  `--into` keeps what a file has of other
cases and peers.  A peer that is not installed is left out; why, and what brings it, is told.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import leaving
import mdp
import peers
import plots
import scale
import small
import streams
import tables
import tail
import trio
from case import Case, Figures
from results import Results, machine, rounded

#: Modules that have cases.
MODULES = (small, streams, mdp, scale, tail, leaving)

OUTPUT = Path(__file__).parents[1] / "build" / "bench" / "results.json"

#: What a quick run does: this many seconds of these cases, once.
QUICK_SECONDS = 0.1
QUICK_CASES = ("requests-1", "requests-100", "stream-16")


# ---- what to do


def all_cases() -> list[Case]:
    """Return the cases of all modules."""
    return [case for module in MODULES for case in module.CASES]


def chosen(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Return the cases that are named, or whose names begin so."""
    strangers = [name for name in names if not any(case.name.startswith(name) for case in cases)]
    if strangers:
        sys.exit(f"no case is called {strangers[0]}; there are: {' '.join(case.name for case in cases)}")
    return [case for case in cases if not names or case.name.startswith(tuple(names))]


def without_the_missing(case: Case, missing: dict[str, str], names: Sequence[str]) -> Case:
    """Return a case with the subjects that are wanted and installed, and the one that all are compared with.

    Args:
        missing: what is not installed, and why not: subjects, and whole cases.
        names: who is wanted; all, if there are none.
    """
    here = {name: measure for name, measure in case.subjects.items() if name not in missing}
    wanted = {name for name in here if not names or name in names}
    if not wanted or case.name in missing:
        return attrs.evolve(case, subjects={})
    return attrs.evolve(case, subjects={name: here[name] for name in here if name in wanted or name == case.reference})


def in_turn(case: Case, number: int) -> list[str]:
    """Return the order in which the subjects have their turns in a round."""
    names = list(case.subjects)
    first = number % len(names)
    return names[first:] + names[:first]


# ---- doing it


class Progress:
    """Tells on stderr how far we are: in one line that changes, or in a line for each case."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._done = 0
        self._begun = time.monotonic()
        self._live = sys.stderr.isatty()

    def turn(self, number: int, case: Case, subject: str) -> None:
        """A turn begins."""
        if self._live:
            passed = time.monotonic() - self._begun
            left = f", {passed / self._done * (self._turns - self._done):.0f} s left" if self._done else ""
            done = f"{100 * self._done // self._turns:>3} %{left}"
            self._write(f"\r\x1b[K{done}: round {number + 1}, {case.name}: {subject}")
        self._done += 1

    def round(self, number: int, case: Case, figures: dict[str, Figures]) -> None:
        """All have had their turns."""
        told = ", ".join(
            f"{name} {tables.short(each[case.figure]) if case.figure in each else 'failed'}"
            for name, each in figures.items()
        )
        clear = "\r\x1b[K" if self._live else ""
        self._write(f"{clear}round {number + 1}, {case.name}, {tables.label(case.figure)}: {told}\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


async def take_turn(stage: peers.Stage, case: Case, subject: str) -> Figures:
    """Measure one subject; what fails costs no more than the turn."""
    try:
        return rounded(await case.subjects[subject](stage, case.seconds))
    except Exception as error:
        await stage.clear()
        return {"error": f"{type(error).__name__}: {error}"}  # type: ignore[dict-item]


def rounds_of(cases: Sequence[Case], rounds: int) -> Iterator[tuple[int, list[Case]]]:
    """Return the numbers of the rounds, each with the cases that have one more."""
    for number in range(rounds):
        yield number, [case for case in cases if case.rounds is None or number < case.rounds]


def estimate(cases: Sequence[Case], rounds: int) -> float:
    """Return how many seconds it will take, roughly."""
    turns = (case for _, those in rounds_of(cases, rounds) for case in those for _ in case.subjects)
    return sum(case.seconds + case.beyond for case in turns)


async def measure(cases: Sequence[Case], rounds: int, results: Results, path: Path) -> None:
    """Let all have their turns, and write down what comes of it after each round."""
    progress = Progress(sum(len(case.subjects) for _, those in rounds_of(cases, rounds) for case in those))
    for case in cases:
        results.begin(case, case.subjects)
    for number, those in rounds_of(cases, rounds):
        stage = peers.Stage()
        try:
            for case in those:
                figures = results.begin_round(case)
                for subject in in_turn(case, number):
                    progress.turn(number, case, subject)
                    figures[subject] = await take_turn(stage, case, subject)
                progress.round(number, case, figures)
        finally:
            await stage.clear()
            results.write(path)


# ---- telling


def describe(results: Results, missing: dict[str, str]) -> None:
    """Note where and with what it is measured."""
    results.data["machine"] = machine()
    for peer in peers.PEERS.values():
        if peer.name not in missing:
            results.data["versions"][peer.name] = {need.what: need.version() for need in peer.needs}
    results.data["missing"] = missing


def tell(results: Results, cases: Sequence[Case]) -> None:
    """Print what came of these cases."""
    for case in cases:
        title = f"{case.title}: {tables.rounds_of(results, case.name)} x {case.seconds:g} s"
        sys.stdout.write(f"\n{title}\n\n{tables.case_table(results, case.name)}\n")
    targets = tables.targets_table(results, cases)
    if targets is not None:
        sys.stdout.write(f"\n{targets}\n")
    for error in results.errors():
        sys.stdout.write(f"\nfailed: {error}\n")
    for name, why in results.data["missing"].items():
        sys.stdout.write(f"\nleft out: {name}: {why}\n")


def main() -> None:
    """Do what the command line says."""
    options = parse()
    missing = {peer.name: why for peer in peers.PEERS.values() if (why := peer.missing()) is not None}
    strangers = set(options.peers) - {name for case in all_cases() for name in case.subjects}
    if strangers:
        sys.exit(f"nobody is called {strangers.pop()}; there are: {', '.join(peers.PEERS)}")
    cases = chosen(all_cases(), options.cases)
    missing |= {case.name: why for case in cases if (why := peers.first_missing(case.needs)) is not None}
    cases = [case for each in cases if (case := without_the_missing(each, missing, options.peers)).subjects]
    if options.list:
        for case in cases:
            sys.stdout.write(f"{case.name:<16} {case.title}: {', '.join(case.subjects)}\n")
        return
    if options.seconds:
        cases = [attrs.evolve(case, seconds=options.seconds) for case in cases]
    path = options.into or OUTPUT
    results = Results.read(path) if options.into else Results()
    describe(results, missing)
    begun = time.monotonic()
    sys.stderr.write(f"about {estimate(cases, options.rounds) / 60:.1f} minutes\n")
    trio.run(measure, cases, options.rounds, results, path)
    tell(results, cases)
    no_plots = plots.missing()
    if no_plots is None:
        plots.draw(results, path.parent)
    sys.stdout.write(f"\nresults: {path}, after {time.monotonic() - begun:.0f} s\nplots: {no_plots or path.parent}\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how many turns each subject has in each case")
    parser.add_argument("--seconds", type=float, help="how long each turn lasts, instead of what the case says")
    parser.add_argument("--cases", nargs="+", default=[], help="these alone, or those whose names begin so")
    parser.add_argument("--peers", nargs="+", default=[], help="these alone, and whom they are compared with")
    parser.add_argument("--quick", action="store_true", help="see that it works: one round, short, of a few cases")
    parser.add_argument("--into", type=Path, metavar="FILE", help=f"merge into these results; else {OUTPUT} is new")
    parser.add_argument("--list", action="store_true", help="tell the cases, and who takes part")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, options.seconds or QUICK_SECONDS
        options.cases = options.cases or QUICK_CASES
    return options


if __name__ == "__main__":
    main()

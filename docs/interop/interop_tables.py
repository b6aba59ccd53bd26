"""The tables at the end of interop.md: what the tests find.

`make interop` writes them, and the tests compare them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from zmdp_trio.conformance import Outcome, Report, Result

DOCUMENT: Final = Path(__file__).parents[1] / "interop.md"
BEGIN: Final = "<!-- From here to the end: written by `make interop`, and compared by the tests. -->"
END: Final = "<!-- The end. -->"

#: How dialects are called in the document, in the order in which they stand there.
DIALECTS: Final = {
    "mdp/0.1": "MDP 0.1",
    "mdp/0.2": "MDP 0.2",
    "mdp/0.2+empty": "MDP 0.2 behind an empty frame",
    "majortomo": "majortomo",
    "omdp": "OMDP",
    "pigato": "PIGATO",
    "zmdp/1": "ZMDP/1",
}

#: What the programs are whose names begin so.
PROGRAMS: Final = {
    "mdp": "programs of ours on pyzmq, after the letter of RFC 7 and 18",
    "majortomo": "majortomo, from PyPI",
    "omdp": "programs of ours on zeromq, in Node: zmq-omdp is in no registry",
    "pigato": "PIGATO, from npm, on zeromq",
    "req": "a REQ socket of zeromq, in Node",
}

Rows = Sequence[Sequence[object]]


# ---- the document


def section(parts: Iterable[str]) -> str:
    """Return what stands between the marks."""
    return "\n\n".join((BEGIN, "## What the tests found", *parts, END)) + "\n"


def write(parts: Iterable[str]) -> None:
    """Put the section in the place of the former one, or at the document's end."""
    before = DOCUMENT.read_text().split(BEGIN)[0].rstrip()
    DOCUMENT.write_text(f"{before}\n\n{section(parts)}")


def written() -> dict[str, str]:
    """Return the parts that the document has, by their headings."""
    (text,) = re.findall(rf"^{re.escape(BEGIN)}$(.*)^{re.escape(END)}$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    _, *parts = re.split(r"^(?=### )", text, flags=re.MULTILINE)
    return {part.partition("\n")[0].removeprefix("### "): part.rstrip() for part in parts}


def table(head: Sequence[str], rows: Rows) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


# ---- any client, any worker

MATRIX: Final = "Any client, any worker"


def matrix(single: Callable[[str, str], str], streamed: Callable[[str, str], str]) -> str:
    """Return the part that tells what clients get.

    Args:
        single: in a word, what a client gets of one reply, and of an error, by the dialects of client and worker.
        streamed: the same of partial replies, and the final one.
    """
    head = ["client \\ worker", *DIALECTS.values()]

    def cells(cell: Callable[[str, str], str]) -> str:
        rows = [[DIALECTS[client], *(cell(client, worker) for worker in DIALECTS)] for client in DIALECTS]
        return table(head, rows)

    return f"""### {MATRIX}

On one endpoint of one broker, a client of each dialect asks a worker of each. What it gets when the worker sends one
reply; and when the worker reports an error, if its dialect has errors:

{cells(single)}

And when the worker sends three partial replies and the final one, or the final one alone where its dialect has no
others. *partials*: each by itself, as sent. *joined*: one reply with the frames of all:

{cells(streamed)}

Under `tests/`, `core/test_legacy_matrix.py` goes through all of it with the broker's machine alone, and
`peers/test_matrix.py` through replies and partial replies with peers in processes of their own, of all dialects but the
one behind an empty frame."""


def streamed_cells() -> dict[tuple[str, str], str]:
    """Return what the document says of partial replies, by the names that clients and workers have there."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in written()[MATRIX].splitlines()
        if line.startswith("| ")
    ]
    first, second = (i for i, row in enumerate(rows) if row[0].startswith("client"))
    assert rows[first] == rows[second]
    return {
        (row[0], worker): cell
        for row in rows[second + 2 :]
        for worker, cell in zip(rows[second][1:], row[1:], strict=True)
    }


# ---- peers

PEERS: Final = "The peers"
_VERSIONS: Final = "Last run with "


def peers(roles: Mapping[str, Mapping[str, Path]], versions: Mapping[str, str]) -> str:
    """Return the part that tells whom the tests start.

    Args:
        roles: the program for each dialect, by what it is: client, worker, or broker.
        versions: those of the packages, by their names.
    """
    programs = {program.name.split("-")[0].split("_")[0]: "" for each in roles.values() for program in each.values()}
    rows = []
    for program in programs:
        played = {
            role: [dialect for dialect, path in each.items() if re.match(rf"{program}[-_]", path.name)]
            for role, each in roles.items()
        }
        spoken = dict.fromkeys(dialect for dialects in played.values() for dialect in dialects)
        rows.append([PROGRAMS[program], ", ".join(spoken), *("yes" if played[role] else "" for role in roles)])
    return f"""### {PEERS}

`tests/peers` starts these, each in a process: clients and workers at our broker, which one another and our own ones
reach, and brokers for our client and worker. The REQ socket asks a gateway.

{table(["peer", "speaks", *(f"as {role}" for role in roles)], rows)}

PIGATO asks for the old `zmq` module, which can no longer be built: an adapter of ours, `tests/peers/node/zmq-adapter`,
has it run on zeromq. `make peers` installs what it takes.

{_VERSIONS}{", ".join(f"{name} {version}" for name, version in versions.items())}."""


def versions_apart(part: str) -> tuple[str, dict[str, str]]:
    """Return the part about peers without its last line, and what that says."""
    text, _, last = part.rpartition(_VERSIONS)
    pairs = [each.rpartition(" ") for each in last.removesuffix(".").split(", ")]
    return text, {name: version for name, _, version in pairs}


# ---- conformance

CONFORMANCE: Final = "Our broker and the RFCs"


def conformance(strict: Report, default: Report) -> str:
    """Return the part that tells how our broker does.

    Args:
        strict: with `legacy_busy` at three intervals.
        default: with the settings as they are.
    """
    return f"""### {CONFORMANCE}

What [`python -m zmdp_trio.conformance`](conformance.md) says of our broker: how many checks it passes by default, and
with `legacy_busy` at three heartbeat intervals (*strict*), per section of each RFC.

{table(["RFC", "section", "checks", "pass by default", "pass when strict", "not testable"], _counts(strict, default))}

{_shortfall("By default", default)}

{_shortfall("When strict", strict)}

The default is on purpose: many workers can't beat while they work, and a strict broker takes their work away.

What no peer can find out:

{_untestable(strict)}"""


def _counts(strict: Report, default: Report) -> Rows:
    groups = dict.fromkeys((each.rfc, each.section) for each in strict.results)
    rows: list[Sequence[object]] = []
    for group in groups:
        (tried, passed, untestable), (tried_by_default, passed_by_default, _) = (
            _count([each for each in report.results if (each.rfc, each.section) == group])
            for report in (strict, default)
        )
        assert tried == tried_by_default
        rows.append([*group, tried, passed_by_default, passed, untestable or ""])
    return [*rows, ["all", "", *(sum(int(row[i] or 0) for row in rows) for i in range(2, 6))]]  # type: ignore[call-overload]


def _count(results: Sequence[Result]) -> tuple[int, int, int]:
    """Count what was tried, what passed, and what can't be tried."""
    untestable = sum(each.outcome is Outcome.NOT_TESTABLE for each in results)
    return len(results) - untestable, sum(each.outcome is Outcome.PASS for each in results), untestable


def _shortfall(when: str, report: Report) -> str:
    """Name all that failed, or was not even tried for want of an answer."""
    missed = [each for each in report.results if each.outcome not in (Outcome.PASS, Outcome.NOT_TESTABLE)]
    if not missed:
        return f"{when} it passes all checks."
    lines = [f"- `{each.id}` ({each.level.value}, {each.outcome.value}): {each.clause}" for each in missed]
    return "\n".join([f"{when} it passes all checks but these:", "", *lines])


def _untestable(report: Report) -> str:
    """Name what can't be tested, by the reason why."""
    reasons: dict[str, list[str]] = {}
    for each in report.results:
        if each.outcome is Outcome.NOT_TESTABLE:
            reasons.setdefault(each.seen, []).append(f"`{each.id}`")
    return "\n".join(f"- {reason}: {', '.join(names)}" for reason, names in reasons.items())

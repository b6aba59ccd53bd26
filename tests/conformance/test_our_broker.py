"""Our own broker passes all checks."""

from __future__ import annotations

import os

import interop_tables
import pytest
from examine import ids, short
from ours import DEFAULT, STRICT, examine_in_memory, examine_ours, strict

from zmdp_trio.conformance import Outcome, Report
from zmdp_trio.conformance._checks import CHECKS

#: Checks that wait until somebody silent is given up: that takes longer than all the others.
PATIENT = {
    "absent-after-expiry",
    "worker/expiry",
    "worker/expiry-silence",
    "worker/expiry-while-busy",
    "worker/partials-beat",
    "worker/replies-beat",
    "worker/stays",
}
#: These go one after the other, each with a silence to listen to.
ONE_BY_ONE = "invalid/"
#: With this none is left out over tcp: see `make peers-soak`.
LONG = "ZMDP_PEERS_SECONDS" in os.environ


def takes_long(check: str) -> bool:
    """Whether a check is left to virtual time in the normal run."""
    return check in PATIENT or check.startswith(ONE_BY_ONE)


@pytest.fixture(scope="module")
def reports() -> tuple[Report, Report]:
    """Find out how it does when it is strict, and by default."""
    return examine_in_memory(STRICT), examine_in_memory(DEFAULT)


def test_it_passes_in_memory(reports: tuple[Report, Report]) -> None:
    report, _ = reports
    assert ids(report, Outcome.FAIL) == set()
    assert ids(report, Outcome.PASS) == {each.id for each in CHECKS}


async def test_it_passes_over_tcp() -> None:
    """With an interval in which a busy machine does not stand still."""
    chosen = {each.id for each in CHECKS if LONG or not takes_long(short(each.id))}
    assert len(chosen) > 100
    report = await examine_ours("tcp://127.0.0.1:*", strict(heartbeat=1.0), chosen)
    assert ids(report, Outcome.FAIL) == set()
    assert ids(report, Outcome.PASS) == chosen


def test_by_default_it_is_patient_with_busy_workers(reports: tuple[Report, Report]) -> None:
    """Most workers can't beat while they work; this is the one clause, a SHOULD, that it does not keep then."""
    _, report = reports
    assert ids(report, Outcome.FAIL) == {"7/worker/expiry-while-busy", "18/worker/expiry-while-busy"}


def test_the_document_says_so(reports: tuple[Report, Report]) -> None:
    assert interop_tables.written()[interop_tables.CONFORMANCE] == interop_tables.conformance(*reports)

"""Our own broker passes all checks."""

from __future__ import annotations

import json
import subprocess

import interop_tables
import pytest
from examine import ids
from ours import DEFAULT, STRICT, examine_in_memory
from over_tcp import CHOSEN

from zmdp_trio.conformance import Outcome, Report
from zmdp_trio.conformance._checks import CHECKS

#: Seconds that the examination over tcp may take, all of it.
LIMIT = 600


@pytest.fixture(scope="module")
def reports() -> tuple[Report, Report]:
    """Find out how it does when it is strict, and by default."""
    return examine_in_memory(STRICT), examine_in_memory(DEFAULT)


def test_it_passes_in_memory(reports: tuple[Report, Report]) -> None:
    report, _ = reports
    assert ids(report, Outcome.FAIL) == set()
    assert ids(report, Outcome.PASS) == {each.id for each in CHECKS}


def test_it_passes_over_tcp(examined_over_tcp: subprocess.Popen[str]) -> None:
    output, errors = examined_over_tcp.communicate(timeout=LIMIT)
    assert examined_over_tcp.returncode == 0, errors
    results = {each.pop("id"): each for each in json.loads(output)["results"]}
    assert {name: each for name, each in results.items() if each["outcome"] != "pass"} == {}
    assert results.keys() == CHOSEN
    assert len(CHOSEN) > 100


def test_by_default_it_is_patient_with_busy_workers(reports: tuple[Report, Report]) -> None:
    """Most workers can't beat while they work; this is the one clause, a SHOULD, that it does not keep then."""
    _, report = reports
    assert ids(report, Outcome.FAIL) == {"7/worker/expiry-while-busy", "18/worker/expiry-while-busy"}


def test_the_document_says_so(reports: tuple[Report, Report]) -> None:
    assert interop_tables.written()[interop_tables.CONFORMANCE] == interop_tables.conformance(*reports)

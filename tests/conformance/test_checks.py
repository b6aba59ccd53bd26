"""The checks pass a broker that is right, and each of them fails one that is wrong."""

from __future__ import annotations

import pytest
from examine import examine, ids, short
from mistakes import MISTAKES
from reference import Broker

from zmdp_trio.conformance import Outcome
from zmdp_trio.conformance._checks import CHECKS


async def test_a_broker_that_is_right_passes_all(autojump_clock: object) -> None:
    report = await examine()
    assert ids(report, Outcome.FAIL) == set()
    assert ids(report, Outcome.PASS) == {each.id for each in CHECKS}
    assert report.spoken == [7, 8, 18]
    assert report.seconds < 60


@pytest.mark.parametrize("mistaken", MISTAKES, ids=lambda kind: kind.__name__)
async def test_a_mistake_is_found_by_its_checks_and_by_no_other(mistaken: type[Broker], autojump_clock: object) -> None:
    report = await examine(mistaken, 7, 8, 18)
    assert ids(report, Outcome.FAIL) == {each.id for each in CHECKS if short(each.id) in MISTAKES[mistaken]}


def test_there_is_a_mistake_for_every_check() -> None:
    assert {short(each.id) for each in CHECKS} == set().union(*MISTAKES.values())


def test_ids_are_unique() -> None:
    assert len({each.id for each in CHECKS}) == len(CHECKS)

"""A short form of `make bench`, and what is made of its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import document
import pytest
from case import Case, Target
from peers import Need, first_missing
from results import Results, Spread, rounded
from run import in_turn, without_the_missing
from tables import case_table, measured, short

ROOT = Path(__file__).parent.parent.parent
OURS = "zmdp-trio"
PEERS = ("nats-py", "grpc.aio", "zerorpc", "PIGATO", "majortomo", "zmq_proxy", "zmdp-trio, inproc")
CASES = ("requests-100", "stream-16")
#: Its broker drops partial replies when a queue of ZeroMQ's is full, now and then: that is told, and no figure.
DROPS = "majortomo"


# ---- the run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one round of two cases comes to, with all peers that are here."""
    file = tmp_path_factory.mktemp("bench") / "results.json"
    command = [sys.executable, "benchmarks/run.py", "--rounds=1", "--seconds=0.05", f"--into={file}"]
    done = subprocess.run(
        [*command, "--peers", *PEERS, "--cases", *CASES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(file.read_text())
    return report


@pytest.mark.parametrize("peer", [OURS, *PEERS])
def test_a_peer_is_measured(report: dict[str, Any], peer: str) -> None:
    if peer in report["missing"]:
        pytest.skip(report["missing"][peer])
    for name in CASES:
        (turn,) = report["cases"][name]["rounds"]
        figures = turn["figures"].get(peer)
        if figures is None:
            assert name == "stream-16"
            continue
        if peer == DROPS and name == "stream-16" and "error" in figures:
            assert "a stream of" in figures["error"]
            continue
        assert "error" not in figures, figures
        assert figures["count"] > 0
        assert figures["per_second"] == pytest.approx(figures["count"] / figures["seconds"], rel=0.01)
        if name == "requests-100":
            assert 0 < figures["p50_us"] <= figures["p99_us"]
        if sys.platform == "linux":
            roles = sum(figures.get(f"{role}_us", 0) for role in ("client", "broker", "worker"))
            assert figures["cpu_us"] == pytest.approx(roles or figures["cpu_us"], rel=0.01)


@pytest.mark.parametrize("missing", [(), ("cc",), ("cc", "node")])
def test_what_is_missing_is_told_with_what_brings_it(missing: tuple[str, ...]) -> None:
    needs = [
        Need(what, f"apt-get install {what}", lambda what=what: what not in missing, str)  # type: ignore[misc]
        for what in ("cc", "node")
    ]
    assert first_missing(needs) == ("cc is missing: apt-get install cc" if missing else None)


# ---- what is made of it


def rounds(*ours_and_its: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {"taken": "", "figures": {OURS: {"per_second": ours}, "other": {"per_second": its}}}
        for ours, its in ours_and_its
    ]


def results(*ours_and_its: tuple[float, float]) -> Results:
    case = {"title": "t", "figure": "per_second", "reference": OURS, "plots": {}, "rounds": rounds(*ours_and_its)}
    return Results({"machine": {}, "versions": {}, "missing": {}, "cases": {"c": case}})


async def never(*_: object) -> dict[str, float]:
    raise AssertionError


CASE = Case(name="c", title="t", subjects={OURS: never, "other": never, "third": never}, figure="per_second")


def test_a_ratio_is_one_of_figures_of_the_same_round() -> None:
    taken = results((10, 10), (30, 10), (40, 20))
    assert taken.values("c", OURS, "per_second") == Spread(30, 10, 40)
    assert taken.ratios("c", "other") == Spread(2, 1, 3)


def test_a_turn_that_failed_has_no_ratio() -> None:
    taken = results((10, 10), (30, 10))
    taken.data["cases"]["c"]["rounds"][0]["figures"]["other"] = {"error": "it broke"}
    assert taken.ratios("c", "other") == Spread(3, 3, 3)
    assert taken.errors() == ["c, other: it broke"]


def test_what_is_measured_anew_replaces_what_was_and_leaves_the_rest() -> None:
    taken = results((10, 10), (30, 10))
    taken.begin(CASE, [OURS, "third"])
    taken.begin_round(CASE).update({OURS: {"per_second": 5}, "third": {"per_second": 10}})
    assert taken.ratios("c", "other") == Spread(2, 1, 3)
    assert taken.ratios("c", "third") == Spread(0.5, 0.5, 0.5)
    taken.begin(CASE, [OURS, "third"])
    assert taken.ratios("c", "third") is None
    taken.begin(CASE, [OURS, "other"])
    assert taken.data["cases"]["c"]["rounds"] == []


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    taken = results((10, 10), (30, 10))
    taken.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json").data == taken.data


def test_every_round_begins_with_another_subject() -> None:
    assert [in_turn(CASE, number) for number in range(3)] == [
        [OURS, "other", "third"],
        ["other", "third", OURS],
        ["third", OURS, "other"],
    ]


def test_who_is_missing_or_not_asked_for_has_no_turn_but_the_reference_has() -> None:
    assert list(without_the_missing(CASE, {"other": "is not here"}, []).subjects) == [OURS, "third"]
    assert list(without_the_missing(CASE, {}, ["third"]).subjects) == [OURS, "third"]


@pytest.mark.parametrize(("missing", "names"), [({"third": "is not here"}, ["third"]), ({}, ["x"]), ({"c": "..."}, [])])
def test_a_case_in_which_nobody_takes_part_that_is_wanted_is_left_out(
    missing: dict[str, str], names: list[str]
) -> None:
    assert not without_the_missing(CASE, missing, names).subjects


def test_a_table_has_the_medians_and_their_spread() -> None:
    head, _, ours, other = case_table(results((10, 10), (30, 10)), "c").splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["", "a second", "zmdp-trio / it"]
    assert [cell.strip() for cell in ours.split("|")[1:-1]] == [OURS, "20.0 (10.0 to 30.0)", ""]
    assert [cell.strip() for cell in other.split("|")[1:-1]] == ["other", "10.0 (10.0 to 10.0)", "2.00 (1.00 to 3.00)"]


@pytest.mark.parametrize(("value", "text"), [(1.2345, "1.23"), (12.345, "12.3"), (123.45, "123"), (123456, "123,456")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_figures_are_kept_with_four_digits() -> None:
    assert rounded({"a": 123456.0, "b": 0.0123456}) == {"a": 123500.0, "b": 0.01235}


def test_the_document_tells_what_the_results_are() -> None:
    results = Results.read(document.RESULTS)
    assert document.marked(document.DOCUMENT, document.BEGIN) == document.section(results)
    assert document.marked(document.README, document.BEGIN_TABLE) == document.readme_table(results)


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target("other", at_least=2), True),
        (Target("other", at_least=2.1), False),
        (Target("other", at_most=1.9), False),
        (Target(OURS, at_most=30), True),
        (Target(OURS, at_least=31), False),
    ],
)
def test_a_target_is_about_the_median_ratio_or_of_ours_about_the_figure(target: Target, reached: bool) -> None:
    found = measured(results((10, 10), (30, 10), (40, 20)), "c", target)
    assert found is not None
    assert target.reached_by(found.median) is reached

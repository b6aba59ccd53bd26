"""Short forms of the long runs in chaos/, and the checks that these rest on: each must see what it is there for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from chaos.load import Kind, Order, Outcome, State, orders
from chaos.services import Job, Ledger, read_ledger
from chaos.soak import MIB, Sample, check_memory, need, slope
from chaos.two_brokers import unsteady
from chaos.verdict import (
    BROKER_LOST,
    NOT_RUN,
    PARTS,
    WORKER_LOST,
    Evidence,
    Fault,
    check_at_rest,
    check_counters,
    check_protocol,
    violations,
)

ROOT = Path(__file__).parent.parent.parent
NOTICE = 1.0
#: Settings for a machine that is slow to start processes, and so to have workers at a broker that is back.
PATIENT = ("--resume=2", "--appear=10")


# ---- the runs


def start(program: str, *options: str) -> subprocess.Popen[str]:
    """Start a program of chaos/, for a few seconds."""
    command = [sys.executable, "-m", f"chaos.{program}", "--json", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for its report; nothing may have been violated."""
    output, errors = process.communicate(timeout=120)
    assert output, errors
    report: dict[str, Any] = json.loads(output)
    assert report["violations"] == []
    assert process.returncode == 0, errors
    return report


@contextmanager
def running(program: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    with start(program, *options) as process:
        try:
            yield process
        finally:
            process.kill()


def run(program: str, *options: str) -> dict[str, Any]:
    with running(program, *options) as process:
        return read(process)


@pytest.fixture(scope="module", autouse=True)
def two_brokers() -> Iterator[subprocess.Popen[str]]:
    """The longest run, which waits most of the time, and in which the others go on."""
    # A broker that is back gets nothing before its workers had three seconds to be back, too.
    options = ("--seconds=9", "--rate=60", "--workers=2", "--away=1", "--steady=0.5", *PATIENT)
    with running("two_brokers", *options) as process:
        yield process


@pytest.fixture(scope="module", autouse=True)
def soak() -> Iterator[subprocess.Popen[str]]:
    """Another one."""
    with running("soak", "--seconds=4", "--warm-up=2", "--every=1", "--rate=100", "--least=24") as process:
        yield process


def test_workers_and_the_broker_are_killed_and_nothing_is_lost_or_run_twice() -> None:
    report = run(
        "kills", "--seconds=3", "--rate=120", "--workers=3", "--worker-interval=0.7", "--broker-kills=1", *PATIENT
    )
    assert report["brokers killed"] == 1
    assert report["workers killed"] >= 2
    assert report["with retry"]["answered"] > 50
    assert report["without retry"]["answered"] > 50


def test_without_kills_no_request_fails() -> None:
    report = run("kills", "--seconds=1.5", "--rate=100", "--workers=2", "--broker-kills=0", "--worker-interval=0")
    assert report["with retry"].keys() | report["without retry"].keys() == {"answered", "left"}
    assert report["workers killed"] == report["brokers killed"] == 0
    assert report["executions"] > 50


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mixed_load_leaves_descriptors_tables_and_memory_as_they_were(soak: subprocess.Popen[str]) -> None:
    # Two seconds warm nothing up: of memory, only a leak of some 100 KiB per request would show here.
    report = read(soak)
    assert report["requests"] > 50
    assert len(report["operations"]) > 10
    assert len(report["rests"]) >= 2
    assert report["descriptors, first rest"] == report["descriptors, last rest"]


def test_one_of_two_brokers_is_killed_and_the_other_one_goes_on(two_brokers: subprocess.Popen[str]) -> None:
    report = read(two_brokers)
    # Also with retry, a stream that had begun to reply does not begin anew.
    assert report["with retry"].keys() <= {"answered", "left", "BrokerLost"}
    assert sum(step["ended"] for step in report["around the kill"]) > 50
    assert report["share of who came back"] > 0.3


def test_the_soak_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run it on Linux"):
        need(tmp_path)


# ---- what they ask


def test_the_same_seed_asks_the_same() -> None:
    first, second, other = (list(zip(range(1000), orders(seed, 3), strict=False)) for seed in (1, 1, 2))
    assert first == second != other
    asked = [order for _, order in first]
    assert {order.kind for order in asked} == set(Kind)
    assert 400 < sum(bool(order.retry) for order in asked) < 600
    keyed = [order for order in asked if order.key is not None]
    assert len({order.key for order in keyed}) < len(keyed)
    assert all(order.key == f"job-{order.job.number}" for order in keyed)


def test_the_ledger_keeps_what_every_worker_notes(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    one, two = Ledger(path, "one"), Ledger(path, "two")
    noted = [one.note(1), two.note(1), two.note(2)]
    assert noted == ["one/0", "two/0", "two/1"]
    assert read_ledger(path) == {1: ["one/0", "two/0"], 2: ["two/1"]}


# ---- what they would say


def outcome(number: int = 0, *, kind: Kind = Kind.CALL, retry: int = 0, key: str | None = None, **more: Any) -> Outcome:
    """Make the outcome of a request that was answered between the seconds 10 and 11, unless `more` says else."""
    order = Order(number, kind, Job(0 if key else number, 0.0, 3), retry, key)
    made = Outcome(order, 10.0, 11.0, State.ANSWERED, reply=f"worker-1/{number}")
    return attrs.evolve(made, **more)


def failed(error: str, message: str = "", **more: Any) -> Outcome:
    return outcome(state=State.FAILED, reply="", error=error, message=message, **more)


def judge(
    *outcomes: Outcome, executions: dict[int, list[str]] | None = None, faults: tuple[Fault, ...] = ()
) -> list[str]:
    """Return what the checks say; if nothing else is said, each request was executed once."""
    if executions is None:
        executions = {each.order.job.number: [each.reply] for each in outcomes if each.reply}
    return violations(Evidence(outcomes, executions, faults, WORKER_LOST | BROKER_LOST | NOT_RUN, NOTICE))


WORKER_DIED = Fault("worker", "worker-7", 10.5, 10.8)
BROKER_DIED = Fault("broker", "broker", 10.5, 10.8)


def test_nothing_is_said_of_a_good_run() -> None:
    partials = [0, 1, 2]
    good = [
        outcome(1),
        outcome(2, retry=3),
        outcome(3, kind=Kind.STREAM, partials=partials),
        outcome(4, kind=Kind.LEFT, partials=partials[:2], state=State.LEFT, reply=""),
        failed("WorkerLost", "work: worker worker-7 was lost", number=5),
        failed("BrokerLost", "work: the broker is lost", number=6),
        failed("WorkerLost", "count: worker worker-7 was lost", number=7, kind=Kind.STREAM, retry=3, partials=[0]),
        failed("ServiceNotFound", "no worker offers 'work'", number=8),
    ]
    assert judge(*good, faults=(WORKER_DIED, BROKER_DIED)) == []


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (outcome(state=State.OPEN, reply=""), "no outcome"),
        (failed("WorkerLost", "worker worker-7 was lost", retry=3), "was not answered"),
        (failed("Overloaded"), "not to be expected"),
        (failed("KeyError", "'x'"), "not to be expected"),
        (failed("DeadlineExceeded", "the deadline passed", kind=Kind.CANCELLED), "not to be expected"),
        (failed("WorkerLost", "worker worker-1 was lost"), "nothing was killed"),
        (failed("WorkerLost", "worker worker-7 was lost", started=20.0, ended=21.0), "nothing was killed"),
        (failed("BrokerLost", started=20.0, ended=21.0), "nothing was killed"),
        (outcome(kind=Kind.STREAM, partials=[0, 1]), "3 partial replies were wanted"),
        (outcome(kind=Kind.STREAM, partials=[0, 1, 1]), "3 partial replies were wanted"),
        (outcome(kind=Kind.LEFT, partials=[1], state=State.LEFT, reply=""), "[1] came"),
    ],
)
def test_what_must_not_be_is_said(bad: Outcome, what: str) -> None:
    found = judge(bad, faults=(WORKER_DIED, BROKER_DIED))
    assert what in found[0]


def test_an_execution_too_many_is_seen() -> None:
    assert "executed 2 times, 1 allowed" in judge(outcome(1), executions={1: ["worker-1/1", "worker-2/0"]})[0]
    assert judge(outcome(1, retry=1), executions={1: ["worker-2/0", "worker-1/1"]}) == []


def test_a_reply_from_nowhere_is_seen() -> None:
    assert "the reply is of 'worker-1/1'" in judge(outcome(1), executions={})[0]


def test_who_was_told_that_nothing_ran_was_told_the_truth() -> None:
    told = failed("ServiceNotFound", number=1)
    assert "and yet it was executed" in judge(told, executions={1: ["worker-1/0"]}, faults=(BROKER_DIED,))[0]


def test_a_key_that_runs_twice_is_seen_unless_nobody_can_remember_it() -> None:
    pair = [outcome(1, key="k"), outcome(2, key="k")]
    ran_twice = {0: ["worker-1/1", "worker-1/2"]}
    replies, executions = judge(*pair, executions=ran_twice)
    assert replies == "key 'k': different replies: ['worker-1/1', 'worker-1/2']"
    assert executions == "key 'k': executed by ['worker-1/1', 'worker-1/2']"
    worker_died = attrs.evolve(WORKER_DIED, name="worker-1")
    for faults in ((BROKER_DIED,), (worker_died,), (BROKER_DIED, WORKER_DIED)):
        assert len(judge(*pair, executions=ran_twice, faults=faults)) == 2
    assert judge(*pair, executions=ran_twice, faults=(BROKER_DIED, worker_died)) == []


def test_counters_tables_and_protocol_errors_are_looked_at() -> None:
    good = {**dict.fromkeys(PARTS, 1), "received": len(PARTS)}
    bad = {**good, "received": 3}
    assert list(check_counters("b", {"services": {"work": good}, "total": good})) == []
    assert len(list(check_counters("b", {"services": {"work": bad}, "total": bad}))) == 2
    assert list(check_at_rest("b", {"total": good})) == [f"b: 1 {what} at the end" for what in PARTS[-3:]]
    assert list(check_at_rest("c", {"outstanding": 2, "waiting": 0})) == ["c: 2 outstanding at the end"]
    assert list(check_protocol("b", {"protocol_errors": 1})) == ["b: 1 protocol errors"]


def test_a_rate_that_breaks_in_is_seen() -> None:
    steady = [outcome(i, started=float(i), ended=i + 0.5) for i in range(20)]
    stuck = [attrs.evolve(each, ended=100.0) for each in steady[:10]] + steady[10:]
    lost = [failed("BrokerLost", started=1.0, ended=1.5), *steady]
    assert unsteady(steady, 0, 20, "here") == []
    assert unsteady(stuck, 0, 20, "here") == ["here: 20 requests were made, 10 answered within 1 s"]
    assert unsteady(lost, 0, 20, "here") == ["here: request 0 ended as BrokerLost"]


def samples(*sizes: float) -> list[Sample]:
    """Make samples, one a second and 1,000 requests apart, of so many MiB of a broker."""
    return [Sample(i, 1000 * i, {"broker": int(size * MIB)}, {"broker": 9}) for i, size in enumerate(sizes)]


def test_a_leak_is_told_from_noise() -> None:
    assert check_memory(samples(30, 33, 29, 31, 34, 30, 32), 8 * MIB) == []
    assert check_memory(samples(30, 30, 31, 30, 29, 30, 45), 8 * MIB) == []  # one outlier, and be it the last one
    assert check_memory(samples(30, 40, 40, 40, 40, 40, 40), 8 * MIB) == []  # once, and not again
    [found] = check_memory(samples(30, 32, 33, 36, 38, 39, 42), 8 * MIB)
    assert "broker: 12.0 MiB more after 6000 requests" in found
    assert slope([(0, 0), (1, 2), (2, 4), (3, 100), (4, 8), (5, 10)]) == 2

"""What is checked, and how it is told."""

from __future__ import annotations

import io
import json

import pytest
import trio
from examine import examine, ids
from mistakes import NeverBeats
from reference import V01, V02, Broker, Known, Message, Version

from zmdp_trio.conformance import Level, Outcome, Target, Unreachable, check_broker
from zmdp_trio.conformance._frames import describe
from zmdp_trio.conformance._show import lines, show, to_json


class Speaks02(Broker):
    versions = (V02,)


class Speaks01(Broker):
    versions = (V01,)


class HasNoDirectory(Broker):
    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        if not any(frame.startswith(b"mmi.service") for frame in frames):
            super().from_client(peer, version, frames)


class IsMute(Broker):
    def send(self, peer: bytes, frames: Message) -> None:
        pass


class EndsAtTheOtherVersion(Broker):
    versions = (V01,)

    def invalid(self, peer: bytes) -> None:
        self.end()


class EndsAtASecondReady(Broker):
    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if worker is not None:
            self.end()
        super().on_ready(peer, version, worker, rest)


class Remembers(Broker):
    """It keeps the names of all services that workers have registered."""

    names: set[str]

    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.names.add(rest[0].decode(errors="replace"))
        super().on_ready(peer, version, worker, rest)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---- what is checked


@pytest.mark.parametrize(("kind", "other", "spoken"), [(Speaks01, 18, [7, 8]), (Speaks02, 7, [8, 18])])
async def test_what_is_not_spoken_is_said_so(
    kind: type[Broker], other: int, spoken: list[int], autojump_clock: object
) -> None:
    report = await examine(kind)
    assert report.spoken == spoken
    assert ids(report, Outcome.FAIL) == set()
    for each in report.results:
        if each.rfc == other:
            assert each.outcome in (Outcome.NOT_SPOKEN, Outcome.NOT_TESTABLE)
    assert report.count(Outcome.PASS) > 50
    assert report.seconds < 60


async def test_what_is_not_spoken_fails_if_it_was_asked_for(autojump_clock: object) -> None:
    report = await examine(Speaks02, 7)
    assert report.spoken == []
    assert {each.rfc for each in report.results} == {7}
    assert "7/client/reply" in ids(report, Outcome.FAIL)


async def test_a_broker_need_not_have_a_directory(autojump_clock: object) -> None:
    report = await examine(HasNoDirectory)
    assert report.spoken == [7, 18]
    assert ids(report, Outcome.FAIL) == set()


async def test_checks_are_chosen_by_pattern(autojump_clock: object) -> None:
    report = await examine(only=["18/worker/ready*", "8/*/found"])
    assert ids(report, Outcome.PASS) == {
        "18/worker/ready",
        "18/worker/ready-twice",
        "18/worker/ready-while-busy",
        "18/worker/ready-for-another-service",
        "8/mdp01/found",
        "8/mdp02/found",
    }


async def test_all_services_have_the_prefix(autojump_clock: object) -> None:
    Remembers.names = set()
    await examine(Remembers, prefix="staging/")
    bare = {name.removeprefix("mmi.").removeprefix("mmi-").casefold() for name in Remembers.names}
    assert len(bare) > 100
    # What is not text, the broker does not take.
    assert {name for name in bare if not name.startswith("staging/")} == {"service", "\N{REPLACEMENT CHARACTER}" * 2}


async def test_clients_and_workers_may_have_an_endpoint_each(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        clients, workers = await nursery.start(Broker("memory://front", "memory://back", heartbeat=2.5).run)
        report = await check_broker(Target(clients, workers))
        nursery.cancel_scope.cancel()
    assert ids(report, Outcome.FAIL) == set()


async def test_nobody_is_there(autojump_clock: object) -> None:
    with pytest.raises(Unreachable, match="memory://nobody: connection refused"):
        await check_broker(Target("memory://nobody", "memory://nobody"))


async def test_nobody_who_speaks_is_there(autojump_clock: object) -> None:
    with pytest.raises(Unreachable, match=r"answers neither MDP 0\.1 nor MDP 0\.2"):
        await examine(IsMute)


async def test_a_broker_that_is_ended_by_the_other_version_is_told_from_one_that_was_never_there(
    autojump_clock: object,
) -> None:
    with pytest.raises(Unreachable, match=r"after an answer in MDP 0\.1 and .*--rfc 7"):
        await examine(EndsAtTheOtherVersion)
    report = await examine(EndsAtTheOtherVersion, 7, 8, only=["[78]/[cm]*", "7/invalid/garbage"])
    assert ids(report, Outcome.FAIL) == {"7/invalid/garbage"}
    assert not report.alive
    assert "the broker has ended at 7/invalid/garbage" in list(lines(report))


async def test_what_a_broker_was_asked_before_it_ended_counts(autojump_clock: object) -> None:
    """One check of messages that are none runs at a time, when all others are done."""
    report = await examine(EndsAtTheOtherVersion, 7, 8)
    (culprit,) = report.ended_at
    assert culprit.startswith("7/invalid/")
    assert ids(report, Outcome.FAIL) == {culprit}
    assert {name.rpartition("/")[0] for name in ids(report, Outcome.NOT_RUN)} == {"7/invalid"}
    assert report.count(Outcome.PASS) > 30
    assert f"the broker has ended at {culprit}" in list(lines(report))


async def test_one_of_several_checks_has_ended_the_broker(autojump_clock: object) -> None:
    report = await examine(EndsAtASecondReady, 18)
    assert "18/worker/ready-twice" in report.ended_at
    assert ids(report, Outcome.FAIL) == set(report.ended_at)
    (last,) = [line for line in lines(report) if line.startswith("the broker has ended")]
    assert f"at one of {len(report.ended_at)} checks: 18/" in last
    assert last.endswith("--jobs 1 finds out which")
    assert "18/client/reply" in ids(report, Outcome.PASS)
    assert "18/invalid/garbage" in ids(report, Outcome.NOT_RUN)
    report = await examine(EndsAtASecondReady, 18, jobs=1)
    assert len(report.ended_at) == 1


# ---- how it is told


async def test_a_failure_tells_what_was_seen(autojump_clock: object) -> None:
    report = await examine(NeverBeats, only=["18/worker/heartbeats", "18/client/reply", "18/broker/order"])
    text = "\n".join(lines(report))
    assert (
        "fail          MUST    18/worker/heartbeats  Heartbeating: Both broker and worker MUST send heartbeats" in text
    )
    assert "seen: 0 heartbeats in 11.25 s" in text
    assert "pass          stated  18/client/reply" in text
    assert "not testable  MAY     18/broker/order" in text
    assert "MUST    1 fail" in text
    assert report.count(Outcome.FAIL, Level.MUST) == 1
    assert report.count(Outcome.FAIL, Level.SHOULD) == 0


async def test_a_terminal_gets_a_table(autojump_clock: object) -> None:
    report = await examine(NeverBeats, only=["18/worker/heartbeats", "18/client/reply"])
    file, terminal = io.StringIO(), Terminal()
    show(report, file)
    show(report, terminal)
    assert file.getvalue().splitlines() == list(lines(report))
    assert "18/worker/heartbeats" in terminal.getvalue()
    assert "━" in terminal.getvalue()


async def test_programs_get_json(autojump_clock: object) -> None:
    record = json.loads(to_json(await examine(NeverBeats, only=["7/worker/heartbeats", "7/worker/one-ready"])))
    assert record["spoken"] == [7, 8, 18]
    assert record["alive"] is True
    assert record["summary"] == {"pass": 0, "fail": 1, "not spoken": 0, "not testable": 1, "not run": 0}
    assert record["ended_at"] == []
    (failure,) = [each for each in record["results"] if each["outcome"] == "fail"]
    assert failure["id"] == "7/worker/heartbeats"
    assert failure["level"] == "MUST"
    assert failure["section"] == "Heartbeating"
    assert failure["clause"].startswith("Both broker and worker MUST")
    assert failure["seen"].startswith("0 heartbeats")


def test_frames_are_described() -> None:
    frames = [b"", b"MDPW02", b"\x05", b"\xff\x00", bytes(100)]
    assert describe(frames) == "['' 'MDPW02' 05 ff00 <100 bytes>]"
    assert describe([b"x"] * 12) == "['x' 'x' 'x' 'x' 'x' 'x' 'x' 'x' and 4 more]"

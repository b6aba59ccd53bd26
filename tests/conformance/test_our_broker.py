"""Our own broker passes all checks."""

from __future__ import annotations

from examine import ids

from zmdp_trio import Settings, open_broker
from zmdp_trio.conformance import Outcome, Report, Target, check_broker
from zmdp_trio.conformance._checks import CHECKS


async def examine_ours(endpoint: str, settings: Settings) -> Report:
    async with open_broker(endpoint, settings=settings) as broker:
        (bound,) = broker.endpoints
        return await check_broker(Target(bound, bound, settings.heartbeat))


def strict(heartbeat: float) -> Settings:
    """Settings under which a worker that is silent while busy is given up as soon as an idle one is."""
    return Settings(heartbeat=heartbeat, legacy_busy=3 * heartbeat, drain_grace=0)


async def test_it_passes_in_memory(autojump_clock: object) -> None:
    report = await examine_ours("memory://*", strict(heartbeat=2.5))
    assert ids(report, Outcome.FAIL) == set()
    assert ids(report, Outcome.PASS) == {each.id for each in CHECKS}


async def test_it_passes_over_tcp() -> None:
    """With an interval in which a busy machine does not stand still."""
    report = await examine_ours("tcp://127.0.0.1:*", strict(heartbeat=1.0))
    assert ids(report, Outcome.FAIL) == set()
    assert ids(report, Outcome.PASS) == {each.id for each in CHECKS}


async def test_by_default_it_is_patient_with_busy_workers(autojump_clock: object) -> None:
    """Most workers can't beat while they work; this is the one clause, a SHOULD, that it does not keep then."""
    report = await examine_ours("memory://*", Settings(drain_grace=0))
    assert ids(report, Outcome.FAIL) == {"7/worker/expiry-while-busy", "18/worker/expiry-while-busy"}

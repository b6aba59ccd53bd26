"""Finding out what a broker speaks, and checking that."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from typing import Final

import attrs
import trio

# These register their checks.
from . import _client_checks as _client_checks
from . import _invalid_checks as _invalid_checks
from . import _liveness_checks as _liveness_checks
from . import _mixed_checks as _mixed_checks
from . import _mmi_checks as _mmi_checks
from . import _worker_checks as _worker_checks
from ._bench import Bench, Target, open_bench
from ._checks import CHECKS, DIALECTS, Check, Stage
from ._clauses import UNTESTABLE, Level
from ._mmi_checks import DIRECTORY
from ._peer import PATIENCE
from ._verdict import NotAsSpecified, Unreachable, ungrouped

#: The RFCs that there are checks for.
RFCS: Final = (7, 8, 18)
#: Checks that run at a time, unless told otherwise: each has up to eight sockets, most have two or three.
JOBS: Final = 80
#: Seconds in which a broker that is there answers what it can answer itself.
_SOON: Final = 2.0
#: Seconds for one check beside the heartbeat intervals that it takes, and how many these are at most.
_LIMIT: Final = 60.0
_INTERVALS: Final = 12


class Outcome(enum.Enum):
    """What became of a check."""

    PASS = "pass"
    FAIL = "fail"
    #: The broker does not speak the dialect that it takes.
    NOT_SPOKEN = "not spoken"
    #: No peer of a broker can find out.
    NOT_TESTABLE = "not testable"
    #: The broker had ended before.
    NOT_RUN = "not run"


@attrs.frozen
class Result:
    """One line of the report.

    Attributes:
        id: such as `18/worker/ready-twice`.
        rfc: the number of the RFC.
        level: how strongly it binds.
        section: where in the RFC.
        clause: what it says.
        outcome: whether the broker keeps it.
        seen: what the broker did instead, or why the clause can't be tested.
    """

    id: str
    rfc: int
    level: Level
    section: str
    clause: str
    outcome: Outcome
    seen: str = ""


@attrs.frozen
class Report:
    """What was found out about a broker.

    Attributes:
        target: the broker.
        spoken: the RFCs that it answered to.
        results: by RFC and id.
        seconds: how long it took.
        alive: whether the broker was still there at the end.
        ended_at: the ids of the checks that were running when the broker ended: one of them has brought that about.
    """

    target: Target
    spoken: Sequence[int]
    results: Sequence[Result]
    seconds: float
    alive: bool
    ended_at: Sequence[str] = ()

    def count(self, outcome: Outcome, level: Level | None = None) -> int:
        """Count results."""
        return sum(each.outcome is outcome and level in (None, each.level) for each in self.results)


async def check_broker(
    target: Target,
    *,
    rfcs: Collection[int] = (),
    only: Collection[str] = (),
    jobs: int = JOBS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check a broker.

    Args:
        target: where it is.
        rfcs: check these, whether the broker seems to speak them or not; all that it speaks if empty.
        only: patterns for the ids of checks, as file names have; all if empty.
        jobs: how many checks to run at a time.
        progress: is told how many checks of how many are done.

    Raises:
        Unreachable: nobody is there, or nobody who speaks MDP.
        EndpointError: the endpoint is malformed, or this process may open no more sockets.
    """
    began = trio.current_time()
    spoken = await find_spoken(target, rfcs)
    assumed = spoken | set(rfcs)
    if not assumed & DIALECTS.keys():
        raise Unreachable(f"{target.clients}: answers neither MDP 0.1 nor MDP 0.2 within {PATIENCE:g} s")
    chosen = [each for each in CHECKS if each.rfc in (rfcs or RFCS) and _matches(each.id, only)]
    run = _Run(target, [each for each in chosen if each.needs <= assumed], jobs, progress)
    results = await run.all()
    alive = not run.ended_at and await _is_alive(target)
    for each in chosen:
        if not each.needs <= assumed:
            results.append(_result(each, Outcome.NOT_SPOKEN, _missing(each.needs - assumed)))
    results += (each for each in _untestable(rfcs or RFCS) if _matches(each.id, only))
    results.sort(key=lambda each: (each.rfc, each.id))
    return Report(target, sorted(spoken), results, trio.current_time() - began, alive, run.ended_at)


# ---- what it speaks


async def find_spoken(target: Target, rfcs: Collection[int] = ()) -> set[int]:
    """Return the numbers of the RFCs that the broker answers to, rightly or not.

    Args:
        target: where it is.
        rfcs: use no version of MDP but these have, if any of them is one: there are brokers that end when they hear
            another than their own.

    Raises:
        Unreachable: nobody is there, or no longer.
    """
    spoken: set[int] = set()
    for rfc in sorted(DIALECTS.keys() & set(rfcs)) or sorted(DIALECTS):
        try:
            spoken |= await _probe(target, rfc)
        except Unreachable as error:
            if not spoken:
                raise Unreachable(f"{target.clients}: {error}") from None
            raise Unreachable(
                f"{target.clients}: {error}, after an answer in MDP 0.1 and a question in MDP 0.2; "
                "if that has ended the broker, check it with --rfc 7 --rfc 8"
            ) from None
    return spoken


async def _probe(target: Target, rfc: int) -> set[int]:
    async with open_bench(target, DIALECTS[rfc]) as bench:
        await bench.worker()
        await bench.call(b"ping")
        if await _hears(bench, max(PATIENCE, 1.5 * bench.heartbeat)):
            return {rfc} | await _probe_directory(target, rfc)
    async with open_bench(target, DIALECTS[rfc]) as bench:
        await bench.client()  # raises if that was the broker's end
    return set()


async def _probe_directory(target: Target, rfc: int) -> set[int]:
    async with open_bench(target, DIALECTS[rfc]) as bench:
        await bench.call(bench.service.encode(), service=DIRECTORY)
        # It has just answered something else.
        return {8} if await _hears(bench, _SOON) else set()


async def _is_alive(target: Target) -> bool:
    try:
        async with open_bench(target, DIALECTS[18]) as bench:
            await bench.client()
    except Unreachable:
        return False
    return True


async def _hears(bench: Bench, within: float) -> bool:
    with trio.move_on_after(within):
        await bench.heard_anything.wait()
    return bench.heard_anything.is_set()


# ---- the checks


class _Run:
    """Checks that run side by side, the slow ones first, until all are done or the broker has ended.

    Attributes:
        ended_at: the ids of the checks that were running when the broker ended.
    """

    def __init__(
        self, target: Target, checks: Sequence[Check], jobs: int, progress: Callable[[int, int], None]
    ) -> None:
        self._target = target
        self._checks = checks
        self._progress = progress
        self._results: list[Result] = []
        self._jobs = jobs
        self._running: dict[Check, None] = {}
        self._scope = trio.CancelScope()
        self.ended_at: list[str] = []

    async def all(self) -> list[Result]:
        """Run them all, stage by stage."""
        with self._scope:
            for stage in Stage:
                batch = sorted((each for each in self._checks if each.stage is stage), key=lambda each: not each.slow)
                await self._batch(batch, 1 if stage is Stage.INVALID else self._jobs)
        done = {each.id for each in self._results}
        left = (each for each in self._checks if each.id not in done)
        return self._results + [_result(each, Outcome.NOT_RUN, "the broker had ended") for each in left]

    async def _batch(self, checks: Sequence[Check], jobs: int) -> None:
        limiter = trio.CapacityLimiter(jobs)
        with ungrouped():
            async with trio.open_nursery() as nursery:
                for each in checks:
                    await limiter.acquire_on_behalf_of(each)
                    nursery.start_soon(self._one, each, limiter)

    async def _one(self, check: Check, limiter: trio.CapacityLimiter) -> None:
        self._running[check] = None
        try:
            result = await _judge(self._target, check)
            if result.outcome is Outcome.FAIL and not await _is_alive(self._target):
                self._give_up()
                return
        finally:
            del self._running[check]
            limiter.release_on_behalf_of(check)
        self._results.append(result)
        self._progress(len(self._results), len(self._checks))

    def _give_up(self) -> None:
        """The broker has ended: of the checks that are running now, nobody knows what they would have found."""
        if self.ended_at:
            return
        self.ended_at = sorted(each.id for each in self._running)
        others = len(self._running) - 1
        seen = "the broker has ended" + (f"; {others} other checks were running" if others else "")
        self._results += [_result(each, Outcome.FAIL, seen) for each in self._running]
        self._scope.cancel()
        self._progress(len(self._checks), len(self._checks))


async def _judge(target: Target, check: Check) -> Result:
    try:
        with trio.fail_after(_LIMIT + _INTERVALS * target.heartbeat):
            async with open_bench(target, check.dialect) as bench:
                await check.body(bench)
    except NotAsSpecified as seen:
        return _result(check, Outcome.FAIL, str(seen))
    except Unreachable as error:
        return _result(check, Outcome.FAIL, f"can't connect: {error}")
    except trio.TooSlowError:
        return _result(check, Outcome.FAIL, "took too long")
    return _result(check, Outcome.PASS)


def _result(check: Check, outcome: Outcome, seen: str = "") -> Result:
    clause = check.clause
    return Result(check.id, check.rfc, clause.level, clause.section, check.text, outcome, seen)


def _missing(rfcs: Collection[int]) -> str:
    return "the broker does not answer to RFC " + " and ".join(map(str, sorted(rfcs)))


def _untestable(rfcs: Collection[int]) -> list[Result]:
    return [
        Result(f"{rfc}/{name}", rfc, clause.level, clause.section, text, Outcome.NOT_TESTABLE, clause.why)
        for name, clause in UNTESTABLE
        for rfc, text in clause.text.items()
        if rfc in rfcs
    ]


def _matches(name: str, patterns: Collection[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

"""What must hold after a run, whatever was killed in it.  Each check yields a sentence for each violation."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from .load import Kind, Outcome, State

#: How a request may fail that was not to be run again, by the name of the exception, and why.
WORKER_LOST: Final = {"WorkerLost": "the worker that had it was killed"}
BROKER_LOST: Final = {"BrokerLost": "the broker that had it was killed, or none was there for `connect` seconds"}
NOT_RUN: Final = {
    "Unavailable": "the last worker of its service was just lost",
    "ServiceNotFound": "a broker that has just been started had no worker yet",
}

#: What `received` is the sum of.
PARTS: Final = ("refused", "replied", "failed", "cancelled", "expired", "lost", "queued", "running", "cancelling")


@attrs.define
class Fault:
    """A process that was killed.  Times are on Trio's clock."""

    role: str
    name: str
    began: float
    #: When another one was ready in its place.
    ended: float = math.inf

    @property
    def seconds(self) -> float:
        """How long it was away."""
        return self.ended - self.began


@attrs.frozen
class Evidence:
    """All that is known when a run is over."""

    outcomes: Sequence[Outcome]
    #: What the workers noted: executions by job.
    executions: Mapping[int, Sequence[str]]
    faults: Sequence[Fault]
    #: How requests may fail in this run: names of exceptions.
    allowed: Mapping[str, str]
    #: Seconds that may pass until a loss has been noticed everywhere.
    notice: float
    #: Whether requests that share a key always meet: several brokers know nothing of each other's keys.
    keys_meet: bool = True

    def outage(self, role: str, outcome: Outcome) -> bool:
        """Whether a process of this role was away, or had just been, at some moment of a request."""
        return any(
            fault.role == role and fault.began <= outcome.ended and outcome.started <= fault.ended + self.notice
            for fault in self.faults
        )

    def killed(self, executions: Sequence[str]) -> bool:
        """Whether a worker that ran one of these was killed, at whatever time."""
        workers = {execution.partition("/")[0] for execution in executions}
        return any(fault.name in workers for fault in self.faults)


def violations(evidence: Evidence) -> list[str]:
    """Return everything that does not hold."""
    checks = (check_outcomes, check_failures, check_streams, check_executions, check_keys)
    return [violation for check in checks for violation in check(evidence)]


def check_outcomes(evidence: Evidence) -> Iterator[str]:
    """Every request has an outcome; one that may run again has its reply, unless it had begun to reply."""
    for outcome in evidence.outcomes:
        order = outcome.order
        if outcome.state is State.OPEN:
            yield f"{_name(outcome)} has no outcome"
        elif outcome.lost and order.retry and not outcome.partials:
            yield f"{_name(outcome)} was not answered: {outcome.error}: {outcome.message}"


def check_failures(evidence: Evidence) -> Iterator[str]:
    """Who fails does so with one of the types that are allowed, and for a reason: something was killed."""
    for outcome in evidence.outcomes:
        if not outcome.lost:
            continue
        what = f"{_name(outcome)}: {outcome.error}: {outcome.message}"
        if outcome.error not in evidence.allowed:
            yield f"{what} (not to be expected here)"
        elif not _has_reason(outcome, evidence):
            yield f"{what} (nothing was killed that explains it)"


def check_streams(evidence: Evidence) -> Iterator[str]:
    """Partial replies come in order, none twice, and of a stream that was answered, all of them."""
    for outcome in evidence.outcomes:
        job, partials = outcome.order.job, outcome.partials
        whole = outcome.order.kind is Kind.STREAM and outcome.state is State.ANSWERED
        if partials != list(range(job.chunks if whole else len(partials))):
            yield f"{_name(outcome)}: {job.chunks} partial replies were wanted, {partials} came"


def check_executions(evidence: Evidence) -> Iterator[str]:
    """No job began more often than its requests allow; every reply is that of an execution of its job."""
    allowed: Counter[int] = Counter()
    for outcome in evidence.outcomes:
        order = outcome.order
        allowed[order.job.number] += 1 + order.retry
        executions = evidence.executions.get(order.job.number, ())
        if outcome.state is State.ANSWERED and outcome.reply not in executions:
            yield f"{_name(outcome)}: the reply is of {outcome.reply!r}, the job was executed by {list(executions)}"
        if outcome.error in NOT_RUN and not (order.retry or order.key or outcome.partials) and executions:
            yield f"{_name(outcome)}: {outcome.error}, and yet it was executed by {list(executions)}"
    for job, executions in evidence.executions.items():
        if len(executions) > allowed[job]:
            yield f"job {job} was executed {len(executions)} times, {allowed[job]} allowed: {list(executions)}"


def check_keys(evidence: Evidence) -> Iterator[str]:
    """Who shares a key shares the outcome, where nobody was told of a failure, and somebody can remember.

    A broker that was restarted learns a key from the worker that ran it: if that one was killed too, nobody can.
    """
    if not evidence.keys_meet:
        return
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in evidence.outcomes:
        if outcome.order.key is not None:
            groups[outcome.order.key].append(outcome)
    for key, group in groups.items():
        first = min(group, key=lambda outcome: outcome.started)
        last = max(group, key=lambda outcome: outcome.ended)
        span = attrs.evolve(first, ended=last.ended)
        executions = evidence.executions.get(first.order.job.number, ())
        forgotten = evidence.outage("broker", span) and evidence.killed(executions)
        if forgotten or any(outcome.state is not State.ANSWERED for outcome in group):
            continue
        if len({outcome.reply for outcome in group}) > 1:
            yield f"key {key!r}: different replies: {[outcome.reply for outcome in group]}"
        if not first.order.retry and len(executions) > 1:
            yield f"key {key!r}: executed by {list(executions)}"


def check_counters(who: str, statistics: Mapping[str, Any]) -> Iterator[str]:
    """A broker's counters add up, for each service and in all, at any moment."""
    for name, counters in [*statistics["services"].items(), ("all services", statistics["total"])]:
        total = sum(counters[part] for part in PARTS)
        if counters["received"] != total:
            yield f"{who}, {name}: {counters['received']} received, which are not {total}: {counters}"


def check_at_rest(who: str, statistics: Mapping[str, Any]) -> Iterator[str]:
    """Nobody holds a request any more."""
    table = statistics.get("total", statistics)
    for what in ("queued", "running", "cancelling", "outstanding", "waiting"):
        if table.get(what):
            yield f"{who}: {table[what]} {what} at the end"


def check_protocol(who: str, statistics: Mapping[str, Any]) -> Iterator[str]:
    """No peer said what was not to be expected: all of them are ours."""
    if statistics["protocol_errors"]:
        yield f"{who}: {statistics['protocol_errors']} protocol errors"


def _has_reason(outcome: Outcome, evidence: Evidence) -> bool:
    """Whether something was killed that a failure can be put down to; a worker by its name."""
    worker = re.search(r"worker-\d+", outcome.message)
    if worker is not None:
        began = [fault.began for fault in evidence.faults if fault.name == worker[0]]
        return any(outcome.started - evidence.notice <= at <= outcome.ended for at in began)
    if outcome.error == "Unavailable" and evidence.outage("worker", outcome):
        return True
    return evidence.outage("broker", outcome)


def _name(outcome: Outcome) -> str:
    order = outcome.order
    options = f" retry={order.retry}" * bool(order.retry) + f" key={order.key!r}" * (order.key is not None)
    return f"request {order.number} ({order.kind.value}{options})"

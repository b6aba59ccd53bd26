"""After a restart: claims, holdings, and what becomes of those that do not meet."""

from __future__ import annotations

from typing import Any

import pytest
from stage import BROKER, FakeBroker, Speaker, Stage, ask, check_counters, hello, session_id, start, started

from zmdp_trio._core.broker import recovery
from zmdp_trio._core.broker.session import Session
from zmdp_trio._core.client import ClientMachine
from zmdp_trio._core.link import Ledger
from zmdp_trio._core.shared import fingerprint
from zmdp_trio._core.worker import Counters, WorkerEvent, WorkerMachine
from zmdp_trio._core.worker import recovery as worker_recovery
from zmdp_trio._core.worker.execution import KEPT_BYTES, KEPT_MESSAGES, Execution
from zmdp_trio._core.worker.leases import Lease
from zmdp_trio._core.worker.outcomes import Outcomes
from zmdp_trio._errors import BrokerLost, Code, WorkerLost
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c

OTHER = b"epoch-2"
PAYLOAD = fingerprint(ask(0, body=b"?"))


def digest(name: str) -> bytes:
    """What a client of this name is known by to workers."""
    return Session.of(hello(name), [], {}, Ledger(), Settings()).digest


def after_restart(**settings: Any) -> tuple[Stage, Speaker, Speaker]:
    """A broker whose peers were with another one before: a worker of `echo`, and a client."""
    stage = Stage(**settings)
    worker = stage.worker("echo", slots=4, epoch=OTHER)
    client = stage.client(epoch=OTHER)
    return stage, worker, client


def claim(id: int, received: int | None = 0, **fields: Any) -> c.Claim:
    return c.Claim(id, "echo", received, **{"messages": 64, "bytes": 2**20, **fields})


def held(call: int, caller: str = "client", **fields: Any) -> c.Holding:
    return c.Holding(digest(caller), call, "echo", **fields)


def keyed(call: int, caller: str = "client", **fields: Any) -> c.Holding:
    return held(call, caller, key="k", payload=PAYLOAD, **fields)


def empty(stage: Stage) -> None:
    """Nobody is left with anything."""
    broker = stage.broker
    check_counters(broker)
    assert (broker._claims, broker._holdings, broker._awaited) == ({}, {}, {})
    assert (broker._waiting, broker._waiting_bytes) == (0, 0)
    assert not any(session.requests or session.held or session.holdings for session in broker.sessions())
    assert all(sum(numbers) == 0 for numbers in stage.held().values())


# ---- a claim and a holding meet


@pytest.mark.parametrize("first", ["claim", "holding"])
def test_they_meet_whoever_comes_first(first: str) -> None:
    stage, worker, client = after_restart()
    if first == "claim":
        client.send(claim(7, received=3, left=5.0))
        worker.send(c.Holdings([held(7)]))
    else:
        worker.send(c.Holdings([held(7)]))
        client.send(claim(7, received=3, left=5.0))
    [resume] = worker.take(c.Resume)
    assert resume == c.Resume(resume.id, digest("client"), 7, 3, 64, 2**20, 5.0)
    assert stage.held() == {"echo": (0, 1, 0)}
    check_counters(stage.broker)
    worker.send(c.Partial(resume.id, 0, b"p"), c.Final(resume.id, 0, b"!"))
    assert client.take() == [c.Partial(7, 0, b"p"), c.Final(7, 0, b"!")]
    empty(stage)


def test_a_recovered_request_takes_a_slot() -> None:
    stage, worker, client = after_restart()
    worker.send(c.Slots("echo", 1), c.Holdings([held(7)]))
    client.send(claim(7), ask(8))
    [resume] = worker.take((c.Resume, c.Request))
    assert stage.held() == {"echo": (1, 1, 0)}
    worker.send(c.Final(resume.id, 0, b"!"))
    assert len(worker.take(c.Request)) == 1


def test_a_worker_that_drains_still_answers() -> None:
    stage = Stage()
    worker = stage.worker(name="leaving", offers=[], epoch=OTHER)
    client = stage.client(epoch=OTHER)
    worker.send(c.Holdings([held(7)]), c.Drain())
    client.send(claim(7))
    [resume] = worker.take(c.Resume)
    worker.send(c.Final(resume.id, 0, b"!"))
    assert client.take(c.Final) == [c.Final(7, 0, b"!")]
    assert stage.services() == []
    empty(stage)


def test_what_is_said_of_a_claim_counts_when_it_is_answered() -> None:
    stage, worker, client = after_restart()
    client.send(claim(7, messages=1, bytes=10))
    client.send(c.Credit(7, 2, 20), c.Credit(7, 0, 0, 9.0), c.Heartbeat([c.Held(7, 4.0)]))
    stage.advance(1.0)
    worker.send(c.Holdings([held(7)]))
    [resume] = worker.take(c.Resume)
    assert (resume.messages, resume.bytes, resume.left) == (3, 30, 3.0)
    worker.send(*[c.Partial(resume.id, 0, b"p")] * 3)
    assert len(client.take(c.Partial)) == 3
    worker.send(c.Partial(resume.id, 0, b"p"))
    assert worker.dropped, "its credit was used up"


def test_a_claim_can_be_left() -> None:
    stage, worker, client = after_restart()
    client.send(claim(7), c.Cancel(7))
    worker.send(c.Holdings([held(7)]))
    assert worker.take(c.Resume) == []
    stage.advance(10.0)
    empty(stage)


def test_a_claim_of_a_request_that_is_there_is_a_breach() -> None:
    _, _, client = after_restart()
    client.send(ask(7), claim(7))
    assert client.dropped


def test_clients_that_end_leave_their_claims() -> None:
    stage, worker, client = after_restart()
    client.send(claim(7), claim(8, key="k"))
    client.send(c.Goodbye())
    worker.send(c.Holdings([held(7)]))
    assert worker.take(c.Resume) == []
    stage.advance(10.0)
    empty(stage)


# ---- who does not come


def test_a_claim_that_nobody_answers_ends_after_the_resume_limit() -> None:
    stage, _, client = after_restart()
    stage.advance(3.0)
    client.send(claim(7))
    stage.advance(9.9)
    assert client.take(c.Error) == []
    stage.advance(0.2)
    [error] = client.take(c.Error)
    assert (error.id, error.code, error.reason) == (7, "UNAVAILABLE", "broker-lost")
    empty(stage)


def test_what_nobody_claims_is_forgotten() -> None:
    stage, worker, _ = after_restart()
    worker.send(c.Holdings([held(7), keyed(8)]))
    stage.advance(10.0)
    assert worker.take(c.Resume) == []
    empty(stage)


def test_a_worker_that_is_lost_takes_its_holdings_along() -> None:
    stage, worker, client = after_restart()
    worker.send(c.Holdings([held(7), keyed(8)]))
    worker.vanish()
    client.send(claim(7), claim(8, key="k"))
    stage.advance(10.0)
    assert [error.id for error in client.take(c.Error)] == [7, 8]
    empty(stage)


@pytest.mark.parametrize("fault", [claim(7, key="k" * 256), c.Claim(7, "s" * 256, 0, 64, 64)])
def test_claims_that_can_t_have_been_sent_are_lost_at_once(fault: c.Claim) -> None:
    stage, _, client = after_restart()
    client.send(fault)
    assert [error.reason for error in client.take(c.Error)] == ["broker-lost"]
    empty(stage)


def test_claims_count_among_a_client_s_requests() -> None:
    _, _, client = after_restart(client_requests=2)
    client.send(claim(1), claim(2), claim(3))
    assert [error.id for error in client.take(c.Error)] == [3]


@pytest.mark.parametrize(
    "holding",
    [
        c.Holding(b"x", 1, ""),
        c.Holding(b"x", 1, "s" * 256),
        c.Holding(b"x" * 256, 1, "echo"),
        c.Holding(b"x", 1, "echo", key="k" * 256),
    ],
    ids=["no service", "a long service", "a long caller", "a long key"],
)
def test_holdings_that_can_t_be_are_a_breach(holding: c.Holding) -> None:
    _, worker, _ = after_restart()
    worker.send(c.Holdings([holding]))
    assert worker.dropped


def test_holdings_have_a_limit_per_worker_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, worker, client = after_restart()
    monkeypatch.setattr(recovery, "MAX_HOLDINGS", 3)
    monkeypatch.setattr(recovery, "MAX_ALL_HOLDINGS", 2)
    worker.send(c.Holdings([held(1), held(2), held(3)]))
    client.send(claim(2), claim(3))
    assert [resume.call for resume in worker.take(c.Resume)] == [2]
    worker.send(c.Holdings([held(4), held(5), held(6)]))
    assert worker.dropped
    stage.advance(10.0)
    empty(stage)


def test_the_first_of_two_workers_that_hold_the_same_is_believed() -> None:
    stage, worker, client = after_restart()
    other = stage.worker("echo", name="other", epoch=OTHER)
    worker.send(c.Holdings([held(7)]))
    other.send(c.Holdings([held(7)]))
    client.send(claim(7))
    assert len(worker.take(c.Resume)) == 1
    assert other.take(c.Resume) == []


def test_a_request_that_shares_a_recovered_execution_runs_it_again_where_it_may() -> None:
    """It is no less a request with `retry` than one that came first."""
    stage, worker, client = after_restart()
    worker.send(c.Holdings([keyed(7)]))
    client.send(claim(7, None, key="k"))
    assert len(worker.take(c.Resume)) == 1
    joiner = stage.client("joiner")
    joiner.send(ask(1, key="k", retry=1))
    assert stage.broker.memory > 0
    other = stage.worker("echo", name="other")
    worker.vanish()
    [again] = other.take(c.Request)
    assert (again.key, again.body) == ("k", b"?")
    other.send(c.Final(again.id, 0, b"!"))
    assert client.take(c.Final) == [c.Final(7, 0, b"!")]
    assert joiner.take(c.Final) == [c.Final(1, 0, b"!")]
    empty(stage)


def test_a_request_that_waited_for_its_key_runs_again_where_it_may() -> None:
    stage, worker, client = after_restart()
    worker.send(c.Holdings([keyed(7, "somebody")]))
    client.send(ask(1, key="k", retry=1))
    stage.advance(5.1)
    assert len(worker.take(c.Resume)) == 1
    worker.vanish()
    other = stage.worker("echo", name="other")
    [again] = other.take(c.Request)
    other.send(c.Final(again.id, 0, b"!"))
    assert client.take(c.Final) == [c.Final(1, 0, b"!")]
    empty(stage)


@pytest.mark.parametrize("sent", [True, False], ids=["request", "claim"])
def test_a_deadline_that_was_another_callers_does_not_end_it(sent: bool) -> None:
    """The worker gave it up for the one that it knew; whoever has more time is not told that it is over."""
    stage, worker, client = after_restart()
    worker.send(c.Holdings([keyed(7, "hasty", ended=1.0)]))
    client.send(ask(1, key="k") if sent else claim(1, None, key="k"))
    stage.advance(5.1)
    [resume] = worker.take(c.Resume)
    worker.send(c.Error(resume.id, "DEADLINE_EXCEEDED", "deadline-exceeded", "late"))
    if sent:
        [again] = worker.take(c.Request)
        worker.send(c.Final(again.id, 0, b"!"))
        assert client.take(c.Final) == [c.Final(1, 0, b"!")]
    else:
        assert [error.reason for error in client.take(c.Error)] == ["broker-lost"]
    empty(stage)


# ---- what becomes of it then


def test_a_recovered_request_can_t_run_elsewhere() -> None:
    stage, worker, client = after_restart()
    stage.worker("echo", name="other")
    worker.send(c.Holdings([held(7), held(8)]))
    client.send(claim(7), claim(8))
    first, _ = worker.take(c.Resume)
    worker.send(c.Reject(first.id))
    assert [(error.id, error.reason) for error in client.take(c.Error)] == [(7, "broker-lost")]
    worker.vanish()
    assert [(error.id, error.reason) for error in client.take(c.Error)] == [(8, "worker-lost")]
    empty(stage)


def test_a_recovered_request_can_be_cancelled() -> None:
    stage, worker, client = after_restart()
    worker.send(c.Holdings([held(7)]))
    client.send(claim(7), c.Cancel(7))
    resume, cancel = worker.take((c.Resume, c.Cancel))
    assert cancel.id == resume.id
    assert stage.held() == {"echo": (0, 0, 1)}
    worker.send(c.Error(resume.id, "CANCELLED", "cancelled", ""))
    empty(stage)


# ---- keys


def test_the_caller_whose_request_it_was_comes_first() -> None:
    stage, worker, client = after_restart()
    other = stage.client("other", epoch=OTHER)
    late = stage.client("late")
    other.send(claim(3, None, key="k"))
    worker.send(c.Holdings([keyed(7)]))
    late.send(ask(5, key="k"))
    assert worker.take(c.Resume) == []
    client.send(claim(7, received=2, key="k"))
    [resume] = worker.take(c.Resume)
    assert resume.received == 2
    worker.send(c.Partial(resume.id, 0, b"p"), c.Final(resume.id, 0, b"!"))
    assert client.take() == [c.Partial(7, 0, b"p"), c.Final(7, 0, b"!")]
    assert other.take() == [c.Final(3, 0, b"!")]
    assert late.take() == [c.Final(5, 0, b"!")]
    late.send(ask(6, key="k"))
    assert late.take() == [c.Final(6, 0, b"!")]
    empty(stage)


def test_when_that_caller_does_not_come_the_others_are_served() -> None:
    stage, worker, client = after_restart()
    other = stage.client("other", epoch=OTHER)
    worker.send(c.Holdings([keyed(7)]))
    other.send(claim(3, None, key="k", left=20.0), claim(4, 1, key="k"))
    stage.advance(4.9)
    assert worker.take(c.Resume) == []
    stage.advance(0.2)
    [resume] = worker.take(c.Resume)
    assert (resume.call, resume.received, resume.left) == (7, None, 15.0)
    assert [error.id for error in other.take(c.Error)] == [4], "nobody has the partial replies that it missed"
    worker.send(c.Partial(resume.id, 0, b"p"))
    assert worker.take(c.Credit) == [c.Credit(resume.id, 1, 1)], "nobody reads"
    client.send(claim(7, 2, key="k"), claim(8, None, key="k"))
    worker.send(c.Final(resume.id, 0, b"!"))
    assert other.take(c.Final) == [c.Final(3, 0, b"!")]
    assert client.take(c.Final) == [c.Final(8, 0, b"!")]
    stage.advance(10.0)
    assert [error.id for error in client.take(c.Error)] == [7]
    empty(stage)


def test_who_asks_for_a_key_that_is_ripe_is_served_at_once() -> None:
    stage, worker, client = after_restart()
    worker.send(c.Holdings([keyed(7, "somebody", ended=60.0)]))
    stage.advance(30.0)
    client.send(ask(1, body=b"another", key="k"))
    assert [error.code for error in client.take(c.Error)] == ["INVALID_ARGUMENT"]
    client.send(ask(2, key="k"))
    [resume] = worker.take(c.Resume)
    worker.send(c.Final(resume.id, 0, b"!"))
    assert client.take(c.Final) == [c.Final(2, 0, b"!")]
    empty(stage)


def test_a_key_s_outcome_is_held_for_the_rest_of_its_window() -> None:
    stage, worker, client = after_restart()
    worker.send(c.Holdings([keyed(7, "somebody", ended=590.0)]))
    stage.advance(9.0)
    assert len(stage.broker._holdings) == 1
    stage.advance(1.0)
    empty(stage)
    client.send(ask(2, key="k"))
    assert len(worker.take(c.Request)) == 1, "it runs anew"


def test_a_key_that_nobody_brings_is_run_when_they_all_had_time() -> None:
    stage, worker, client = after_restart()
    other = stage.client("other", epoch=OTHER)
    other.send(claim(3, None, key="k"), claim(4, 1, key="k"))
    client.send(ask(1, key="k", left=60.0, messages=1), ask(2, key="k"), ask(9, body=b"another", key="k"))
    assert [error.id for error in client.take(c.Error)] == [9]
    client.send(c.Credit(1, 4, 4), c.Heartbeat([c.Held(1, 30.0)]))
    stage.advance(9.9)
    assert worker.take(c.Request) == []
    stage.advance(0.2)
    [request] = worker.take(c.Request)
    assert (request.key, request.messages) == ("k", 5)
    assert request.left == pytest.approx(20.0)
    worker.send(c.Final(request.id, 0, b"!"))
    assert client.take(c.Final) == [c.Final(1, 0, b"!"), c.Final(2, 0, b"!")]
    assert other.take(c.Final) == [c.Final(3, 0, b"!")]
    client.send(ask(10, key="l"))
    [request] = worker.take(c.Request)
    assert request.key == "l", "from now on, new keys are run at once"
    worker.send(c.Final(request.id, 0, b"!"))
    stage.advance(10.0)
    empty(stage)


def test_claims_of_a_key_that_nobody_brings_are_lost() -> None:
    stage, _, client = after_restart()
    client.send(claim(3, None, key="k"))
    stage.advance(10.0)
    assert [error.reason for error in client.take(c.Error)] == ["broker-lost"]
    empty(stage)


def test_a_broker_that_was_not_restarted_waits_for_no_key() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, key="k"))
    assert len(worker.take(c.Request)) == 1


def test_when_the_worker_is_lost_its_key_is_awaited_further() -> None:
    stage, worker, client = after_restart()
    other = stage.worker("echo", name="other", epoch=OTHER)
    worker.send(c.Holdings([keyed(7, "somebody")]))
    client.send(claim(3, None, key="k"))
    worker.vanish()
    stage.advance(6.0)
    other.send(c.Holdings([keyed(8, "somebody else")]))
    stage.advance(5.0)
    [resume] = other.take(c.Resume)
    other.send(c.Final(resume.id, 0, b"!"))
    assert client.take(c.Final) == [c.Final(3, 0, b"!")]
    empty(stage)


def test_a_key_has_one_execution_though_two_workers_hold_it() -> None:
    stage, worker, client = after_restart()
    other = stage.worker("echo", name="other", epoch=OTHER)
    worker.send(c.Holdings([keyed(7)]))
    other.send(c.Holdings([keyed(8)]))
    client.send(claim(7, key="k"))
    [resume] = worker.take(c.Resume)
    third = stage.worker("echo", name="third", epoch=OTHER)
    third.send(c.Holdings([keyed(9, "somebody", ended=1.0), keyed(10, "somebody")]))
    worker.send(c.Final(resume.id, 0, b"!"))
    stage.advance(10.0)
    assert other.take(c.Resume) == third.take(c.Resume) == []
    empty(stage)


def test_a_request_that_waits_for_its_key_waits_no_longer_than_its_deadline() -> None:
    stage, worker, client = after_restart()
    client.send(ask(1, key="a", left=3.0), ask(2, key="b", left=3.0), ask(3, key="c", left=20.0))
    client.send(c.Heartbeat([c.Held(2, 4.0)]), c.Credit(3, 0, 0, 5.0))
    ends = []
    for _ in range(6):
        stage.advance(1.0)
        ends.append([(error.id, error.code) for error in client.take(c.Error)])
    late = "DEADLINE_EXCEEDED"
    assert ends == [[], [], [(1, late)], [(2, late)], [(3, late)], []]
    stage.advance(10.0)
    assert worker.take(c.Request) == []
    empty(stage)


def test_a_claim_of_a_key_waits_as_long_as_any() -> None:
    stage, _, client = after_restart()
    stage.advance(9.0)
    client.send(claim(3, None, key="k"))
    stage.advance(9.9)
    assert client.take(c.Error) == []
    stage.advance(0.2)
    assert [error.id for error in client.take(c.Error)] == [3]


def test_only_claims_are_given_what_a_worker_has_and_only_of_their_own_kind() -> None:
    """A client that uses its ids again after a restart gets no reply to something else."""
    _, worker, client = after_restart()
    client.send(ask(7, key="k"), claim(8, key="k"))
    worker.send(c.Holdings([held(7), held(8), c.Holding(digest("client"), 9, "other")]))
    client.send(claim(9))
    assert worker.take(c.Resume) == []


def test_who_joined_and_reads_has_the_outcome_all_the_same() -> None:
    """The first caller gets the partial replies, before a restart and after it."""
    stage, worker, client = after_restart()
    other = stage.client("other", epoch=OTHER)
    worker.send(c.Holdings([keyed(7)]))
    other.send(claim(3, 0, key="k"))
    client.send(claim(7, 2, key="k"))
    other.send(claim(4, 0, key="k"))
    [resume] = worker.take(c.Resume)
    worker.send(c.Final(resume.id, 0, b"!"))
    assert other.take(c.Final) == [c.Final(3, 0, b"!"), c.Final(4, 0, b"!")]
    empty(stage)


def test_a_service_is_looked_for_until_its_workers_may_have_come_back() -> None:
    stage = Stage()
    client = stage.client(epoch=OTHER)
    client.send(ask(1), ask(2, "unknown"))
    stage.advance(9.0)
    assert client.take() == []
    worker = stage.worker("echo", epoch=OTHER)
    [request] = worker.take(c.Request)
    worker.send(c.Final(request.id, 0, b"!"))
    stage.advance(1.0)
    assert [type(command) for command in client.take()] == [c.Final, c.Error]
    client.send(ask(3, "unknown"))
    stage.advance(1.0)
    assert [error.code for error in client.take(c.Error)] == ["NOT_FOUND"], "from now on as quickly as ever"
    empty(stage)


def test_requests_that_wait_for_their_keys_have_limits() -> None:
    _, _, client = after_restart(queue_requests=2)
    client.send(ask(1, key="a"), ask(2, key="b"), ask(3, key="c"))
    assert [error.id for error in client.take(c.Error)] == [3]
    _, _, client = after_restart(queue_bytes=10)
    client.send(ask(1, body=b"x" * 20, key="a"), ask(2, key="b"))
    assert [error.id for error in client.take(c.Error)] == [2]
    _, _, client = after_restart(client_requests=1)
    client.send(ask(1, key="a"), ask(2, key="b"))
    assert [error.id for error in client.take(c.Error)] == [2]


# ---- the worker


def serving(**settings: Any) -> tuple[Stage, FakeBroker, WorkerMachine]:
    broker = FakeBroker()
    stage = Stage(fake=broker, **settings)
    machine = stage.worker_machine({"echo": 4})
    stage.connect(machine)
    return stage, broker, machine


def order(id: int, **fields: Any) -> c.Request:
    """A REQUEST as a broker sends it."""
    return ask(id, caller=b"anna", call=100 + id, **fields)


def restart(stage: Stage, broker: FakeBroker, machine: Any, epoch: bytes = OTHER) -> None:
    """Another broker comes in place of this one."""
    stage.disconnect(machine)
    broker._welcome = {"epoch": epoch}
    stage.connect(machine)


def resume(id: int, call: int, received: int | None = 0, **fields: Any) -> c.Resume:
    return c.Resume(id, b"anna", call, received, **{"messages": 64, "bytes": 2**20, **fields})


def test_a_worker_tells_what_runs_and_what_ended_lately() -> None:
    stage, broker, machine = serving()
    broker.send(order(1), order(2, key="k"), order(3), order(4, key="k2"))
    stage.flush()
    running, running_keyed, ended, ended_keyed = started(machine)
    machine.finish(ended, 0, b"!")
    machine.finish(ended_keyed, 0, b"!")
    stage.advance(1.0)
    restart(stage, broker, machine)
    [holdings] = broker.take(c.Holdings)
    assert [(each.call, each.key, each.payload is not None, each.ended) for each in holdings.holdings] == [
        (103, None, False, 1.0),
        (104, "k2", True, 1.0),
        (101, None, False, None),
        (102, "k", True, None),
    ]
    assert machine.counters()["echo"].running == 2
    broker.send(resume(1, 101), resume(2, 103), resume(3, 104))
    stage.flush()
    assert broker.take(c.Final) == [c.Final(2, 0, b"!"), c.Final(3, 0, b"!")]
    machine.finish(running, 0, b"now")
    assert machine._leases["echo"].running == 1
    stage.flush()
    assert broker.take(c.Final) == [c.Final(1, 0, b"now")]
    stage.advance(10.0)
    assert running_keyed.state.name == "CANCELLING", "nobody claimed it"
    machine.fail(running_keyed, Code.CANCELLED, "")
    assert machine.running == machine._leases["echo"].running == 0
    assert len(machine._timers) == 0


def test_what_a_caller_has_not_got_is_sent_again() -> None:
    stage, broker, machine = serving()
    broker.send(order(1, messages=10))
    stage.flush()
    [execution] = started(machine)
    for i in range(6):
        machine.partial(execution, 0, b"%d" % i)
    stage.flush()
    stage.disconnect(machine)
    for i in range(6, 10):
        machine.partial(execution, 0, b"%d" % i)
    assert not execution.has_credit
    broker._welcome = {"epoch": OTHER}
    broker.take()
    stage.connect(machine)
    assert broker.take(c.Partial) == []
    machine.take_events()
    broker.send(resume(77, 101, received=4, messages=8, bytes=100, left=3.0))
    stage.flush()
    assert broker.take(c.Partial) == [c.Partial(77, 0, b"%d" % i) for i in range(4, 10)]
    assert (execution.messages, execution.bytes, execution.deadline) == (2, 94, stage.now + 3.0)
    assert [event for event, _ in machine.take_events()] == [WorkerEvent.CREDIT, WorkerEvent.DEADLINE]
    machine.finish(execution, 0, b"!")
    restart(stage, broker, machine, b"epoch-3")
    broker.take()
    broker.send(resume(5, 101, received=9))
    stage.flush()
    assert broker.take() == [c.Partial(5, 0, b"9"), c.Final(5, 0, b"!")]


def test_the_outcome_of_a_key_that_nobody_claimed_is_told_over_the_next_connection_too() -> None:
    stage, broker, machine = serving()
    broker.send(order(1, key="k"))
    stage.flush()
    [execution] = started(machine)
    restart(stage, broker, machine)
    machine.finish(execution, 0, b"!")
    broker.take()
    restart(stage, broker, machine)
    [holdings] = broker.take(c.Holdings)
    assert [each.key for each in holdings.holdings] == ["k"]


def test_a_worker_tells_no_more_than_a_broker_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_recovery, "MAX_HOLDINGS", 2)
    stage, broker, machine = serving()
    broker.send(order(1), order(2), order(3), order(4))
    stage.flush()
    _, *ended = started(machine)
    for execution in ended:
        machine.finish(execution, 0, b"!")
    restart(stage, broker, machine)
    [holdings] = broker.take(c.Holdings)
    assert [each.call for each in holdings.holdings] == [104, 101]


def test_what_its_caller_has_read_need_not_be_kept() -> None:
    stage, broker, machine = serving()
    broker.send(order(1, messages=4))
    stage.flush()
    [execution] = started(machine)
    for i in range(20):
        machine.partial(execution, 0, b"%d" % i)
        if i % 4 == 3:
            broker.send(c.Credit(1, 4, 4))
            stage.flush()
    assert (execution.first, execution.sent_bytes) == (20, 0)
    machine.partial(execution, 0, b"x")
    restart(stage, broker, machine)
    broker.send(resume(2, 101, received=19))
    stage.flush()
    [error] = broker.take(c.Error)
    assert (error.id, error.reason) == (2, "broker-lost")
    assert execution.state.name == "CANCELLING"
    machine.fail(execution, Code.CANCELLED, "")
    broker.send(resume(3, 101, received=19))
    stage.flush()
    assert [error.id for error in broker.take(c.Error)] == [3]


def test_an_ended_execution_whose_replies_are_gone_says_so() -> None:
    stage, broker, machine = serving()
    broker.send(order(1, messages=2))
    stage.flush()
    [execution] = started(machine)
    machine.partial(execution, 0, b"a")
    broker.send(c.Credit(1, 1, 1))
    stage.flush()
    machine.finish(execution, 0, b"!")
    restart(stage, broker, machine)
    broker.send(resume(2, 101, received=0), resume(3, 101, received=1), resume(4, 101, received=None))
    stage.flush()
    assert [type(command).__name__ for command in broker.take((c.Error, c.Final))] == ["Error", "Final", "Error"]
    restart(stage, broker, machine, b"epoch-3")
    broker.send(resume(4, 101, received=None))
    stage.flush()
    assert broker.take(c.Final) == [c.Final(4, 0, b"!")], "once to each broker"


def test_what_nobody_could_claim_is_cancelled_at_once() -> None:
    """A broker of another make gives it no name; and who has left will not come back."""
    stage, broker, machine = serving()
    broker.send(ask(1), order(2))
    stage.flush()
    nameless, left = started(machine)
    broker.send(c.Cancel(2))
    stage.flush()
    restart(stage, broker, machine)
    assert nameless.state.name == left.state.name == "CANCELLING"
    assert broker.take(c.Holdings) == []
    machine.finish(nameless, 0, b"")
    machine.finish(left, 0, b"")
    assert machine.running == 0
    assert len(machine._outcomes) == 0


def test_the_same_broker_claims_nothing() -> None:
    """It has told the callers already that their worker was lost."""
    stage, broker, machine = serving()
    broker.send(order(1))
    stage.flush()
    [execution] = started(machine)
    restart(stage, broker, machine, b"epoch-1")
    assert execution.state.name == "CANCELLING"
    assert broker.take(c.Holdings) == []


def test_keys_are_told_to_a_broker_that_was_away_for_long() -> None:
    stage, broker, machine = serving()
    broker.send(order(1, key="k"), order(2))
    stage.flush()
    for execution in started(machine):
        machine.finish(execution, 0, b"!")
    stage.flush()
    stage.disconnect(machine)
    stage.advance(60.0)
    broker._welcome = {"epoch": OTHER}
    stage.connect(machine)
    [holdings] = broker.take(c.Holdings)
    assert [each.call for each in holdings.holdings] == [101]


def test_cancelling_all_cancels_the_unclaimed() -> None:
    stage, broker, machine = serving()
    broker.send(order(1))
    stage.flush()
    [execution] = started(machine)
    restart(stage, broker, machine)
    machine.heartbeat(execution)
    stage.flush()
    assert broker.take(c.Heartbeat) == []
    machine.cancel_all()
    assert execution.state.name == "CANCELLING"
    assert len(machine._timers) == 0


def test_a_request_that_came_twice_breaks_off() -> None:
    stage, broker, machine = serving()
    broker.send(order(1))
    stage.flush()
    restart(stage, broker, machine)
    broker.send(order(1), resume(1, 101))
    stage.flush()
    assert machine.protocol_errors == 1


def test_holdings_are_told_in_parts() -> None:
    stage, broker, machine = serving(recent_limit=10_000)
    for start_id in range(0, 1000, 4):
        broker.send(*[order(start_id + i) for i in range(4)])
        stage.flush()
        for execution in started(machine):
            machine.finish(execution, 0, b"!")
        stage.flush()
    restart(stage, broker, machine)
    sizes = [len(command.holdings) for command in broker.take(c.Holdings)]
    assert sizes == [256, 256, 256, 232]


# ---- what a worker keeps


def test_a_second_restart_gives_callers_their_time_anew() -> None:
    stage, broker, machine = serving(resume=3.0)
    broker.send(order(1))
    stage.flush()
    restart(stage, broker, machine)
    stage.advance(2.0)
    stage.disconnect(machine)
    stage.advance(2.0)
    assert machine.counters()["echo"].running == 1, "the broker is away: nobody could claim it"
    broker._welcome = {"epoch": b"epoch-3"}
    stage.connect(machine)
    stage.advance(2.9)
    assert machine.counters()["echo"].running == 1
    stage.advance(0.2)
    assert machine.counters()["echo"].cancelling == 1


def test_what_was_rejected_is_not_told() -> None:
    """Another worker has it by now: a caller that is given our answer loses what runs there."""
    stage, broker, machine = serving()
    broker.send(order(1))
    stage.flush()
    machine.reject(*started(machine))
    restart(stage, broker, machine)
    assert broker.take(c.Holdings) == []


def test_a_worker_that_drains_waits_to_say_what_ended_while_its_broker_was_away() -> None:
    stage, broker, machine = serving()
    broker.send(order(1), order(2))
    stage.flush()
    stage.disconnect(machine)
    for each in started(machine):
        machine.finish(each, 0, b"!")
    machine.drain()
    assert not machine.drained
    broker._welcome = {"epoch": OTHER}
    stage.connect(machine)
    broker.send(resume(1, 101))
    stage.flush()
    assert broker.take(c.Final) == [c.Final(1, 0, b"!")]
    assert not machine.drained, "the other one may be claimed, too"
    stage.advance(9.9)
    assert not machine.drained
    stage.advance(0.2)
    assert machine.drained


def test_a_worker_that_drains_does_not_wait_for_a_broker_for_ever() -> None:
    stage, broker, machine = serving()
    broker.send(order(1))
    stage.flush()
    stage.disconnect(machine)
    machine.finish(*started(machine), 0, b"!")
    machine.drain()
    stage.advance(9.9)
    assert not machine.drained
    stage.advance(0.2)
    assert machine.drained


def execution(call: int, *, key: str | None = None, body: bytes = b"?") -> Execution:
    class Uplink:
        endpoint, epoch = BROKER, b"epoch-1"

    return Execution(order(call, key=key, body=body), Uplink(), Lease(), Counters(), 0.0)  # type: ignore[arg-type]


def test_outcomes_are_bounded_in_number_bytes_and_time() -> None:
    outcomes = Outcomes(Settings(recent_limit=3, recent_bytes=3_000, key_limit=2))
    for call in range(5):
        outcomes.add(execution(call), c.Final(call, 0, b""), 0, now=float(call))
    assert [outcomes.get((b"anna", 100 + call)) is not None for call in range(5)] == [False, False, True, True, True]
    outcomes.add(execution(9), c.Final(9, 0, b""), 2_400, now=5.0)
    assert len(outcomes) == 1
    outcomes.add(execution(9), c.Final(9, 0, b""), 0, now=6.0)
    assert len(outcomes) == 1
    for call in range(20, 23):
        outcomes.add(execution(call, key="k"), c.Final(call, 0, b""), 0, now=7.0)
    assert len(outcomes) == 3
    outcomes.forget_old(6.0 + 22.5)
    assert len(outcomes) == 2
    outcomes.forget_old(7.0 + 600.0)
    assert len(outcomes) == 0


def test_errors_that_say_nothing_of_the_handler_are_not_kept_for_their_key() -> None:
    outcomes = Outcomes(Settings())
    outcomes.add(execution(1, key="k"), c.Error(1, "UNAVAILABLE", "", ""), 0, now=0.0)
    outcomes.add(execution(3, key="k"), c.Error(3, "NOT_FOUND", "", ""), 0, now=0.0)
    outcomes.forget_old(100.0)
    assert outcomes.get((b"anna", 103)) is not None
    assert len(outcomes) == 1


def test_an_execution_keeps_so_many_replies_and_no_more() -> None:
    each = execution(1)
    each.grant(2**40, 2**40)
    for _ in range(KEPT_MESSAGES + 10):
        each.keep(c.Partial(1, 0, b""), 0)
    assert (len(each.sent or ()), each.first) == (KEPT_MESSAGES, 10)
    big = execution(2)
    for _ in range(3):
        big.keep(c.Partial(2, 0, bytes(KEPT_BYTES)), KEPT_BYTES)
    assert (len(big.sent or ()), big.sent_bytes) == (1, KEPT_BYTES)


# ---- the client


def calling(**options: Any) -> tuple[Stage, FakeBroker, ClientMachine]:
    broker = FakeBroker()
    stage = Stage(fake=broker, **options)
    machine = stage.client_machine()
    stage.connect(machine)
    return stage, broker, machine


def request(**fields: Any) -> c.Request:
    return c.Request(0, "echo", 0, b"?", 0, 0, **fields)


def test_a_client_claims_what_it_waits_for() -> None:
    stage, broker, machine = calling()
    stream = start(machine, request(key="k"))
    plain = start(machine, discards=True, explicit_deadline=20.0)
    stage.flush()
    broker.send(*[c.Partial(1, 0, b"pp")] * 3)
    stage.flush()
    stage.advance(1.0)
    broker.take()
    restart(stage, broker, machine)
    first, second = broker.take()
    assert first == c.Claim(1, "echo", 3, 61, first.bytes, None, "k")
    assert first.bytes == stream.granted
    assert second == c.Claim(2, "echo", None, 64, 2**20, 19.0, None)
    broker.send(c.Partial(1, 0, b"pp"), c.Final(1, 0, b"!"), c.Final(2, 0, b"?"))
    stage.flush()
    assert len(stream.inbox) == 4
    assert (stream.outcome, plain.outcome) == (c.Final(1, 0, b"!"), c.Final(2, 0, b"?"))


def test_what_a_worker_overdrew_is_forgiven_with_the_claim() -> None:
    """Else client and worker would count differently from then on."""
    stage, broker, machine = calling(credit_bytes=10)
    call = start(machine)
    stage.flush()
    broker.send(c.Partial(1, 0, b"p" * 25))
    stage.flush()
    assert call.granted == -15
    broker.take()
    restart(stage, broker, machine)
    [claimed] = broker.take(c.Claim)
    assert claimed.bytes == call.granted == 0
    machine.take(call)
    stage.flush()
    [credit] = broker.take(c.Credit)
    broker.send(*[c.Partial(1, 0, b"p" * (credit.bytes - 1))] * 2)
    stage.flush()
    assert machine.protocol_errors == 0
    assert len(call.inbox) == 2


def test_what_never_left_is_sent_and_not_claimed() -> None:
    stage, broker, machine = calling()
    call = start(machine)
    stage.disconnect(machine)
    broker._welcome = {"epoch": OTHER}
    stage.connect(machine)
    [sent] = broker.take((c.Claim, c.Request))
    assert (type(sent), sent.id) == (c.Request, 2)
    broker.send(c.Final(2, 0, b"!"))
    stage.flush()
    assert call.outcome == c.Final(2, 0, b"!")


@pytest.mark.parametrize("kind", [BrokerLost, WorkerLost])
def test_a_claim_that_is_lost_runs_again_where_it_may(kind: type[BrokerLost]) -> None:
    stage, broker, machine = calling()
    once, twice, read = start(machine), start(machine, request(retry=1)), start(machine, request(retry=1))
    stage.flush()
    broker.send(c.Partial(3, 0, b"p"))
    stage.flush()
    restart(stage, broker, machine)
    broker.take()
    broker.send(*[c.Error(id, "UNAVAILABLE", kind.reason, "gone") for id in (1, 2, 3)])
    stage.flush()
    assert type(once.outcome) is type(read.outcome) is kind
    [again] = broker.take(c.Request)
    assert (again.id, again.retry) == (4, 0)
    broker.send(c.Error(4, "UNAVAILABLE", kind.reason, "gone"))
    stage.flush()
    assert type(twice.outcome) is kind


@pytest.mark.parametrize("restarted", [True, False], ids=["claimed", "lost"])
def test_what_a_broker_has_run_again_is_not_run_again_for_its_loss(restarted: bool) -> None:
    stage, broker, machine = calling()
    call = start(machine, request(retry=2))
    stage.flush()
    broker.take()
    broker.send(c.Heartbeat([c.Held(1, None, 1), c.Held(9, None, 1)]))
    stage.flush()
    if restarted:
        restart(stage, broker, machine)
        broker.send(c.Error(1, "UNAVAILABLE", "worker-lost", "gone"))
        stage.flush()
    else:
        stage.disconnect(machine)
        stage.advance(10.1)
        stage.connect(machine)
    [again] = broker.take(c.Request)
    assert again.retry == call.retries == 0


def test_a_broker_that_has_too_many_peers_at_first_is_asked_later() -> None:
    stage, broker, machine = calling()
    call = start(machine)
    stage.flush()
    stage.disconnect(machine)
    broker.answers = False
    stage.connect(machine)
    broker.say_uncounted(c.Goodbye("come again later"))
    stage.flush()
    assert call.outcome is None
    broker.answers = True
    broker._welcome = {"epoch": OTHER}
    broker.take()
    stage.connect(machine)
    assert [claim.id for claim in broker.take(c.Claim)] == [1]


def test_an_error_of_an_unclaimed_request_is_the_outcome() -> None:
    stage, broker, machine = calling()
    call = start(machine, request(retry=1))
    stage.flush()
    broker.send(c.Error(1, "UNAVAILABLE", "worker-lost", "gone"))
    stage.flush()
    assert type(call.outcome) is WorkerLost


def test_all_three_machines_together() -> None:
    stage = Stage()
    client, worker = stage.client_machine(), stage.worker_machine({"echo": 2})
    stage.connect(worker)
    stage.connect(client)
    calls = [start(client) for _ in range(3)]
    stage.flush()
    one, two = started(worker)
    worker.partial(one, 0, b"p")
    stage.flush()
    for peer in (client, worker):
        stage.disconnect(peer, tell=False)
    worker.partial(one, 0, b"q")
    worker.finish(two, 0, b"two")
    stage.start_broker(epoch=OTHER)
    stage.connect(client)
    stage.connect(worker)
    assert calls[1].outcome == c.Final(2, 0, b"two")
    assert [partial.body for partial in calls[0].inbox] == [b"p", b"q"]
    assert stage.broker._claims == {(digest("client"), 3): stage.broker.sessions()[0].requests[3]}
    worker.finish(one, 0, b"one")
    stage.flush()
    assert calls[0].outcome == c.Final(1, 0, b"one")
    stage.advance(11.0)
    assert type(calls[2].outcome) is BrokerLost
    empty(stage)
    assert session_id("client") not in b"".join(key[0] for key in [one.origin, two.origin])

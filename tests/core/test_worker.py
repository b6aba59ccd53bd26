"""The worker's machine: what the shell is told to do, and what brokers are told of it."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from stage import BROKER, FakeBroker, Stage, ask, outgoing, start, started

from zmdp_trio._core.uplink import State
from zmdp_trio._core.worker import Counters, Execution, ExecutionState, WorkerEvent, WorkerMachine
from zmdp_trio._core.worker.machine import MAX_ERROR_DETAILS, MAX_ERROR_MESSAGE
from zmdp_trio._errors import Code, MessageTooLarge
from zmdp_trio._wire import commands as c

SECOND = "second"


def play(slots: int = 4, *, broker: FakeBroker | None = None) -> tuple[Stage, FakeBroker, WorkerMachine]:
    """Return a worker's machine that is connected to a broker that says what the test has it say."""
    broker = broker or FakeBroker()
    stage = Stage(fake=broker)
    worker = stage.worker_machine({"echo": slots})
    stage.connect(worker)
    return stage, broker, worker


def run(stage: Stage, broker: FakeBroker, worker: WorkerMachine, *requests: c.Request) -> list[Execution]:
    """Give a worker some requests, and return their executions."""
    broker.send(*requests)
    stage.flush()
    return started(worker)


def check_counters(worker: WorkerMachine) -> dict[str, int]:
    """Check the books of each service, and return those of all."""
    by_service = worker.counters()
    for name, counters in by_service.items():
        assert counters.received == counters.accounted, (name, counters)
    return attrs.asdict(sum(by_service.values(), Counters()))


# ---- there and back


def test_a_worker_greets_with_what_it_offers() -> None:
    _, broker, worker = play(7)
    assert broker.hello is not None
    assert broker.hello.offers == [c.Offer("echo", 7)]
    assert worker.welcomed
    assert broker.take() == [], "the offer was taken as it stood"


def test_a_request_is_started_and_its_replies_go_out() -> None:
    stage, broker, worker = play()
    stage.advance(3.0)
    [execution] = run(stage, broker, worker, ask(5, left=2.0, messages=2, bytes=10))
    assert (execution.deadline, execution.active, execution.ended) == (5.0, True, False)
    worker.partial(execution, 1, b"part")
    worker.heartbeat(execution)
    worker.finish(execution, 0, b"done")
    stage.flush()
    assert broker.take() == [c.Partial(5, 1, b"part"), c.Heartbeat([c.Held(5)]), c.Final(5, 0, b"done")]
    assert (execution.partials, execution.ended) == (1, True)
    assert check_counters(worker)["replied"] == 1
    assert worker.running == 0


def test_an_error_goes_out() -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(5))
    worker.fail(execution, Code.INVALID_ARGUMENT, "why", reason="invalid-argument", details=b"\xc0")
    stage.flush()
    assert broker.take() == [c.Error(5, "INVALID_ARGUMENT", "invalid-argument", "why", b"\xc0")]
    assert check_counters(worker)["failed"] == 1


def test_a_rejection_hands_the_request_back() -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(5))
    worker.reject(execution)
    stage.flush()
    assert broker.take() == [c.Reject(5)]
    assert check_counters(worker)["rejected"] == 1


def test_a_request_for_a_service_that_is_not_offered_is_rejected() -> None:
    stage, broker, worker = play()
    assert run(stage, broker, worker, ask(5, "other")) == []
    assert broker.take() == [c.Reject(5)]
    n = check_counters(worker)
    assert (n["received"], n["refused"]) == (1, 1)


def test_a_broker_that_oversteps_its_lease_is_refused() -> None:
    stage, broker, worker = play(slots=2)
    executions = run(stage, broker, worker, *map(ask, range(5)))
    assert len(executions) == 2
    assert broker.take() == [c.Reject(2), c.Reject(3), c.Reject(4)]
    n = check_counters(worker)
    assert (n["refused"], n["running"], n["received"]) == (3, 2, 5)
    assert worker.protocol_errors == 3
    worker.finish(executions[0], 0, b"")
    assert len(run(stage, broker, worker, ask(5))) == 1


def test_a_lease_that_was_cut_counts_until_the_broker_holds_to_it() -> None:
    stage, first, _, worker = two_brokers(4)
    stage.connect(worker, SECOND)
    assert first.take() == [c.Slots("echo", 2)]
    executions = run(stage, first, worker, *map(ask, range(4)))
    assert len(executions) == 4, "they were on their way"
    first.send(c.Slots("echo", 2))
    for execution in executions[:2]:
        worker.finish(execution, 0, b"")
    assert run(stage, first, worker, ask(4)) == []
    assert first.take(c.Reject) == [c.Reject(4)]
    assert worker.protocol_errors == 1


@pytest.mark.parametrize(
    ("message", "details", "expected"),
    [
        ("x" * (MAX_ERROR_MESSAGE + 1), b"", ("x" * MAX_ERROR_MESSAGE, b"")),
        ("m", bytes(MAX_ERROR_DETAILS), ("m", bytes(MAX_ERROR_DETAILS))),
        ("m", bytes(MAX_ERROR_DETAILS + 1), ("m (details left out: too large)", b"")),
        ("a file \udcff", b"", ("a file ?", b"")),
    ],
    ids=["long", "details", "large details", "no text"],
)
def test_errors_are_cut_to_what_can_be_sent(message: str, details: bytes, expected: tuple[str, bytes]) -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(5))
    worker.fail(execution, Code.INTERNAL, message, details=details)
    stage.flush()
    [error] = broker.take()
    assert (error.message, error.details) == expected


def test_replies_above_what_the_broker_takes_are_not_sent() -> None:
    stage, broker, worker = play(broker=FakeBroker(limits=c.Limits(10, 10, 10)))
    [execution] = run(stage, broker, worker, ask(5))
    with pytest.raises(MessageTooLarge, match="a reply of 11 bytes, the limit is 10"):
        worker.partial(execution, 0, bytes(11))
    assert execution.partials == 0
    worker.finish(execution, 0, bytes(11))
    stage.flush()
    [error] = broker.take()
    assert (error.code, error.message) == ("INTERNAL", "a reply of 11 bytes, the limit is 10")
    assert check_counters(worker)["failed"] == 1


# ---- cancellation, credit, deadlines


def test_a_cancel_reaches_the_handler_once_and_the_slot_is_kept_until_it_has_ended() -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(5))
    broker.send(c.Cancel(5), c.Cancel(5), c.Cancel(99))
    stage.flush()
    assert worker.take_events() == [(WorkerEvent.CANCEL, execution)]
    assert execution.state is ExecutionState.CANCELLING
    assert check_counters(worker)["cancelling"] == worker.running == 1
    worker.heartbeat(execution)
    stage.flush()
    assert broker.take() == []
    worker.fail(execution, Code.CANCELLED, "cancelled")
    stage.flush()
    assert [type(command) for command in broker.take()] == [c.Error]
    assert check_counters(worker)["cancelled"] == 1
    assert worker.running == 0


def test_a_cancelled_handler_that_finishes_counts_as_cancelled() -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(5))
    broker.send(c.Cancel(5))
    stage.flush()
    worker.finish(execution, 0, b"")
    assert check_counters(worker)["cancelled"] == 1


def test_cancelling_all_reaches_every_handler() -> None:
    stage, broker, worker = play()
    executions = run(stage, broker, worker, ask(1), ask(2))
    worker.cancel_all()
    worker.cancel_all()
    assert worker.take_events() == [(WorkerEvent.CANCEL, execution) for execution in executions]


@pytest.mark.parametrize(
    ("messages", "size", "credit", "woken"),
    [
        (0, 0, c.Credit(1, 1, 1), True),
        (0, 0, c.Credit(1, 1, 0), False),
        (0, 5, c.Credit(1, 1, 0), True),
        (0, -5, c.Credit(1, 1, 5), False),
        (1, 5, c.Credit(1, 1, 5), False),
        (0, 0, c.Credit(99, 1, 1), False),
    ],
)
def test_credit_wakes_a_handler_that_had_none(messages: int, size: int, credit: c.Credit, woken: bool) -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(1))
    execution.messages, execution.bytes = messages, size
    broker.send(credit)
    stage.flush()
    assert worker.take_events() == [(WorkerEvent.CREDIT, execution)] * woken


def test_a_deadline_that_is_moved_reaches_the_handler() -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(1))
    assert execution.deadline == math.inf
    stage.now = 1.0
    broker.send(c.Credit(1, 0, 0, 4.0))
    stage.flush()
    assert worker.take_events() == [(WorkerEvent.DEADLINE, execution)]
    assert execution.deadline == 5.0
    broker.send(c.Heartbeat([c.Held(1, 1.0), c.Held(1), c.Held(99, 1.0)]))
    stage.flush()
    assert worker.take_events() == [(WorkerEvent.DEADLINE, execution)]
    assert execution.deadline == 2.0
    worker.finish(execution, 0, b"")
    broker.send(c.Heartbeat([c.Held(1, 1.0)]), c.Credit(1, 1, 1), c.Cancel(1))
    stage.flush()
    assert worker.take_events() == []


# ---- sessions


@pytest.mark.parametrize("how", ["restarted", "did not come back", "said goodbye"])
def test_handlers_of_a_session_that_is_over_are_cancelled_and_their_outcomes_go_nowhere(how: str) -> None:
    stage, broker, worker = play(4)
    [execution] = run(stage, broker, worker, ask(1))
    if how == "said goodbye":
        broker.send(c.Goodbye("the broker stops"))
        stage.flush()
    else:
        stage.disconnect(worker)
        assert worker.take_events() == [], "the session may come back"
        if how == "did not come back":
            stage.advance(10.0)
    if how != "did not come back":
        stage.connect(worker)
        assert broker.hello is not None
        assert broker.hello.offers == [c.Offer("echo", 3)], "its slot is still taken"
    assert worker.take_events() == [(WorkerEvent.CANCEL, execution)]
    assert execution.orphaned
    assert check_counters(worker)["cancelling"] == 1
    if how == "did not come back":
        stage.connect(worker)
    broker.take()
    worker.finish(execution, 0, b"nobody's")
    stage.flush()
    assert broker.take() == [c.Slots("echo", 4)]
    assert check_counters(worker)["cancelled"] == 1
    assert worker.running == 0


def test_a_session_that_goes_on_keeps_its_handlers() -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(1))
    stage.disconnect(worker)
    worker.finish(execution, 0, b"meanwhile")
    broker.answers = False
    stage.connect(worker)
    broker.welcome(resumed=True)
    stage.flush()
    assert broker.take() == [c.Final(1, 0, b"meanwhile"), c.Slots("echo", 4)]
    assert worker.take_events() == []


def test_a_worker_that_holds_requests_beats() -> None:
    stage, broker, worker = play()
    run(stage, broker, worker, ask(1))
    received = broker.link.received
    stage.advance(10.0)
    assert broker.link.received >= received + 4


def test_one_id_for_two_requests_costs_the_broker_its_connection() -> None:
    stage, broker, worker = play()
    assert len(run(stage, broker, worker, ask(1), ask(1))) == 1
    assert worker.uplinks[BROKER].state is State.DOWN
    assert worker.protocol_errors == 1


@pytest.mark.parametrize(
    "command",
    [c.Partial(1, 0, b""), c.Final(1, 0, b""), c.Error(1, "", "", ""), c.Reject(1)],
    ids=lambda command: type(command).__name__,
)
def test_a_command_that_is_not_for_workers_is_counted_and_passed_over(command: c.Command) -> None:
    stage, broker, worker = play()
    assert len(run(stage, broker, worker, command, ask(1))) == 1
    assert worker.protocol_errors == 1


def test_an_acknowledgement_of_a_service_that_is_not_ours_is_passed_over() -> None:
    stage, broker, _ = play()
    broker.send(c.Slots("other", 3))
    stage.flush()
    assert broker.take() == []


# ---- the drain


def test_a_worker_takes_work_until_its_drain_is_acknowledged() -> None:
    stage, broker, worker = play()
    assert not worker.drained
    worker.drain()
    worker.drain()
    stage.flush()
    assert broker.take() == [c.Drain()]
    [execution] = run(stage, broker, worker, ask(1))
    assert run(stage, broker, worker, c.Drained(), ask(2)) == []
    assert broker.take() == [c.Reject(2)]
    assert not worker.drained
    worker.finish(execution, 0, b"")
    assert not worker.drained, "the reply has not left"
    stage.flush()
    assert worker.drained
    check_counters(worker)


def test_a_drain_without_a_connection_is_done() -> None:
    stage, _, worker = play()
    stage.disconnect(worker)
    worker.drain()
    assert worker.drained


@pytest.mark.parametrize("how", ["lost", "given up", "goodbye"])
def test_a_drain_does_not_wait_for_a_broker_that_is_gone(how: str) -> None:
    stage, broker, worker = play()
    worker.drain()
    if how == "goodbye":
        broker.send(c.Goodbye())
        stage.flush()
    else:
        stage.disconnect(worker)
        stage.advance(10.0 if how == "given up" else 0.0)
    assert worker.drained
    stage.connect(worker)
    assert broker.hello is not None
    assert broker.hello.offers == []


def test_a_broker_that_welcomes_a_worker_which_drains_already_is_told() -> None:
    stage, broker, worker = play(broker=FakeBroker(answers=False))
    worker.drain()
    broker.welcome()
    stage.flush()
    assert broker.take()[0] == c.Drain()
    assert run(stage, broker, worker, ask(1)) == []


def test_a_worker_takes_leave() -> None:
    stage, broker, worker = play()
    worker.goodbye()
    stage.flush()
    assert broker.take() == [c.Goodbye()]


# ---- several brokers


def two_brokers(slots: int, **overrides: Any) -> tuple[Stage, FakeBroker, FakeBroker, WorkerMachine]:
    first, second = FakeBroker(), FakeBroker()
    stage = Stage(fake=first, **overrides)
    stage.brokers[SECOND] = second
    worker = stage.worker_machine({"echo": slots}, BROKER, SECOND)
    stage.connect(worker)
    return stage, first, second, worker


def test_slots_are_taken_back_before_they_are_given_to_another_broker() -> None:
    stage, first, second, worker = two_brokers(10)
    stage.connect(worker, SECOND)
    assert second.hello is not None
    assert second.hello.offers == [c.Offer("echo", 0)]
    assert first.take() == [c.Slots("echo", 5)]
    assert second.take() == []
    first.send(c.Slots("echo", 5))
    stage.flush()
    assert second.take() == [c.Slots("echo", 5)]


def test_slots_in_use_follow_when_their_handlers_end() -> None:
    stage, first, second, worker = two_brokers(4)
    executions = run(stage, first, worker, *map(ask, range(4)))
    stage.connect(worker, SECOND)
    first.send(c.Slots("echo", 2))
    stage.flush()
    assert second.take() == []
    given = []
    for execution in executions[:2]:
        worker.finish(execution, 0, b"")
        stage.flush()
        given += second.take()
    assert given == [c.Slots("echo", 1), c.Slots("echo", 2)]


def test_a_broker_s_slots_go_to_the_others_when_it_is_given_up() -> None:
    stage, first, second, worker = two_brokers(4)
    stage.connect(worker, SECOND)
    first.send(c.Slots("echo", 2))
    stage.flush()
    second.take()
    [execution] = run(stage, first, worker, ask(1))
    stage.disconnect(worker)
    stage.advance(10.0)
    assert second.take() == [c.Slots("echo", 3)]
    worker.fail(execution, Code.CANCELLED, "")
    stage.flush()
    assert second.take() == [c.Slots("echo", 4)]


def test_a_session_that_is_given_up_while_we_greet_leaves_no_slots_behind() -> None:
    stage, first, second, worker = two_brokers(4)
    stage.connect(worker, SECOND)
    first.send(c.Slots("echo", 2))
    stage.flush()
    stage.disconnect(worker)
    first.answers = False
    stage.advance(9.0)
    stage.connect(worker)
    stage.advance(1.0)
    second.take()
    first.welcome()
    stage.flush()
    assert worker.uplinks[BROKER].state is State.DOWN
    leases = worker._leases["echo"]
    assert sum(lease.committed for lease in leases._leases.values()) == 4
    first.answers = True
    stage.connect(worker)
    second.send(c.Slots("echo", 4), c.Slots("echo", 2))
    stage.flush()
    assert sum(lease.committed for lease in leases._leases.values()) == 4


def test_two_real_brokers_never_fill_one_slot_twice() -> None:
    stage = Stage()
    stage.start_broker(SECOND, epoch=b"epoch-2")
    worker = stage.worker_machine({"echo": 3}, BROKER, SECOND)
    clients = [stage.client_machine(endpoint, name=endpoint) for endpoint in (BROKER, SECOND)]
    for machine, endpoint in ((worker, BROKER), (worker, SECOND), (clients[0], BROKER), (clients[1], SECOND)):
        stage.connect(machine, endpoint)
    calls = [start(client) for client in clients for _ in range(10)]
    stage.flush()
    done = 0
    running = started(worker)
    while running:
        assert worker.running == len(running) <= 3
        assert len(running) == 3 or done > 3, "while both have work, every slot is used"
        worker.finish(running.pop(0), 0, b"")
        done += 1
        stage.flush()
        running += started(worker)
    assert done == 20
    assert all(call.outcome is not None for call in calls)


@pytest.mark.parametrize(
    ("code", "counter"), [(Code.INTERNAL, "failed"), (Code.NOT_FOUND, "failed"), (Code.DEADLINE_EXCEEDED, "expired")]
)
def test_what_an_error_counts_as(code: Code, counter: str) -> None:
    stage, broker, worker = play()
    [execution] = run(stage, broker, worker, ask(5))
    worker.fail(execution, code, "why")
    assert check_counters(worker)[counter] == 1


# ---- brokers that are no longer ours


def retiring(**overrides: Any) -> tuple[Stage, FakeBroker, FakeBroker, WorkerMachine]:
    """Return a worker of two brokers, the first of which it is to leave."""
    stage, first, second, worker = two_brokers(4, **overrides)
    stage.connect(worker, SECOND)
    assert first.take() == [c.Slots("echo", 2)]
    first.send(c.Slots("echo", 2))
    stage.flush()
    return stage, first, second, worker


def test_a_broker_that_retires_is_left_when_it_has_nothing_for_us() -> None:
    stage, first, second, worker = retiring()
    [execution] = run(stage, first, worker, ask(1))
    uplink = worker.uplinks[BROKER]
    worker.retire(uplink)
    assert worker.take_retired() == []
    stage.flush()
    assert first.take() == [c.Slots("echo", 2)], "so that it says what waits there"
    worker.finish(execution, 0, b"")
    assert worker.take_retired() == []
    stage.flush()
    assert c.Drain() not in first.take(), "it has not said anything yet"
    first.send(c.Slots("echo", 2), c.Wanted("echo", 1))
    stage.flush()
    assert worker.take_retired() == [], "it has work"
    first.send(c.Wanted("echo", 0))
    stage.flush()
    assert worker.take_retired() == []
    worker.keep(uplink)
    assert uplink.retiring, "it was told that we go"
    first.send(ask(2))  # on its way
    stage.flush()
    assert first.take() == [c.Drain()]
    [execution] = started(worker)
    first.send(c.Drained())
    stage.flush()
    assert worker.take_retired() == []
    worker.finish(execution, 0, b"")
    assert worker.take_retired() == [uplink]
    stage.flush()
    assert first.take() == [c.Final(2, 0, b""), c.Goodbye()]
    assert second.take(c.Slots)[-1] == c.Slots("echo", 1), "what the first one wanted"
    second.send(c.Slots("echo", 1))
    stage.flush()
    assert second.take(c.Slots) == [c.Slots("echo", 4)]
    assert list(worker.uplinks) == [SECOND]


def test_a_broker_that_retires_and_is_lost_is_left_at_once_unless_something_runs() -> None:
    stage, first, _, worker = retiring()
    [execution] = run(stage, first, worker, ask(1))
    uplink = worker.uplinks[BROKER]
    worker.retire(uplink)
    stage.disconnect(worker)
    assert worker.take_retired() == []
    stage.advance(10.0)
    assert worker.take_retired() == [uplink]
    assert worker.running == 1
    worker.fail(execution, Code.CANCELLED, "")
    assert worker.running == 0


def test_a_broker_that_is_left_while_much_waits_for_it_is_no_longer_looked_at() -> None:
    stage, first, _, worker = retiring(outbox=100_000)
    uplink = worker.uplinks[BROKER]
    worker.retire(uplink)
    stage.flush()
    first.send(c.Slots("echo", 2))
    stage.flush()
    assert worker.take_retired() == []
    [execution] = run(stage, first, worker, ask(1, messages=c.MAX_AMOUNT, bytes=c.MAX_AMOUNT))  # on its way
    first.send(c.Drained())
    stage.flush()
    while execution.has_credit:
        worker.partial(execution, 0, bytes(10_000))
    worker.finish(execution, 0, b"")
    assert worker.take_retired() == [uplink]
    assert list(outgoing(worker.take_dirty()))
    assert worker.take_events() == []


def test_a_broker_that_is_wanted_again_in_time_is_kept() -> None:
    stage, first, _, worker = retiring()
    uplink = worker.uplinks[BROKER]
    worker.retire(uplink)
    worker.keep(uplink)
    assert worker.take_retired() == []
    stage.flush()
    assert c.Drain() not in first.take()

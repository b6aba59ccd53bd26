"""What a hostile broker can cost a worker or a client: the connection, and never memory without limit."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any
from unittest import mock

import pytest
from stage import FakeBroker, Stage, ask, start, started

from zmdp_trio._core.client import ClientMachine
from zmdp_trio._core.worker import WorkerEvent, WorkerMachine, requests
from zmdp_trio._errors import Code
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1


def worker_of(fake: FakeBroker, slots: int = 2, **settings: Any) -> tuple[Stage, WorkerMachine]:
    stage = Stage(fake=fake, **settings)
    worker = stage.worker_machine({"echo": slots})
    stage.connect(worker)
    return stage, worker


def client_of(fake: FakeBroker, **settings: Any) -> tuple[Stage, ClientMachine]:
    stage = Stage(fake=fake, **settings)
    client = stage.client_machine()
    stage.connect(client)
    return stage, client


def say(stage: Stage, dialler: Any, *commands: c.Command) -> None:
    """Have the broker send commands, and take nothing of what the other side has to say."""
    [uplink] = dialler.uplinks.values()
    link = stage.brokers["broker"].link
    link.sent = uplink.link.received + 1
    dialler.receive(uplink, zmdp1.encode(c.Batch(link.sent, uplink.link.acked), commands), now=stage.now)


def outbox(dialler: Any) -> int:
    [uplink] = dialler.uplinks.values()
    return int(uplink.link.outbox_bytes)


# ---- workers


@mock.patch.object(requests, "MAX_ANSWERS", 50)
@pytest.mark.parametrize("kind", ["not offered", "beyond the lease", "claimed and unknown"])
def test_a_broker_that_does_not_read_its_answers_is_broken_off(kind: str) -> None:
    stage, worker = worker_of(FakeBroker(), slots=1)
    [uplink] = worker.uplinks.values()
    if kind == "beyond the lease":
        say(stage, worker, ask(1))
    for n in range(2, 200):
        command = {
            "not offered": ask(n, "unknown"),
            "beyond the lease": ask(n),
            "claimed and unknown": c.Resume(n, b"caller", n, 0, 1, 1),
        }[kind]
        say(stage, worker, command)
    assert outbox(worker) <= 51 * 200
    assert uplink.reason == "it does not read the answers to its commands"
    stage.flush()
    assert not uplink.up


def test_a_broker_that_reads_its_answers_may_have_as_many_as_it_likes() -> None:
    fake = FakeBroker()
    stage, _ = worker_of(fake)
    with mock.patch.object(requests, "MAX_ANSWERS", 5):
        for n in range(100):
            fake.send(ask(n, "unknown"))
            stage.flush()
    assert fake.take() == [c.Reject(n) for n in range(100)]


def test_absurd_credit_does_not_have_a_worker_keep_more_than_its_outbox_holds() -> None:
    fake = FakeBroker()
    stage, worker = worker_of(fake, outbox=100_000)
    fake.send(*(ask(n, messages=c.MAX_AMOUNT, bytes=c.MAX_AMOUNT) for n in (1, 2)))
    stage.flush()
    one, two = started(worker)
    sent = 0
    while one.has_credit:
        worker.partial(one, 0, bytes(10_000))
        sent += 1
    assert 100_000 < outbox(worker) < 120_000
    assert not two.has_credit, "the connection is full, whoever filled it"
    say(stage, worker, c.Credit(1, c.MAX_AMOUNT, c.MAX_AMOUNT))
    assert not one.has_credit
    assert worker.take_events() == []
    stage.flush()
    assert len(fake.take(c.Partial)) == sent
    assert set(worker.take_events()) == {(WorkerEvent.CREDIT, one), (WorkerEvent.CREDIT, two)}
    assert one.has_credit
    assert two.has_credit
    assert worker.take_events() == []


def test_a_worker_is_not_left_choked_when_its_broker_is_lost() -> None:
    stage, worker = worker_of(FakeBroker(), outbox=1_000, resume=1.0)
    say(stage, worker, ask(1, messages=c.MAX_AMOUNT, bytes=c.MAX_AMOUNT))
    [execution] = started(worker)
    worker.partial(execution, 0, bytes(2_000))
    assert execution.uplink.choked
    stage.disconnect(worker)
    stage.advance(5.0)
    worker.take_events()
    assert not execution.uplink.choked
    worker.fail(execution, Code.INTERNAL, "")
    stage.connect(worker)
    stage.flush()
    assert execution.uplink.up


def test_what_a_broker_says_again_and_again_is_one_event() -> None:
    stage, worker = worker_of(FakeBroker())
    say(stage, worker, ask(1, messages=0))
    [execution] = started(worker)
    for n in range(100):
        say(stage, worker, c.Heartbeat([c.Held(1, 1.0 + n)] * 1_000), c.Credit(1, 0, 0, 5.0))
    say(stage, worker, c.Credit(1, 1, 1), c.Cancel(1), c.Cancel(1))
    events = [(WorkerEvent.DEADLINE, execution), (WorkerEvent.CREDIT, execution), (WorkerEvent.CANCEL, execution)]
    assert worker.take_events() == events
    assert execution.deadline == 5.0


@pytest.mark.parametrize("left", [0.0, 5e-324, 1e308, math.inf])
def test_a_handler_s_deadline_is_a_time_whatever_the_broker_says(left: float) -> None:
    stage, worker = worker_of(FakeBroker())
    say(stage, worker, ask(1, left=left), c.Heartbeat([c.Held(1, left)]), c.Credit(1, 1, 1, left))
    [execution] = worker.take_started()
    assert execution.deadline == left


def test_two_requests_of_one_origin_are_both_accounted_for_when_the_broker_is_restarted() -> None:
    """No honest broker has two at once, but a client that lies about its ids can have them sent."""
    fake = FakeBroker()
    stage, worker = worker_of(fake)
    twins = [ask(n) for n in (1, 2)]
    for twin in twins:
        twin.caller, twin.call = b"caller", 7
    fake.send(*twins)
    stage.flush()
    executions = started(worker)
    stage.disconnect(worker)
    stage.brokers["broker"] = FakeBroker(epoch=b"another")
    stage.connect(worker)
    assert [execution.active for execution in executions] == [True, False]
    assert worker.running == 2
    for execution in reversed(executions):
        worker.finish(execution, 0, b"")
    assert worker.running == 0
    assert worker._leases["echo"].running == 0


def test_an_outcome_is_told_to_a_broker_once_however_often_it_is_claimed() -> None:
    fake = FakeBroker()
    stage, worker = worker_of(fake)
    request = ask(1)
    request.caller, request.call = b"caller", 7
    fake.send(request)
    stage.flush()
    [execution] = started(worker)
    worker.finish(execution, 0, bytes(1_000))
    stage.disconnect(worker)
    other = stage.brokers["broker"] = FakeBroker(epoch=b"another")
    stage.connect(worker)
    other.send(*(c.Resume(n, b"caller", 7, 0, 1, 1) for n in range(1, 4)))
    stage.flush()
    told = other.take((c.Final, c.Error))
    assert [type(each) for each in told] == [c.Final, c.Error, c.Error]
    assert told[1].reason == "broker-lost"


# ---- clients


def test_a_broker_that_sends_more_bytes_than_were_granted_costs_itself_the_connection() -> None:
    fake = FakeBroker()
    stage, client = client_of(fake, credit_bytes=1_000)
    call = start(client)
    stage.flush()
    fake.send(c.Partial(1, 0, bytes(2_000)))
    stage.flush()
    assert call.unread == 2_000, "one message may overdraw what is left"
    assert client.protocol_errors == 0
    fake.send(c.Partial(1, 0, b""))
    stage.flush()
    assert client.protocol_errors == 1
    assert not client.uplinks["broker"].up
    assert len(call.inbox) == 1


def test_what_nobody_reads_leaves_nothing_however_much_of_it_comes() -> None:
    fake = FakeBroker()
    stage, client = client_of(fake)
    start(client, discards=True)
    for _ in range(1_000):
        say(stage, client, *[c.Partial(1, 0, bytes(100))] * 100)
    assert outbox(client) < 1_000, "credit for it is granted once for all"


def test_replies_to_calls_that_were_never_made_are_counted_and_leave_nothing() -> None:
    stage, client = client_of(FakeBroker())
    tracemalloc.start()
    try:
        for n in range(0, 10_000, 100):
            for kind in (c.Partial, c.Final):
                say(stage, client, *(kind(k, 0, bytes(100)) for k in range(n, n + 100)))
            say(stage, client, *(c.Error(k, "INTERNAL", "", "") for k in range(n, n + 100)))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert client.late_replies == 30_000
    assert client.protocol_errors == 0
    assert outbox(client) == 0

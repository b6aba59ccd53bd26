"""Flow control where a dialect has none: slow clients, workers that pour out, and what the broker keeps of both."""

from __future__ import annotations

from typing import Any

import pytest
from legacy import ALL, NUMBERED, Legacy, code_of, is_at_rest, live
from stage import Stage, ask, check_counters

from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import MDP01, MDP02, OMDP, PIGATO, Dialect
from zmdp_trio._wire.majordomo import messages as m

CHUNK = b'"%b"' % (b"x" * 998)
STREAMING = [dialect for dialect in ALL if dialect.partials]


def scene(dialect: Dialect, **overrides: Any) -> tuple[Stage, Legacy]:
    """A legacy worker that offers `echo`."""
    stage = Stage(**overrides)
    worker = Legacy(stage, dialect, is_worker=True)
    worker.ready(concurrency=10)
    return stage, worker


# ---- slow clients


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
def test_a_client_that_does_not_read_pauses_a_worker_of_ours(dialect: Dialect) -> None:
    """Credit comes as messages leave; without, the worker may send so much and no more."""
    stage = Stage(credit_messages=8, credit_bytes=100_000)
    worker = stage.worker("echo")
    client = Legacy(stage, dialect, is_worker=False)
    client.ask(options=b'{"timeout":-1}')
    [request] = worker.take(c.Request)
    assert (request.messages, request.bytes) == (8, 100_000)
    worker.send(*(c.Partial(request.id, c.Content.JSON, CHUNK) for _ in range(8)))
    assert sum(credit.messages for credit in worker.take(c.Credit)) == 8
    client.stall()
    worker.send(*(c.Partial(request.id, c.Content.JSON, CHUNK) for _ in range(8)))
    assert worker.take(c.Credit) == []
    assert 8_000 < stage.broker.memory < 12_000
    client.unstall()
    credit = worker.take(c.Credit)
    assert (sum(each.messages for each in credit), sum(each.bytes for each in credit)) == (8, 8_000)
    worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    assert len(client.take()) == 17
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
@pytest.mark.parametrize("worker_dialect", STREAMING, ids=lambda each: each.name)
def test_a_stream_reaches_a_slow_client_whole_and_in_order(dialect: Dialect, worker_dialect: Dialect) -> None:
    stage, worker = scene(worker_dialect, credit_messages=4)
    client = Legacy(stage, dialect, is_worker=False)
    client.ask("echo", b"1", options=b'{"timeout":-1}')
    [request] = worker.take(m.Request)
    for n in range(100):
        if n % 7 == 0:
            client.stall()
        elif n % 7 == 5:
            client.unstall()
        worker.partial(request, b"%d" % n)
    worker.reply(request, b"100")
    if client.peer in stage.stalled:
        client.unstall()
    assert [reply.body for reply in client.take()] == [[b"%d" % n] for n in range(101)]
    is_at_rest(stage)


def test_credit_that_comes_with_more_replies_does_not_change_their_order() -> None:
    """Both in one turn of the engine, which looks at timers last."""
    stage, worker = scene(MDP02)
    client = stage.client()
    client.send(ask(1, body=b"1", messages=1, bytes=1000))
    [request] = worker.take()
    for n in range(3):
        worker.partial(request, b"%d" % n)
    broker = stage.broker
    client.link.put(c.Credit(1, 9, 9000))
    for frames in client.outgoing():
        broker.receive(client.peer, frames, now=stage.now)
    for frames in ((b"MDPW02", b"\3", request.client, b"", b"3"), (b"MDPW02", b"\4", request.client, b"", b"4")):
        broker.receive(worker.peer, frames, now=stage.now)
    stage.flush()
    replies = client.take((c.Partial, c.Final))
    assert [bytes(reply.body) for reply in replies] == [b"0", b"1", b"2", b"3", b"4"]
    is_at_rest(stage)


def test_credit_for_a_request_that_its_worker_never_got_is_passed_over() -> None:
    """It was refused for its payload, and its caller had not heard of that yet."""
    stage, _ = scene(PIGATO)
    client = stage.client()
    client.link.put(ask(1, body=b"no JSON"))
    client.link.put(c.Credit(1, 1, 1))
    stage.flush()
    assert [error.code for error in client.take(c.Error)] == ["INVALID_ARGUMENT"]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_client_that_never_reads_is_cut_off_when_too_much_waits(dialect: Dialect) -> None:
    stage = Stage(outbox=10_000)
    worker = stage.worker("echo", slots=100)
    client = Legacy(stage, dialect, is_worker=False)
    client.stall()
    for n in range(40):
        client.ask("echo", b"1", id=client.id(n), options=b'{"timeout":-1}')
    ended = 0
    for request in worker.take(c.Request):
        worker.send(c.Final(request.id, c.Content.JSON, CHUNK))
        ended += 1
        check_counters(stage.broker)
        assert stage.broker.memory < 60_000
    assert ended == 40
    client.vanish()
    stage.advance(15.0)
    is_at_rest(stage)


def test_too_much_for_a_client_that_is_away_ends_its_session() -> None:
    stage = Stage(outbox=2_000, resume=100.0)
    worker = stage.worker("echo", slots=10)
    client = Legacy(stage, PIGATO, is_worker=False, identity=b"anna")
    client.ask(options=b'{"timeout":-1}')
    [request] = worker.take(c.Request)
    client.vanish()
    worker.send(*(c.Partial(request.id, c.Content.JSON, CHUNK) for _ in range(5)))
    assert [cancel.id for cancel in worker.take(c.Cancel)] == [request.id]
    assert len(stage.broker.sessions()) == 1
    worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    is_at_rest(stage)


# ---- workers that pour out


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
def test_a_worker_that_pours_out_ends_one_request_and_disturbs_no_other(dialect: Dialect) -> None:
    stage, worker = scene(dialect, legacy_buffer=50_000)
    other = Legacy(stage, dialect, is_worker=True)
    other.ready("other")
    client = stage.client()
    client.send(ask(1, body=b"1", messages=2, bytes=10_000), ask(2, "other", body=b"2", messages=2))
    [request] = worker.take(m.Request)
    [fine] = other.take(m.Request)
    for n in range(100):
        worker.partial(request, CHUNK)
        assert stage.broker.memory < 70_000, n
    replies = client.take((c.Partial, c.Error))
    assert [type(reply) for reply in replies] == [c.Partial, c.Partial, c.Error]
    assert (replies[2].id, replies[2].code) == (1, "RESOURCE_EXHAUSTED")
    assert stage.held()["echo"] == (0, 0, 1)
    other.partial(fine, b"1")
    other.reply(fine, b"2")
    assert [type(reply) for reply in client.take((c.Partial, c.Final))] == [c.Partial, c.Final]
    client.send(ask(3, body=b"3"))
    if not dialect.concurrent:
        assert stage.held()["echo"] == (1, 0, 1), "its slot is taken until it is through"
    worker.reply(request, b"1")
    assert stage.held()["echo"] == (0, 1, 0)
    [request] = worker.take(m.Request)
    worker.reply(request, b"1")
    assert len(client.take(c.Final)) == 1
    assert stage.broker.protocol_errors == 0
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
def test_a_worker_that_is_through_when_too_much_waits_is_free(dialect: Dialect) -> None:
    stage, worker = scene(dialect, legacy_buffer=5_000)
    client = stage.client()
    client.send(ask(1, body=b"1", messages=0))
    [request] = worker.take(m.Request)
    for _ in range(4):
        worker.partial(request, CHUNK)
    worker.reply(request, CHUNK)
    assert [error.code for error in client.take(c.Error)] == ["RESOURCE_EXHAUSTED"]
    assert stage.held() == {"echo": (0, 0, 0)}
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
def test_replies_wait_for_credit_and_keep_their_order(dialect: Dialect) -> None:
    stage, worker = scene(dialect)
    client = stage.client()
    client.send(ask(1, body=b"1", messages=0, bytes=0))
    [request] = worker.take(m.Request)
    for n in range(5):
        worker.partial(request, b"%d" % n)
    worker.reply(request, b"5")
    assert client.take((c.Partial, c.Final)) == []
    assert stage.held() == {"echo": (0, 1, 0)}
    for n in range(4):
        client.send(c.Credit(1, 1, 1000))
        assert [bytes(each.body) for each in client.take((c.Partial, c.Final))] == [b"%d" % n]
    client.send(c.Credit(1, 1, 1000))
    assert [bytes(each.body) for each in client.take((c.Partial, c.Final))] == [b"4", b"5"]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_an_error_waits_in_its_turn(dialect: Dialect) -> None:
    stage, worker = scene(dialect)
    client = stage.client()
    client.send(ask(1, body=b"1", messages=0))
    [request] = worker.take(m.Request)
    worker.partial(request, b"0")
    worker.fail(request, b'"no"')
    assert client.take((c.Partial, c.Error)) == []
    client.send(c.Credit(1, 1, 1))
    assert [type(each) for each in client.take((c.Partial, c.Error))] == [c.Partial, c.Error]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
@pytest.mark.parametrize("through", [False, True])
def test_a_caller_that_leaves_takes_what_waited_with_it(dialect: Dialect, through: bool) -> None:
    stage, worker = scene(dialect)
    client = stage.client()
    client.send(ask(1, body=b"1", messages=0))
    [request] = worker.take(m.Request)
    worker.partial(request, CHUNK)
    if through:
        worker.reply(request, CHUNK)
    assert stage.broker.memory > 1000
    client.send(c.Cancel(1))
    assert stage.held() == {"echo": (0, 0, 0 if through else 1)}
    if not through:
        worker.partial(request, CHUNK)
        worker.reply(request, CHUNK)
    is_at_rest(stage)
    assert stage.service("echo").counters.cancelled == 1


@pytest.mark.parametrize("dialect", STREAMING, ids=lambda each: each.name)
def test_a_worker_that_is_lost_takes_what_waited_with_it(dialect: Dialect) -> None:
    stage, worker = scene(dialect)
    client = stage.client()
    client.send(ask(1, body=b"1", messages=0))
    [request] = worker.take(m.Request)
    worker.partial(request, CHUNK)
    worker.vanish()
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    is_at_rest(stage)


def test_all_workers_together_have_the_broker_s_memory_and_nobody_else_pays() -> None:
    stage, worker = scene(PIGATO, broker_memory=100_000)
    worker.say(m.Heartbeat(options=b'{"concurrency":10}'))
    client, bystander = stage.client(), stage.client("bystander")
    client.send(*(ask(n, body=b"1", messages=0) for n in range(1, 6)))
    bystander.send(ask(1, body=b"1"))
    *requests, last = worker.take(m.Request)
    for _ in range(50):
        for request in requests:
            worker.partial(request, CHUNK)
            assert stage.broker.memory <= 101_000
    assert {error.code for error in client.take(c.Error)} == {"RESOURCE_EXHAUSTED"}
    assert not client.dropped
    assert not bystander.dropped
    worker.reply(last, b"1")
    assert len(bystander.take(c.Final)) == 1


def test_keyed_callers_none_of_whom_reads_do_not_stop_a_legacy_worker() -> None:
    stage, worker = scene(MDP02)
    first, second = stage.client("first"), stage.client("second")
    first.send(ask(1, body=b"1", key="k", messages=1))
    second.send(ask(1, body=b"1", key="k", messages=1))
    [request] = worker.take()
    worker.partial(request, b"0")
    worker.partial(request, b"1")
    first.send(c.Cancel(1))
    for n in range(100):
        worker.partial(request, b"%d" % n)
    worker.reply(request, b"end")
    assert [bytes(final.body) for final in second.take(c.Final)] == [b"end"]
    assert stage.held() == {"echo": (0, 0, 0)}


# ---- those who send much and read nothing


def test_a_pigato_client_that_beats_and_does_not_read_is_answered_once() -> None:
    stage = Stage()
    client = Legacy(stage, PIGATO, is_worker=False)
    client.ask()
    client.stall()
    for _ in range(1000):
        client.beat()
    assert len(client.session.link.outbox) == 1
    client.unstall()
    assert client.take() == []
    assert client.beats == 1


def test_a_pigato_worker_that_beats_and_does_not_read_is_answered_once() -> None:
    stage, worker = scene(PIGATO)
    worker.stall()
    for n in range(1000):
        worker.say(m.Heartbeat(options=b'{"concurrency":%d}' % (n % 5 + 1)))
    live(stage, 100.0, worker)
    assert len(worker.session.link.outbox) == 1


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_heartbeats_of_a_request_do_not_pile_up_at_a_worker_that_does_not_read(dialect: Dialect) -> None:
    stage, worker = scene(dialect)
    client = Legacy(stage, OMDP, is_worker=False)
    client.ask(id=b"r1")
    worker.stall()
    for _ in range(1000):
        client.say(m.Heartbeat(id=b"r1"))
    assert len(worker.session.link.outbox) == 1
    worker.unstall()
    worker.take()
    client.say(m.Heartbeat(id=b"r1"))
    assert len(worker.take(m.Heartbeat)) == 1


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_worker_that_does_not_read_is_given_no_more_than_its_outbox(dialect: Dialect) -> None:
    stage = Stage(outbox=5_000)
    worker = Legacy(stage, dialect, is_worker=True)
    worker.ready(concurrency=100)
    worker.stall()
    client = stage.client()
    client.send(*(ask(n, body=CHUNK) for n in range(1, 21)))
    assert worker.session.link.outbox_bytes < 8_000
    worker.unstall()
    answered = 0
    while requests := worker.take(m.Request):
        for request in requests:
            worker.reply(request, b"1")
            answered += 1
    assert answered == 20
    is_at_rest(stage)


def test_a_worker_that_makes_mistakes_and_does_not_read_is_told_once() -> None:
    for dialect in ALL:
        stage = Stage()
        worker = Legacy(stage, dialect, is_worker=True)
        worker.stall()
        for _ in range(1000):
            worker.say(m.Heartbeat())
        waiting = [link for link in stage.stalled[worker.peer] if link.outbox]
        assert len(waiting) == 1
        assert len(stage.broker._farewells) == 1
        worker.unstall()
        assert worker.take() == [m.Disconnect()]
        worker.ready()
        live(stage, 5.0, worker)
        assert stage.broker._farewells == {}


def test_a_farewell_is_not_for_who_comes_back_under_the_same_name() -> None:
    stage = Stage()
    worker = Legacy(stage, OMDP, is_worker=True, identity=b"Wshort")
    worker.stall()
    worker.say(m.Heartbeat())
    worker.vanish()
    assert stage.broker._farewells == {}
    worker.come_back()
    worker.unstall()
    worker.ready()
    assert worker.take() == []
    assert stage.held() == {"echo": (0, 0, 0)}


@pytest.mark.parametrize("worker_dialect", STREAMING, ids=lambda each: each.name)
def test_a_million_partial_replies_of_nothing_for_mdp_0_1(worker_dialect: Dialect) -> None:
    """Joined, they have a limit; so many are not needed to show it."""
    stage, worker = scene(worker_dialect, max_message=10_000)
    client = Legacy(stage, MDP01, is_worker=False)
    client.ask()
    [request] = worker.take(m.Request)
    for _ in range(1000):
        worker.partial(request, b"")
        assert stage.broker.memory < 15_000
    [reply] = client.take()
    assert code_of(reply) == "RESOURCE_EXHAUSTED"
    worker.reply(request, b"1")
    is_at_rest(stage)

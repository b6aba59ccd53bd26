"""Clients of older dialects at the broker's machine: what they ask, how long they wait, and how they leave."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from legacy import ALL, MDP, NUMBERED, Legacy, code_of, error_of, is_at_rest, live
from stage import Speaker, Stage, check_counters

from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import MDP01, MDP02, OMDP, PIGATO, Dialect
from zmdp_trio._wire.majordomo import messages as m

OWN_NAMES = {PIGATO: b"C00000000-0000-4000-8000-000000000001-00000000-0000-4000-8000-000000000002", OMDP: b"CByXn1"}


def scene(
    dialect: Dialect, *, identity: bytes = b"", slots: int = 10, **overrides: Any
) -> tuple[Stage, Speaker, Legacy]:
    """A worker of our own that offers `echo`, and a legacy client."""
    stage = Stage(**overrides)
    worker = stage.worker("echo", slots=slots)
    return stage, worker, Legacy(stage, dialect, is_worker=False, identity=identity)


def options(**values: Any) -> bytes:
    return msgspec.json.encode(values)


# ---- liveness


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_one_that_falls_silent_is_gone_within_four_heartbeats(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask(options=options(timeout=-1))
    [request] = worker.take(c.Request)
    stage.advance(7.5)
    assert client.session is not None
    stage.advance(2.5)
    assert client.session is None
    assert [cancel.id for cancel in worker.take(c.Cancel)] == [request.id]
    assert client.take() == []
    worker.send(c.Final(request.id, 0, b"1"))
    stage.advance(5.0)
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_one_that_beats_stays(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask(options=options(timeout=-1))
    live(stage, 600.0, client)
    [request] = worker.take(c.Request)
    worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    [final] = client.take()
    assert final.body == [b"1"]


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_one_of_mdp_never_beats_and_stays_as_long_as_its_connection(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect, identity=b"named")
    client.ask()
    [request] = worker.take(c.Request)
    stage.advance(3600.0)
    assert client.session is not None
    client.vanish()
    assert [cancel.id for cancel in worker.take(c.Cancel)] == [request.id]
    assert client.session is None
    assert stage.held() == {"echo": (0, 0, 1)}


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_one_with_a_name_of_its_own_goes_on_over_another_connection(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect, identity=OWN_NAMES[dialect])
    client.ask(id=client.id(1))
    client.vanish()
    stage.advance(5.0)
    client.come_back()
    client.ask(id=client.id(2))
    for request in worker.take(c.Request):
        worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    assert [reply.id for reply in client.take()] == [client.id(1), client.id(2)]
    assert worker.take(c.Cancel) == []


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_one_that_does_not_come_back_in_time_is_gone(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect, identity=OWN_NAMES[dialect])
    client.ask()
    [request] = worker.take(c.Request)
    client.vanish()
    stage.advance(9.9)
    assert worker.take(c.Cancel) == []
    stage.advance(0.2)
    assert [cancel.id for cancel in worker.take(c.Cancel)] == [request.id]
    client.come_back()
    client.ask()
    assert len(worker.take(c.Request)) == 1


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_one_without_a_name_of_its_own_is_gone_with_its_connection(dialect: Dialect) -> None:
    _, worker, client = scene(dialect, identity=b"\0\1\2\3\4")
    client.ask()
    [request] = worker.take(c.Request)
    client.vanish()
    assert [cancel.id for cancel in worker.take(c.Cancel)] == [request.id]


def test_what_a_client_missed_while_it_was_away_is_sent_when_it_is_back() -> None:
    stage, worker, client = scene(PIGATO, identity=OWN_NAMES[PIGATO])
    client.ask()
    [request] = worker.take(c.Request)
    client.vanish()
    worker.send(c.Partial(request.id, c.Content.JSON, b"1"), c.Final(request.id, c.Content.JSON, b"2"))
    assert client.take() == []
    client.come_back()
    client.beat()
    assert [reply.body for reply in client.take()] == [[b"1"], [b"2"]]
    is_at_rest(stage)


def test_a_broker_that_was_asleep_does_not_hold_the_silence_against_anybody() -> None:
    stage, _worker, client = scene(PIGATO)
    client.ask(options=options(timeout=-1))
    stage.now += 100.0
    stage.broker.handle_timer(now=stage.now)
    client.beat()
    stage.advance(5.0)
    assert client.session is not None
    stage.advance(10.0)
    assert client.session is None


def test_pigato_s_heartbeats_are_answered_and_nobody_else_s() -> None:
    for dialect in NUMBERED:
        _, _, client = scene(dialect)
        client.ask()
        for _ in range(3):
            client.beat()
        client.take()
        assert client.beats == (3 if dialect is PIGATO else 0)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_a_worker_s_signs_of_life_are_not_passed_on(dialect: Dialect) -> None:
    """To a Node client a heartbeat of a request is an error."""
    _, worker, client = scene(dialect)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(c.Heartbeat([c.Held(request.id)]))
    assert client.take() == []
    assert client.beats == 0


# ---- time-outs


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (1000, 0.9),
        (100, 0.075),
        (60_000, 59.9),
        (None, 59.9),
        (0, 59.9),
        ("5000", 59.9),
        (True, 59.9),
        ([], 59.9),
        (2.5e3, 2.4),
    ],
)
def test_a_request_is_given_up_just_before_its_client_does(dialect: Dialect, timeout: Any, seconds: float) -> None:
    stage, worker, client = scene(dialect)
    client.ask(options=options(timeout=timeout) if timeout is not None else b"")
    [request] = worker.take(c.Request)
    assert request.timeout == pytest.approx(seconds, abs=0.11)
    live(stage, seconds - 0.01, client)
    assert worker.take(c.Cancel) == []
    stage.advance(0.02)
    assert len(worker.take(c.Cancel)) == 1
    client.take()
    worker.send(c.Partial(request.id, c.Content.JSON, b"1"), c.Final(request.id, c.Content.JSON, b"1"))
    assert client.take() == []
    is_at_rest(stage)


@pytest.mark.parametrize("timeout", [-1, -2, -1e300, 10**400, 1e300, 2**60])
def test_a_request_without_a_time_out_waits_for_ever(timeout: Any) -> None:
    stage, worker, client = scene(PIGATO)
    text = b'{"timeout":%b}' % (str(timeout).encode())
    client.ask(options=text)
    [request] = worker.take(c.Request)
    assert request.timeout is None
    live(stage, 1000.0, client)
    assert worker.take(c.Cancel) == []
    assert stage.broker.timers == 0


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_partial_replies_renew_the_time(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask(options=options(timeout=1000))
    [request] = worker.take(c.Request)
    for _ in range(20):
        live(stage, 0.8, client)
        worker.send(c.Partial(request.id, c.Content.JSON, b"1"))
    assert len(client.take(m.Partial)) == 20
    live(stage, 0.89, client)
    assert worker.take(c.Cancel) == []
    live(stage, 0.02, client)
    assert len(worker.take(c.Cancel)) == 1


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_replies_that_could_not_leave_in_time_never_leave(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask(options=options(timeout=1000))
    client.ask(id=client.id(1), options=options(timeout=2000))
    first, second = worker.take(c.Request)
    client.stall()
    worker.send(c.Partial(first.id, c.Content.JSON, b"1"), c.Final(first.id, c.Content.JSON, b"2"))
    worker.send(c.Final(second.id, c.Content.JSON, b"3"))
    stage.advance(1.0)
    client.unstall()
    assert [reply.body for reply in client.take()] == [[b"3"]]
    is_at_rest(stage)


def test_what_can_not_leave_is_let_go_at_its_time_though_nobody_reads() -> None:
    stage, worker, client = scene(PIGATO)
    client.ask(options=options(timeout=1000))
    [request] = worker.take(c.Request)
    client.stall()
    worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    timers = stage.broker.timers
    stage.advance(1.0)
    assert stage.broker.timers == timers - 1
    client.unstall()
    assert client.take() == []
    is_at_rest(stage)


def test_a_queued_request_ends_at_its_time_and_its_client_hears_nothing() -> None:
    stage = Stage()
    client = Legacy(stage, PIGATO, is_worker=False)
    client.ask("nobody's", options=options(timeout=5000))
    live(stage, 4.8, client)
    assert stage.held() == {"nobody's": (1, 0, 0)}
    live(stage, 0.2, client)
    assert stage.held() == {}
    assert client.take() == []
    is_at_rest(stage)


def test_mdp_costs_no_timers() -> None:
    stage, _worker, client = scene(MDP02, slots=100)
    client.ask()
    before = stage.broker.timers
    for _ in range(50):
        client.ask()
    assert stage.broker.timers == before


# ---- other options


@pytest.mark.parametrize(
    ("value", "retries"),
    [(0, 0), (1, 1), (True, 1), (False, 0), (None, 0), (-1, 0), (3, 3), (10**30, c.MAX_RETRY), (1.9, 1), ("1", 0)],
)
def test_retry(value: Any, retries: int) -> None:
    _, worker, client = scene(PIGATO)
    client.ask(options=options(retry=value))
    [request] = worker.take(c.Request)
    assert request.retry == retries


def test_a_named_worker() -> None:
    stage = Stage()
    workers = [stage.worker("echo", name=name, slots=10) for name in ("anna", "otto")]
    client = Legacy(stage, PIGATO, is_worker=False)
    for n in range(5):
        client.ask(id=client.id(n), options=options(workerId="otto"))
    assert [len(worker.take(c.Request)) for worker in workers] == [0, 5]
    client.ask(id=client.id(9), options=options(workerId={"no": "name"}, timeout=3000))
    assert stage.held() == {"echo": (1, 5, 0)}
    client.ask(id=client.id(10), options=options(workerId="x" * 300))
    [reply] = client.take()
    assert code_of(reply) == "INVALID_ARGUMENT"


def test_what_must_outlive_the_broker_is_refused() -> None:
    _, worker, client = scene(PIGATO)
    client.ask(options=options(persist=True))
    [reply] = client.take()
    assert code_of(reply) == "UNIMPLEMENTED"
    assert "persist" in error_of(reply)["message"]
    assert worker.take() == []
    client.ask(options=options(persist=False))
    assert len(worker.take(c.Request)) == 1


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_options_that_are_not_the_broker_s_reach_the_worker(dialect: Dialect) -> None:
    _, worker, client = scene(dialect)
    text = options(timeout=5000, mine={"a": 1})
    client.ask(options=text)
    [request] = worker.take(c.Request)
    assert request.headers == {"opts": text.decode()}
    client.ask(id=client.id(5), options=options(timeout=5000, retry=1))
    [request] = worker.take(c.Request)
    assert request.headers is None


@pytest.mark.parametrize("text", [b"", b"undefined", b"null", b"[]", b"7", b"{", b'{"timeout":NaN}', b'{"a":"\xff"}'])
def test_options_that_make_no_sense_are_none(text: bytes) -> None:
    _, worker, client = scene(PIGATO)
    client.ask(options=text)
    [request] = worker.take(c.Request)
    assert (request.timeout, request.retry, request.worker, request.headers) == (60.0, 0, None, None)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_huge_options_are_refused_unread(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask(options=b'{"a":' + b"[" * 100_000)
    [reply] = client.take()
    assert code_of(reply) == "INVALID_ARGUMENT"
    assert worker.take() == []
    is_at_rest(stage)


# ---- bodies


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("value", [b"null", b" null", b"\n\tnull  ", b"null" + b" " * 100])
def test_a_partial_reply_of_nothing_is_something_else_for_node(dialect: Dialect, value: bytes) -> None:
    _, worker, client = scene(dialect)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(
        c.Partial(request.id, c.Content.JSON, value),
        c.Partial(request.id, c.Content.MSGPACK, msgspec.msgpack.encode(None)),
        c.Partial(request.id, c.Content.OPAQUE, value),
        c.Final(request.id, c.Content.MSGPACK, msgspec.msgpack.encode(None)),
    )
    assert [reply.body for reply in client.take()] == [[b"{}"], [b"{}"], [b"{}"], [b"null"]]


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_falsy_partial_replies_stay_as_they_are(dialect: Dialect) -> None:
    _, worker, client = scene(dialect)
    client.ask()
    [request] = worker.take(c.Request)
    texts = [b"false", b"0", b'""', b"[]", b'"null"', b"[null]"]
    worker.send(*(c.Partial(request.id, c.Content.JSON, text) for text in texts))
    assert [reply.body for reply in client.take()] == [[text] for text in texts]


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("body", [b"", b"undefined", b"null"])
def test_no_payload_is_null(dialect: Dialect, body: bytes) -> None:
    _, worker, client = scene(dialect)
    client.ask("echo", body)
    [request] = worker.take(c.Request)
    assert (request.content, request.body) == (c.Content.JSON, b"null")


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("body", [b"{", b"1 2", b"NaN", b"\xff", b"undefine", b"[" * 10_000, b"'a'"])
def test_a_payload_that_is_no_json_is_refused(dialect: Dialect, body: bytes) -> None:
    stage, worker, client = scene(dialect)
    client.ask("echo", body)
    [reply] = client.take()
    assert code_of(reply) == "INVALID_ARGUMENT"
    assert worker.take() == []
    is_at_rest(stage)


UNSAYABLE = [
    (c.Content.MSGPACK, msgspec.msgpack.encode({"a": [b"bytes"]})),
    (c.Content.MSGPACK, msgspec.msgpack.encode(b"bytes")),
    (c.Content.MSGPACK, msgspec.msgpack.encode([math.nan])),
    (c.Content.MSGPACK, msgspec.msgpack.encode({"a": math.inf})),
    (c.Content.MSGPACK, msgspec.msgpack.encode({None: 1})),
    (c.Content.MSGPACK, b"\xc1"),
    (c.Content.BYTES, b"\x00\xff"),
    (c.Content.OPAQUE, b"no JSON"),
    (99, b"?"),
]


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize(("content", "body"), UNSAYABLE)
@pytest.mark.parametrize("kind", [c.Partial, c.Final])
def test_a_reply_that_json_can_not_say_ends_the_request(
    dialect: Dialect, content: int, body: bytes, kind: type[Any]
) -> None:
    stage, worker, client = scene(dialect)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(kind(request.id, content, body))
    [reply] = client.take()
    assert code_of(reply) == "INTERNAL"
    assert error_of(reply)["message"].endswith(f", and its caller speaks {dialect.name}")
    if kind is c.Partial:
        assert len(worker.take(c.Cancel)) == 1
        worker.send(c.Final(request.id, c.Content.JSON, b"1"))
        assert client.take() == []
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_mdp_s_frames_to_us_and_back(dialect: Dialect) -> None:
    _, worker, client = scene(dialect)
    client.ask("echo", b"\xff")
    client.ask("echo", b"a", b"", b"c")
    one, three = worker.take(c.Request)
    assert (one.content, one.body) == (c.Content.OPAQUE, b"\xff")
    assert (three.content, msgspec.msgpack.decode(three.body)) == (c.Content.MSGPACK, [b"a", b"", b"c"])
    worker.send(c.Final(three.id, three.content, three.body), c.Final(one.id, one.content, one.body))
    worker.take()
    assert [list(reply.body) for reply in client.take()] == [[b"a", b"", b"c"], [b"\xff"]]


# ---- errors, and what MDP has in their place


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_an_error_has_code_message_and_details(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(c.Error(request.id, "PERMISSION_DENIED", "", "no", msgspec.msgpack.encode({"why": [1]})))
    [reply] = client.take()
    assert error_of(reply) == {"code": "PERMISSION_DENIED", "message": "no", "details": {"why": [1]}}
    is_at_rest(stage)


@pytest.mark.parametrize(
    "details", [b"\xc1", *(msgspec.msgpack.encode(each) for each in ({None: 1}, b"x", [math.nan], {(1,): 2}))]
)
def test_details_that_json_can_not_say_are_left_out(details: bytes) -> None:
    _, worker, client = scene(PIGATO)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(c.Error(request.id, "INTERNAL", "", "no", details))
    [reply] = client.take()
    assert error_of(reply) == {"code": "INTERNAL", "message": "no"}


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_mdp_without_errors_is_silent(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect, mdp_errors=False)
    client.ask()
    client.ask()
    first, second = worker.take(c.Request)
    worker.send(c.Error(first.id, "INTERNAL", "", "no"), c.Final(second.id, 0, b"yes"))
    assert [list(reply.body) for reply in client.take()] == [[b"yes"]]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_a_service_that_nobody_offers_is_waited_for(dialect: Dialect) -> None:
    stage = Stage(legacy_wait=30.0)
    client = Legacy(stage, dialect, is_worker=False)
    client.ask("later")
    stage.advance(29.0)
    worker = stage.worker("later")
    [request] = worker.take(c.Request)
    worker.send(c.Final(request.id, 0, b"here"))
    assert [list(reply.body) for reply in client.take()] == [[b"here"]]
    client.ask("never")
    stage.advance(29.9)
    assert client.take() == []
    stage.advance(0.2)
    [reply] = client.take()
    assert code_of(reply) == "NOT_FOUND"
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_lost_worker_is_told_of(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask()
    worker.vanish()
    [reply] = client.take()
    assert code_of(reply) == "UNAVAILABLE"
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_broker_that_drains_refuses_what_is_new_and_ends_what_runs(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask()
    stage.broker.drain()
    stage.flush()
    client.ask(id=client.id(1))
    [reply] = client.take()
    assert code_of(reply) == "UNAVAILABLE"
    assert stage.broker.busy
    [request] = worker.take(c.Request)
    worker.send(c.Final(request.id, c.Content.JSON, b"1"), c.Drained())
    assert len(client.take(m.Final)) == 1
    stage.advance(10.0)
    assert not stage.broker.busy
    stage.broker.goodbye()
    stage.flush()
    assert client.take() == []


# ---- joined partial replies, for MDP 0.1


def test_partial_replies_are_joined_up_to_a_limit() -> None:
    stage, worker, client = scene(MDP01, max_message=1000)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(c.Partial(request.id, 0, b"x" * 400), c.Partial(request.id, 0, b"x" * 400))
    assert client.take() == []
    assert stage.broker.memory > 800
    worker.send(c.Partial(request.id, 0, b"x" * 400))
    [reply] = client.take()
    assert code_of(reply) == "RESOURCE_EXHAUSTED"
    assert len(worker.take(c.Cancel)) == 1
    worker.send(c.Final(request.id, 0, b""))
    is_at_rest(stage)


def test_empty_partial_replies_count_too() -> None:
    stage, worker, client = scene(MDP01, max_message=100_000)
    client.ask()
    [request] = worker.take(c.Request)
    sent = 0
    while not client.session.link._found and stage.held() == {"echo": (0, 1, 0)}:
        worker.send(c.Partial(request.id, 0, b""))
        sent += 1
        assert sent < 10_000
    [reply] = client.take()
    assert code_of(reply) == "RESOURCE_EXHAUSTED"


def test_a_client_that_leaves_takes_what_was_joined_with_it() -> None:
    stage, worker, client = scene(MDP01)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(c.Partial(request.id, 0, b"x" * 10_000))
    client.vanish()
    worker.send(c.Final(request.id, 0, b""))
    stage.advance(5.0)
    is_at_rest(stage)


# ---- several at once


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_hundred_requests_at_once_are_answered_as_they_are_done(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect, slots=100)
    for n in range(100):
        client.ask("echo", b"%d" % n, id=client.id(n))
    requests = worker.take(c.Request)
    assert len(requests) == 100
    for request in reversed(requests):
        worker.send(c.Final(request.id, request.content, request.body))
    replies = client.take()
    assert [bytes(reply.body[0]) for reply in replies] == [b"%d" % n for n in reversed(range(100))]
    if dialect.numbered:
        assert [reply.id for reply in replies] == [client.id(n) for n in reversed(range(100))]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_nothing_follows_a_final_reply(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.ask()
    [request] = worker.take(c.Request)
    worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    client.take()
    worker.send(
        c.Partial(request.id, c.Content.JSON, b"2"),
        c.Final(request.id, c.Content.JSON, b"3"),
        c.Error(request.id, "INTERNAL", "", "no"),
        c.Heartbeat([c.Held(request.id)]),
    )
    assert client.take() == []
    assert stage.broker.late_replies == 3


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_an_id_may_be_used_again_when_its_request_is_over_and_not_before(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    for n in range(3):
        client.ask(id=client.id(0))
        client.ask(id=client.id(0))
        [request] = worker.take(c.Request)
        worker.send(c.Final(request.id, c.Content.JSON, b"1"))
        assert len(client.take()) == 1
        assert stage.broker.protocol_errors == n + 1
        check_counters(stage.broker)
    is_at_rest(stage)


def test_two_clients_may_use_the_same_ids() -> None:
    stage, worker, client = scene(OMDP)
    other = Legacy(stage, OMDP, is_worker=False)
    client.ask("echo", b"1")
    other.ask("echo", b"2")
    for request in worker.take(c.Request):
        worker.send(c.Final(request.id, request.content, request.body))
    assert [client.take()[0].body, other.take()[0].body] == [[b"1"], [b"2"]]


def test_a_client_may_have_so_many_requests_and_no_more() -> None:
    stage, worker, client = scene(PIGATO, client_requests=5, slots=100)
    for n in range(7):
        client.ask(id=client.id(n))
    assert [code_of(reply) for reply in client.take()] == ["RESOURCE_EXHAUSTED"] * 2
    assert len(client.session.link._calls) == 5
    for request in worker.take(c.Request):
        worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    is_at_rest(stage)

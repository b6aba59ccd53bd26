"""Workers of older dialects at the broker's machine: how they come, what they hold, and how they go."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from legacy import ALL, MDP, NUMBERED, UUIDS, Legacy, code_of, is_at_rest, live
from stage import Speaker, Stage, ask, check_counters

from zmdp_trio._core.bodies import NO_TEXT
from zmdp_trio._core.broker.legacy.worker import CONCURRENCY, GRACE, UNLIMITED
from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import MDP01, MDP02, OMDP, PIGATO, Dialect, Route
from zmdp_trio._wire.majordomo import messages as m

OWN_NAME = b"W00000000-0000-4000-8000-000000000001-00000000-0000-4000-8000-000000000002"


def scene(dialect: Dialect, **overrides: Any) -> tuple[Stage, Legacy, Speaker]:
    """A legacy worker that offers `echo`, and a client of our own."""
    stage = Stage(**overrides)
    worker = Legacy(stage, dialect, is_worker=True)
    worker.ready()
    return stage, worker, stage.client()


def slots(stage: Stage, name: str = "echo") -> int:
    """How many requests its workers take at once."""
    return sum(offer.slots for offer in stage.service(name).offers.values())


def offered(stage: Stage) -> bool:
    return any(service.offers for service in stage.services())


# ---- READY


def test_mdp_s_workers_are_there_at_once_and_take_one_request() -> None:
    for dialect in MDP:
        stage = Stage()
        worker = Legacy(stage, dialect, is_worker=True)
        worker.say(m.Ready("echo"))
        assert slots(stage) == 1
        assert worker.take() == []


def test_ready_alone_is_omdp_s_after_a_while() -> None:
    stage = Stage()
    worker = Legacy(stage, OMDP, is_worker=True)
    worker.say(m.Ready("echo"))
    assert not offered(stage)
    stage.advance(GRACE)
    assert slots(stage) == 1
    client = stage.client()
    client.send(ask(1, body=b"1"))
    [request] = worker.take()
    worker.reply(request, b"2")
    assert len(client.take(c.Final)) == 1


@pytest.mark.parametrize(
    ("frames", "dialect", "expected"),
    [
        ((b"W", b"4"), OMDP, 1),
        ((b"W", b"4", b"", b'{"concurrency":7}'), PIGATO, 7),
        ((b"W", b"4", b"", b"{}"), PIGATO, CONCURRENCY),
        ((b"W", b"4", b""), PIGATO, CONCURRENCY),
    ],
)
def test_the_heartbeat_behind_ready_tells_which_it_is(frames: Any, dialect: Dialect, expected: int) -> None:
    stage = Stage()
    worker = Legacy(stage, dialect, is_worker=True)
    worker.say(m.Ready("echo"))
    worker.say_frames(*frames)
    assert slots(stage) == expected
    assert worker.session.link.dialect is dialect
    acknowledged = worker.take(m.Ready)
    assert len(acknowledged) == (dialect is PIGATO)
    stage.advance(1.0)
    assert slots(stage) == expected
    assert stage.broker.protocol_errors == 0


def test_one_whose_name_tells_that_it_is_pigato_s_waits_only_for_what_it_takes() -> None:
    stage = Stage()
    worker = Legacy(stage, PIGATO, is_worker=True, identity=OWN_NAME)
    worker.say(m.Ready("echo"))
    stage.advance(GRACE)
    assert slots(stage) == CONCURRENCY
    assert worker.take() == [m.Ready()]


def test_a_pigato_worker_taken_for_omdp_s_starts_over_at_its_first_heartbeat() -> None:
    stage = Stage()
    worker = Legacy(stage, PIGATO, is_worker=True)
    worker.say(m.Ready("echo"))
    stage.advance(GRACE)
    worker.say(m.Heartbeat(options=b'{"concurrency":5}'))
    assert worker.take(m.Disconnect) == [m.Disconnect()]
    worker.ready(concurrency=5)
    assert slots(stage) == 5


def test_a_protocol_that_is_set_leaves_nothing_to_guess() -> None:
    for dialect in NUMBERED:
        stage = Stage()
        stage.broker.protocols = frozenset((dialect.name,))
        worker = Legacy(stage, dialect, is_worker=True)
        worker.say(m.Ready("echo"))
        stage.advance(GRACE)
        assert slots(stage) == (1 if dialect is OMDP else CONCURRENCY)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_ready_twice_is_answered_with_disconnect_and_its_jobs_are_lost(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"), ask(2, body=b"2", retry=1))
    worker.take()
    worker.say(m.Ready("echo"))
    assert worker.take() == [m.Disconnect()]
    assert [(error.id, error.reason) for error in client.take(c.Error)] == [(1, "worker-lost")]
    assert stage.held() == {"echo": (1, 0, 0)}
    worker.ready()
    assert len(worker.take(m.Request)) == 1
    check_counters(stage.broker)


BEFORE_READY = [
    m.Heartbeat(),
    m.Partial([b"1"], id=b"1", client=b"1"),
    m.Final([b"1"], id=b"1", client=b"1"),
    m.Failure(b"1", id=b"1", client=b"1"),
    m.Reject(b"1", id=b"1", client=b"1"),
]


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        pytest.param(dialect, message, id=f"{dialect.name}-{type(message).__name__}")
        for dialect in ALL
        for message in BEFORE_READY
        if dialect.can_say(Route.WORKER_TO_BROKER, type(message))
    ],
)
def test_anything_before_ready_is_answered_with_disconnect(dialect: Dialect, message: m.Message) -> None:
    stage = Stage()
    worker = Legacy(stage, dialect, is_worker=True)
    worker.say(message)
    assert worker.take() == [m.Disconnect()]
    assert stage.broker.protocol_errors == 0, "so says each worker whose broker was started anew"
    assert stage.broker.take_dropped() == []
    assert stage.broker.sessions() == []
    worker.ready()
    stage.advance(GRACE)
    assert offered(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_disconnect_before_ready_is_a_farewell(dialect: Dialect) -> None:
    stage = Stage()
    worker = Legacy(stage, dialect, is_worker=True)
    worker.say(m.Disconnect())
    assert worker.take() == []
    assert stage.broker.protocol_errors == 0
    assert stage.broker.sessions() == []


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_service_without_a_name_or_with_too_long_a_one_is_refused(dialect: Dialect, name: str) -> None:
    stage = Stage()
    worker = Legacy(stage, dialect, is_worker=True)
    worker.say(m.Ready(name))
    stage.advance(stage.broker.settings.heartbeat)
    assert worker.take(m.Disconnect) == [m.Disconnect()]
    assert stage.services() == []


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["", "x" * 256, "mmi.x", "$dir"])
def test_one_that_is_refused_for_what_it_offers_and_starts_over_at_once_comes_once_per_heartbeat(
    dialect: Dialect, name: str
) -> None:
    stage = Stage()
    stage.worker("else")
    end, rounds = stage.now + 60.0, 0
    while stage.now < end:
        worker = Legacy(stage, dialect, is_worker=True)
        worker.ready(name)
        rounds += 1
        assert worker.take() == [], "it would start over"
        while stage.now < end and not worker.take(m.Disconnect):
            stage.advance(0.1)
            worker.beat()
        worker.vanish()
    assert 10 < rounds <= 60.0 / stage.broker.settings.heartbeat + 1
    assert stage.broker.protocol_errors == len(stage.broker.take_dropped()) == rounds
    assert stage.broker._refused == {}


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_one_that_was_refused_may_offer_something_else_when_it_was_told(dialect: Dialect) -> None:
    stage = Stage()
    worker = Legacy(stage, dialect, is_worker=True)
    worker.ready("mmi.x")
    worker.ready("echo")
    assert not offered(stage)
    stage.advance(stage.broker.settings.heartbeat)
    assert worker.take() == [m.Disconnect()]
    worker.ready("echo")
    stage.advance(GRACE)
    assert offered(stage)


def test_what_a_refused_one_is_told_is_not_for_who_comes_back_under_the_same_name() -> None:
    stage = Stage()
    worker = Legacy(stage, OMDP, is_worker=True, identity=b"Wshort")
    worker.ready("mmi.x")
    worker.vanish()
    worker.come_back()
    worker.ready("echo")
    assert offered(stage)
    stage.advance(stage.broker.settings.heartbeat)
    assert worker.take() == []
    assert offered(stage)


# ---- replies


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
@pytest.mark.parametrize("client", [b"999", b"nobody", b"-1", b"\xff", b"9" * 200, "\N{SUPERSCRIPT TWO}".encode()])
def test_a_reply_to_a_request_that_an_mdp_worker_does_not_hold(dialect: Dialect, client: bytes) -> None:
    stage, worker, asking = scene(dialect)
    asking.send(ask(1, body=b"1"))
    worker.take()
    worker.say(m.Final([b"?"], client=client))
    assert worker.take() == [m.Disconnect()]
    assert [error.reason for error in asking.take(c.Error)] == ["worker-lost"]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_a_second_final_reply_of_an_mdp_worker(dialect: Dialect) -> None:
    _, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take()
    worker.reply(request, b"1")
    worker.reply(request, b"2")
    assert worker.take() == [m.Disconnect()]
    assert len(client.take(c.Final)) == 1


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_late_replies_of_workers_with_many_requests_are_counted_and_passed_over(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    worker.reply(request, b"1")
    worker.partial(request, b"2")
    worker.reply(request, b"3")
    worker.fail(request, b"4")
    worker.say(m.Final([b"?"], id=b"nobody", client=b"x"))
    assert worker.take() == []
    assert stage.broker.late_replies == 4
    assert [final.body for final in client.take(c.Final)] == [b"1"]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_nobody_replies_for_another(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    other = Legacy(stage, dialect, is_worker=True)
    other.ready()
    other.reply(request, b'"forged"')
    assert client.take() == []
    worker.reply(request, b"1")
    assert [final.body for final in client.take(c.Final)] == [b"1"]


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("body", [b"{", b"\xff", b"NaN", b'"\\ud83d"'])
@pytest.mark.parametrize("last", [False, True])
def test_a_reply_that_is_no_json_ends_its_request_alone(dialect: Dialect, body: bytes, last: bool) -> None:
    stage, worker, client = scene(dialect)
    if dialect.concurrent:
        worker.say(m.Heartbeat(options=b'{"concurrency":2}'))
    client.send(ask(1, body=b"1"), ask(2, body=b"2"))
    request = worker.take(m.Request)[0]
    if last:
        worker.reply(request, body)
    else:
        worker.partial(request, body)
        assert stage.held()["echo"][2] == 1, "its slot is taken until it is through"
        worker.partial(request, b"1")
        worker.reply(request, b"1")
    [error] = client.take((c.Error, c.Partial, c.Final))
    assert (error.id, error.code) == (1, "INTERNAL")
    assert worker.take(m.Disconnect) == []
    assert stage.held() == {"echo": (0, 1, 0)}
    assert stage.broker.protocol_errors == 0
    check_counters(stage.broker)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("through", [False, True])
def test_no_json_behind_replies_that_wait(dialect: Dialect, through: bool) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1", messages=0))
    [request] = worker.take(m.Request)
    worker.partial(request, b"1")
    if through:
        worker.reply(request, b"{")
        assert client.take(c.Error) == []
        client.send(c.Credit(1, 1, 1))
    else:
        worker.partial(request, b"{")
    replies = client.take((c.Partial, c.Error))
    assert [type(each) for each in replies] == ([c.Partial, c.Error] if through else [c.Error])
    if not through:
        worker.reply(request, b"{")
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("body", [b"", b"undefined", b"null"])
def test_a_reply_of_nothing_is_null(dialect: Dialect, body: bytes) -> None:
    _, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    worker.partial(request, body)
    worker.reply(request, body)
    replies = client.take((c.Partial, c.Final))
    assert [(reply.content, reply.body) for reply in replies] == [(c.Content.JSON, b"null")] * 2


ERRORS: list[tuple[bytes, str, str, Any]] = [
    (b'"it broke"', "INTERNAL", "it broke", None),
    (b'{"code":"NOT_FOUND","message":"gone"}', "NOT_FOUND", "gone", None),
    (b'{"code":"NOT_FOUND","message":"gone","details":[1,{"a":2}]}', "NOT_FOUND", "gone", [1, {"a": 2}]),
    (b'{"code":"ENOENT","message":"gone"}', "INTERNAL", NO_TEXT, ...),
    (b'{"code":[],"message":"gone"}', "INTERNAL", NO_TEXT, ...),
    (b'{"code":{},"message":{}}', "INTERNAL", NO_TEXT, ...),
    (b'{"code":"INTERNAL","message":7}', "INTERNAL", NO_TEXT, ...),
    (b"{}", "INTERNAL", NO_TEXT, {}),
    (b"null", "INTERNAL", "null", None),
    (b"undefined", "INTERNAL", "null", None),
    (b"-7.5", "INTERNAL", NO_TEXT, -7.5),
    (b"1" * 30, "INTERNAL", "1" * 30, None),
    (b'{"code":"INTERNAL","message":"m","details":%b}' % (b"9" * 30), "INTERNAL", "m", None),
    (b"C_TIMEOUT", "INTERNAL", "C_TIMEOUT", None),
    (b"\xff\xfe", "INTERNAL", "\ufffd\ufffd", None),
    (b"[" * 5000, "INTERNAL", "[" * 200, None),
    (b'"%b"' % (b"x" * 100_000), "INTERNAL", 'an error of 100,002 bytes: "' + "x" * 199, None),
    (b"[%b0.1]" % (b"0.1," * 8_000), "INTERNAL", NO_TEXT, ...),
]


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize(("error", "code", "message", "details"), ERRORS, ids=lambda each: repr(each)[:30])
def test_errors_of_any_form(dialect: Dialect, error: bytes, code: str, message: str, details: Any) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    worker.fail(request, error)
    [reply] = client.take()
    assert (reply.code, reply.message) == (code, message)
    assert (msgspec.msgpack.decode(reply.details) if reply.details else None) == (
        msgspec.json.decode(error) if details is ... else details
    )
    assert stage.broker.protocol_errors == 0
    is_at_rest(stage)


UNSAYABLE = [
    msgspec.msgpack.encode(each) for each in (b"bytes", {"a": [b"x"]}, [math.nan], {None: 1}, {(1, 2): 3}, {b"k": 1})
]


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("body", [*UNSAYABLE, b"\xc1", b""])
def test_a_payload_that_json_can_not_say_is_its_sender_s_error(dialect: Dialect, body: bytes) -> None:
    stage, worker, client = scene(dialect)
    client.send(_packed(1, body))
    [error] = client.take(c.Error)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "invalid-argument")
    assert dialect.name in error.message
    assert worker.take(m.Request) == []
    is_at_rest(stage)
    client.send(_packed(2, msgspec.msgpack.encode({"a": 1})))
    [request] = worker.take(m.Request)
    assert request.body == [b'{"a":1}']


def _packed(id: int, body: bytes) -> c.Request:
    request = ask(id, body=body)
    request.content = int(c.Content.MSGPACK)
    return request


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_bytes_that_are_json_go_to_json_workers(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    asking = Legacy(stage, MDP02, is_worker=False)
    client.send(ask(1, body=b'{"a": 1}'))
    [request] = worker.take(m.Request)
    worker.reply(request, b"1")
    asking.ask("echo", b"[1, 2]")
    [request] = worker.take(m.Request)
    assert request.body == [b"[1, 2]"]
    worker.reply(request, b"1")
    asking.ask("echo", b"plain text")
    asking.ask("echo", b"1", b"2")
    assert [code_of(reply) for reply in asking.take()[1:]] == ["INVALID_ARGUMENT"] * 2


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_values_of_ours_as_mdp_s_frames(dialect: Dialect) -> None:
    _, worker, client = scene(dialect)
    values = [
        (b"\xff", [b"\xff"]),
        ([b"a", b""], [b"a", b""]),
        ([], [b"[]"]),
        ({"a": 1}, [b'{"a":1}']),
        (None, [b"null"]),
    ]
    for n, (value, frames) in enumerate(values):
        client.send(_packed(n + 1, msgspec.msgpack.encode(value)))
        [request] = worker.take()
        assert list(request.body) == frames
        worker.reply(request, b"1")


# ---- what PIGATO's workers are told


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"timeout": -1}),
        ({"timeout": 1.5}, {"timeout": 1500}),
        ({"timeout": math.inf}, {"timeout": -1}),
        ({"timeout": 1e300}, {"timeout": -1}),
        ({"timeout": 0.0}, {"timeout": 1}),
        ({"retry": 2, "headers": {"a": "b"}}, {"timeout": -1, "retry": 2, "headers": {"a": "b"}}),
        ({"headers": {"opts": '{"mine":1}', "a": "b"}}, {"mine": 1}),
    ],
)
def test_the_options_of_a_request(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    _, worker, client = scene(PIGATO)
    client.send(ask(1, body=b"1", **fields))
    [request] = worker.take(m.Request)
    assert msgspec.json.decode(request.options) == expected


def test_whose_request_it_is() -> None:
    stage, worker, client = scene(PIGATO)
    client.send(ask(1, body=b"1"))
    asking = Legacy(stage, PIGATO, is_worker=False, identity=OWN_NAME.replace(b"W", b"C"))
    worker.say(m.Heartbeat(options=b'{"concurrency":5}'))
    asking.ask()
    first, second = worker.take(m.Request)
    assert (first.client, second.client) == (b"client", asking.peer)
    assert first.id != second.id
    assert first.service == "echo"


@pytest.mark.parametrize("offered", ["echo*", "echo@1.2.3"])
def test_which_name_was_asked_for(offered: str) -> None:
    """PIGATO's workers are told; to the others it makes no difference."""
    for dialect in ALL:
        stage = Stage()
        worker = Legacy(stage, dialect, is_worker=True)
        worker.ready(offered)
        asked = "echo-loud" if offered.endswith("*") else "echo@^1.0.0"
        client = Legacy(stage, MDP02, is_worker=False)
        client.ask(asked, b"1")
        [request] = worker.take(m.Request)
        assert request.service == (asked if dialect is PIGATO else "")
        worker.reply(request, b"2")
        [final] = client.take()
        assert (final.service, final.body) == (asked, [b"2"])


# ---- concurrency


def test_concurrency_goes_up_and_down_with_heartbeats() -> None:
    stage, worker, client = scene(PIGATO)
    client.send(*(ask(n, body=b"1") for n in range(1, 21)))
    taken = worker.take(m.Request)
    assert len(taken) == 1
    for text, running in ((b"5", 5), (b"3", 5), (b"0", 5), (b'"x"', 5), (b"true", 5), (b"8", 8), (b"-1", 20)):
        worker.say(m.Heartbeat(options=b'{"concurrency":%b}' % text))
        taken += worker.take(m.Request)
        assert len(taken) == running, text
    assert slots(stage) == UNLIMITED
    worker.say(m.Heartbeat(options=b'{"concurrency":0}'))
    assert slots(stage) == 0
    for request in taken:
        worker.reply(request, b"1")
    client.send(ask(30, body=b"1"))
    assert stage.held() == {"echo": (1, 0, 0)}
    worker.say(m.Heartbeat())
    assert slots(stage) == 0, "who does not say leaves it as it is"
    worker.say(m.Heartbeat(options=b'{"concurrency":%d}' % 10**30))
    assert slots(stage) == UNLIMITED
    [request] = worker.take(m.Request)
    worker.reply(request, b"1")
    is_at_rest(stage)


def test_ready_and_heartbeats_are_acknowledged() -> None:
    stage = Stage()
    worker = Legacy(stage, PIGATO, is_worker=True)
    worker.say(m.Ready("echo"))
    assert worker.take() == []
    for _ in range(3):
        worker.say(m.Heartbeat(options=b'{"concurrency":0}'))
    assert worker.take() == [m.Ready()]
    # The first came with READY's.
    assert worker.beats == 2


@pytest.mark.parametrize("dialect", [MDP01, MDP02, OMDP], ids=lambda each: each.name)
def test_others_take_one_request_at_a_time(dialect: Dialect) -> None:
    _, worker, client = scene(dialect)
    client.send(*(ask(n, body=b"1") for n in range(1, 4)))
    for n in range(1, 4):
        [request] = worker.take(m.Request)
        worker.reply(request, b"1")
        assert [final.id for final in client.take(c.Final)] == [n]


# ---- liveness


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_the_broker_beats(dialect: Dialect) -> None:
    stage, worker, _ = scene(dialect)
    worker.take()
    before = worker.beats
    live(stage, 10.0, worker)
    worker.take()
    assert worker.beats >= before + 4


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_an_idle_worker_that_falls_silent_is_gone(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    stage.advance(7.5)
    assert offered(stage)
    stage.advance(2.6)
    assert not offered(stage)
    assert worker.take(m.Disconnect) == [m.Disconnect()]
    assert stage.broker.protocol_errors == 0
    client.send(ask(1, body=b"1"))
    stage.advance(1.0)
    assert [error.reason for error in client.take(c.Error)] == ["unavailable"]


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_an_idle_worker_that_beats_stays(dialect: Dialect) -> None:
    stage, worker, _ = scene(dialect)
    live(stage, 300.0, worker)
    assert offered(stage)
    assert worker.take() == ([m.Ready()] if dialect is PIGATO else [])


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_worker_that_works_for_half_a_minute_without_a_beat_is_waited_for(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    stage.advance(30.0)
    worker.reply(request, b"2")
    assert [final.body for final in client.take(c.Final)] == [b"2"]
    stage.advance(7.5)
    assert offered(stage)
    stage.advance(2.6)
    assert not offered(stage)
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
@pytest.mark.parametrize(("busy", "gone"), [(0.0, 10.0), (60.0, 62.5), (900.0, 902.5)])
def test_a_busy_worker_that_never_says_anything_again(dialect: Dialect, busy: float, gone: float) -> None:
    """Lost after `legacy_busy`; with 0, as an idle one."""
    stage, worker, client = scene(dialect, legacy_busy=busy)
    client.send(ask(1, body=b"1"))
    worker.take()
    stage.advance(max(busy, 7.4))
    assert client.take(c.Error) == []
    stage.advance(gone - stage.now + 0.1)
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    assert worker.take(m.Disconnect) == [m.Disconnect()]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_busy_worker_whose_connection_ends_is_noticed_at_once(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    other = stage.worker("echo", name="other", slots=10)
    client.send(ask(1, body=b"1"), ask(2, body=b"2", retry=1))
    running = worker.take(m.Request)
    spared = {request.id for request in other.take(c.Request)}
    worker.vanish()
    lost = [error.id for error in client.take(c.Error)]
    again = [request.id for request in other.take(c.Request)]
    assert len(running) + len(spared) == 2
    assert len(lost) + len(again) == len(running)
    assert 2 not in lost
    check_counters(stage.broker)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_retry_runs_what_was_lost_again_unless_something_was_said(dialect: Dialect) -> None:
    stage = Stage()
    worker = Legacy(stage, dialect, is_worker=True)
    worker.ready()
    client = Legacy(stage, PIGATO, is_worker=False)
    client.ask("echo", b"1", options=b'{"retry":1}')
    for last in (False, True):
        [request] = worker.take(m.Request)
        if last and dialect.partials:
            worker.partial(request, b"1")
        worker.vanish()
        worker = Legacy(stage, dialect, is_worker=True)
        worker.ready()
    assert worker.take(m.Request) == []
    [reply] = client.take(m.Failure)
    assert code_of(reply) == "UNAVAILABLE"
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_one_that_leaves_in_good_order(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    worker.take()
    worker.say(m.Disconnect())
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    assert worker.take() == []
    assert stage.broker.protocol_errors == 0
    client.send(ask(2, body=b"1"))
    stage.advance(1.0)
    assert [error.reason for error in client.take(c.Error)] == ["service-not-found"]
    worker.ready()
    client.send(ask(3, body=b"1"))
    assert len(worker.take(m.Request)) == 1


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_broker_that_stops_says_disconnect(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    stage.broker.drain()
    stage.flush()
    worker.reply(request, b"2")
    assert len(client.take(c.Final)) == 1
    assert worker.take() == []
    stage.broker.goodbye()
    stage.flush()
    assert worker.take() == [m.Disconnect()]


# ---- requests' own heartbeats


@pytest.mark.parametrize("worker_dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("client_dialect", NUMBERED, ids=lambda each: each.name)
def test_request_heartbeats_are_forwarded_and_not_made_up(worker_dialect: Dialect, client_dialect: Dialect) -> None:
    stage, worker, _ = scene(worker_dialect)
    client = Legacy(stage, client_dialect, is_worker=False)
    client.ask("echo", b"1", id=client.id(3))
    [request] = worker.take(m.Request)
    live(stage, 20.0, worker, client)
    assert worker.take() == []
    client.say(m.Heartbeat(id=client.id(3)))
    assert worker.take() == [m.Heartbeat(id=request.id, client=request.client)]
    client.say(m.Heartbeat(id=client.id(4)))
    assert worker.take() == []
    worker.reply(request, b"1")
    client.say(m.Heartbeat(id=client.id(3)))
    assert worker.take() == []
    assert stage.broker.protocol_errors == 0


def test_pigato_s_own_spelling_of_a_request_s_heartbeat() -> None:
    stage, worker, _ = scene(PIGATO)
    client = Legacy(stage, PIGATO, is_worker=False)
    client.ask("echo", b"1", id=UUIDS[3])
    [request] = worker.take(m.Request)
    for spelling in (b"request", b"req"):
        client.say_frames(b"C", b"4", spelling, UUIDS[3])
        assert worker.take() == [m.Heartbeat(id=request.id, client=request.client)]


@pytest.mark.parametrize("worker_dialect", NUMBERED, ids=lambda each: each.name)
@pytest.mark.parametrize("caller", ["ours", "mdp/0.1", "mdp/0.2"])
def test_the_broker_beats_for_callers_that_don_t_and_stops_when_they_leave(
    worker_dialect: Dialect, caller: str
) -> None:
    stage, worker, ours = scene(worker_dialect)
    if caller == "ours":
        ours.send(ask(1, body=b"1"))
    else:
        client = Legacy(stage, {"mdp/0.1": MDP01, "mdp/0.2": MDP02}[caller], is_worker=False)
        client.ask("echo", b"1")
    [request] = worker.take(m.Request)
    beat = m.Heartbeat(id=request.id, client=request.client)
    live(stage, 20.0, worker)
    assert worker.take() == [beat] * 8
    if caller == "ours":
        ours.send(c.Cancel(1))
    else:
        client.vanish()
    live(stage, 20.0, worker)
    assert worker.take() == []
    assert stage.held() == {"echo": (0, 0, 1)}
    worker.reply(request, b"1")
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_mdp_s_workers_know_no_such_heartbeats(dialect: Dialect) -> None:
    stage, worker, client = scene(dialect)
    asking = Legacy(stage, PIGATO, is_worker=False)
    client.send(ask(1, body=b"1"))
    [request] = worker.take()
    worker.reply(request, b"1")
    asking.ask("echo", b"1", id=UUIDS[3])
    worker.take()
    asking.say(m.Heartbeat(id=UUIDS[3]))
    stage.advance(5.0)
    assert worker.take() == []


# ---- reject


def test_a_rejected_request_goes_to_another_worker_and_never_twice_to_the_same() -> None:
    stage = Stage()
    workers = [Legacy(stage, PIGATO, is_worker=True) for _ in range(3)]
    for worker in workers:
        worker.ready(concurrency=5)
    client = Legacy(stage, PIGATO, is_worker=False)
    client.ask()
    asked = []
    for _ in range(3):
        [(worker, request)] = [(worker, each) for worker in workers for each in worker.take(m.Request)]
        asked.append(worker)
        assert client.take() == []
        worker.say(m.Reject(id=request.id, client=request.client))
    assert {*asked} == {*workers}
    [reply] = client.take()
    assert code_of(reply) == "UNAVAILABLE"
    is_at_rest(stage)


def test_a_rejection_behind_partial_replies_breaks_the_rules() -> None:
    stage, worker, client = scene(PIGATO)
    client.send(ask(1, body=b"1"))
    [request] = worker.take(m.Request)
    worker.partial(request, b"1")
    worker.say(m.Reject(id=request.id, client=request.client))
    assert worker.take() == [m.Disconnect()]
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    is_at_rest(stage)


def test_a_rejection_behind_replies_that_nobody_has_read_lets_go_of_them() -> None:
    stage, worker, client = scene(PIGATO)
    client.send(ask(1, body=b"1", messages=0, bytes=0))
    [request] = worker.take(m.Request)
    worker.partial(request, b'"%b"' % (b"x" * 1000))
    assert stage.broker.memory > 2000
    worker.say(m.Reject(id=request.id, client=request.client))
    assert [error.reason for error in client.take(c.Error)] == ["rejected"]
    stage.advance(5.0)
    is_at_rest(stage)


# ---- after a restart


def test_nothing_is_kept_at_our_workers_for_clients_that_can_not_claim_it() -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=2)
    client = Legacy(stage, PIGATO, is_worker=False)
    client.ask()
    stage.client().send(ask(1))
    assert [bool(request.caller) for request in worker.take(c.Request)] == [False, True]

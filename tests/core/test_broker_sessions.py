"""The broker: who may speak, what is theirs to say, and what becomes of those who go."""

from __future__ import annotations

import math
from unittest import mock

import msgspec
import pytest
from stage import (
    EPOCH,
    FROM_CLIENT,
    FROM_WORKER,
    LIMITS,
    SAMPLES,
    Speaker,
    Stage,
    ask,
    check_counters,
    hello,
    session_id,
)

from zmdp_trio._core.broker import workers
from zmdp_trio._core.broker.greetings import MAX_SHUNNED
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1


def stranger(stage: Stage, greeting: c.Hello | None = None) -> Speaker:
    """Return a peer that has connected and not yet greeted."""
    speaker = Speaker(stage, greeting or hello())
    stage.speakers.append(speaker)
    speaker.peer = stage.attach(speaker)
    return speaker


def names(stage: Stage) -> list[str]:
    return [session.name for session in stage.broker.sessions()]


# ---- greetings


def test_a_greeting_is_answered() -> None:
    stage = Stage(max_message=1000, heartbeat=7.0)
    client = stage.client("anna")
    assert client.welcome == c.Welcome(1, "broker", EPOCH, False, c.Limits(1000, 16384, 255), 7.0, [])
    assert names(stage) == ["anna"]


def test_an_empty_broker_has_nothing_to_do() -> None:
    stage = Stage()
    assert stage.deadline == math.inf
    client = stage.client()
    assert stage.deadline == 2.5
    client.send(c.Goodbye())
    assert names(stage) == []
    assert stage.step() == 2.5
    assert stage.deadline == math.inf


@pytest.mark.parametrize(
    "commands",
    [
        [],
        [ask(1)],
        [c.Cancel(1)],
        [c.Welcome(1, "b", EPOCH, False, LIMITS, 1.0, [])],
        [c.Heartbeat(), hello()],
    ],
    ids=lambda commands: "+".join(type(command).__name__ for command in commands) or "nothing",
)
def test_who_does_not_greet_first_is_told_so_once_and_ignored(commands: list[c.Command]) -> None:
    stage = Stage()
    peer = stranger(stage)
    peer.say_uncounted(*commands)
    assert peer.goodbye == c.Goodbye("greet first", refused=True)
    peer.goodbye = None
    peer.say_uncounted(hello())
    assert peer.goodbye is None
    assert names(stage) == []
    assert stage.broker.protocol_errors == 1


def test_who_leaves_before_its_greeting_came_does_nothing_wrong() -> None:
    """A peer that is closed while it greets says goodbye in the greeting's place."""
    stage = Stage()
    peer = stranger(stage)
    peer.say_uncounted(c.Goodbye())
    assert peer.goodbye is None
    assert names(stage) == []
    assert stage.broker.protocol_errors == 0


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (hello(version=2), "version 2 is not supported, this broker speaks 1"),
        (hello(version=0), "version 0 is not supported, this broker speaks 1"),
        (hello(session=bytes(15)), "16 to 255 bytes"),
        (hello(session=bytes(256)), "16 to 255 bytes"),
        (hello(name="x" * 256), "16 to 255 bytes"),
        (hello(name="\N{EURO SIGN}" * 86), "16 to 255 bytes"),
        (hello("w", ""), "empty or too long"),
        (hello("w", "echo", "s" * 256), "empty or too long"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_greeting_that_will_not_do_is_refused_with_the_reason(greeting: c.Hello, reason: str) -> None:
    stage = Stage()
    peer = stranger(stage, greeting)
    peer.greet()
    assert peer.goodbye is not None
    assert peer.goodbye.refused
    assert reason in peer.goodbye.reason
    assert names(stage) == []
    assert peer.welcome is None, "refused means: never welcomed"
    stage.advance(10.0)
    assert stage.services() == []


@pytest.mark.parametrize("frames", [[], [zmdp1.MAGIC, b"\xc1"], [zmdp1.MAGIC], [b"ZMDP\x02", b"\x90"], [b"ZMDP"]])
def test_who_greets_with_something_unreadable_is_told_so(frames: list[bytes]) -> None:
    stage = Stage()
    peer = stranger(stage)
    stage.broker.receive(peer.peer, frames, now=0.0)
    stage.flush()
    assert peer.goodbye is not None
    assert peer.goodbye.refused
    assert names(stage) == []


@pytest.mark.parametrize("frames", [[b""], [b"", b""], [b"MDPC03", b"x"], [b"GET / HTTP/1.1"], [b"\xaa\xa4\x01"]])
def test_who_speaks_something_else_is_refused_in_silence(frames: list[bytes]) -> None:
    stage = Stage()
    peer = stranger(stage)
    for _ in range(3):
        stage.broker.receive(peer.peer, frames, now=0.0)
    assert stage.broker.take_dirty() == []
    assert names(stage) == []
    assert stage.broker.protocol_errors == 1
    assert len(stage.broker.take_dropped()) == 1
    stage.broker.lost(peer.peer, now=1.0)
    assert not stage.broker._shunned


def test_a_doubled_greeting_is_answered_again() -> None:
    stage = Stage()
    client = stage.client()
    client.welcome = None
    client.say_uncounted(client.greeting, received=0)
    assert client.welcome is not None
    assert not client.dropped
    assert names(stage) == ["client"]


def test_a_greeting_doubled_after_the_broker_s_restart_is_no_breach() -> None:
    """It tells how much came in the session before, which this broker knows nothing of."""
    stage = Stage()
    client = stranger(stage)
    client.greet(epoch=b"another", received=50)
    client.say_uncounted(client.greeting, received=50)
    assert not client.dropped
    assert client.welcome is not None
    assert not client.welcome.resumed


def test_a_second_session_over_one_connection_is_a_breach() -> None:
    stage = Stage()
    client = stage.client()
    client.send(hello("somebody else"))
    assert client.dropped
    assert names(stage) == []


def test_those_who_are_ignored_are_remembered_up_to_a_number() -> None:
    stage = Stage()
    for n in range(MAX_SHUNNED + 10):
        stage.broker.receive(b"%d" % n, [b"?"], now=0.0)
        stage.broker.take_dirty()
    assert len(stage.broker._shunned) == MAX_SHUNNED
    stage.broker.lost(b"%d" % MAX_SHUNNED, now=0.0)
    assert len(stage.broker._shunned) == MAX_SHUNNED - 1
    stage.broker.lost(b"nobody", now=0.0)


def test_what_still_comes_from_a_peer_that_can_t_be_reached_is_ignored() -> None:
    """Its connection's end may be told later than what it sent before."""
    stage = Stage()
    client = stage.client()
    client.link.put(ask(1))
    stage.broker.unreachable(client.peer, now=0.0)
    stage.flush()
    assert stage.broker.protocol_errors == 0
    assert stage.services() == []
    stage.broker.lost(client.peer, now=0.0)
    assert not stage.broker._shunned


# ---- what is whose to say


@pytest.mark.parametrize("kind", c.ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("role", ["client", "worker"])
def test_what_is_not_the_sender_s_to_say_is_a_breach(role: str, kind: type[c.Command]) -> None:
    stage = Stage()
    peer = stage.client("peer") if role == "client" else stage.worker("echo", name="peer")
    peer.send(SAMPLES[kind])
    allowed = kind in (FROM_CLIENT if role == "client" else FROM_WORKER)
    assert peer.dropped is not allowed
    assert stage.broker.protocol_errors == (not allowed)
    assert names(stage) == (["peer"] if allowed and kind is not c.Goodbye else [])
    if not allowed:
        assert peer.goodbye == c.Goodbye(f"{kind.__name__} from a {role}", refused=True)


def test_ids_that_were_made_up_do_nothing() -> None:
    stage = Stage()
    holder, forger = stage.worker("echo", name="holder"), stage.worker("sum", name="forger")
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1))
    [request] = holder.take()
    otto.send(c.Cancel(1), c.Credit(1, 9, 9), c.Heartbeat([c.Held(1, 0.0)]), c.Cancel(request.id))
    forger.send(
        c.Partial(request.id, 0, b"forged"),
        c.Final(request.id, 0, b"forged"),
        c.Error(request.id, "INTERNAL", "", "forged"),
        c.Reject(request.id),
        c.Heartbeat([c.Held(request.id)]),
    )
    assert anna.take() == holder.take() == []
    assert stage.broker.late_replies == 4
    assert not forger.dropped
    assert not otto.dropped
    holder.send(c.Final(request.id, 0, b"true"))
    assert anna.take() == [c.Final(1, 0, b"true")]


def test_one_id_for_two_requests_is_a_breach() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=2), stage.client()
    client.send(ask(1), ask(1))
    assert client.dropped
    [request, cancel] = worker.take()
    assert cancel == c.Cancel(request.id)
    check_counters(stage.broker)


@mock.patch.object(workers, "MAX_SERVICES", 3)
def test_offers_without_end_are_a_breach() -> None:
    stage = Stage()
    worker = stage.worker("a", "b")
    worker.send(c.Slots("c", 1), c.Slots("d", 1))
    assert worker.dropped
    assert stage.held() == {"a": (0, 0, 0), "b": (0, 0, 0), "c": (0, 0, 0)}
    stage.advance(10.0)
    assert stage.services() == []


def test_nothing_is_heard_after_a_goodbye() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1), c.Goodbye(), ask(2))
    assert [type(command) for command in worker.take()] == [c.Request, c.Cancel]
    assert names(stage) == ["worker"]


def test_a_lying_acknowledgement_is_a_breach() -> None:
    stage = Stage()
    client = stage.client()
    stage.broker.receive(client.peer, zmdp1.encode(c.Batch(1, 7), []), now=0.0)
    stage.flush()
    assert client.goodbye == c.Goodbye("batch 7 is acknowledged, 0 were sent", refused=True)
    assert names(stage) == []


def test_a_dropped_peer_s_requests_are_cancelled_and_it_may_come_back_over_a_new_connection() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1), c.Drain())
    assert client.dropped
    assert [type(command) for command in worker.take()] == [c.Request, c.Cancel]
    client.come_back()
    assert client.welcome is not None
    assert not client.welcome.resumed


# ---- clients that are lost


def test_a_client_that_comes_back_goes_on_where_it_was() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    client.vanish()
    worker.send(c.Partial(request.id, 0, b"meanwhile"))
    stage.advance(9.0)
    assert worker.take() == []
    client.come_back()
    assert client.welcome is not None
    assert client.welcome.resumed
    worker.send(c.Final(request.id, 0, b"!"))
    assert client.take() == [c.Partial(1, 0, b"meanwhile"), c.Final(1, 0, b"!")]
    assert stage.deadline > 9.0, "its loss is forgotten"
    stage.advance(20.0)
    assert len(stage.broker.sessions()) == 2


@pytest.mark.parametrize(
    ("heard", "lost", "resume", "ends"),
    [
        pytest.param(1.0, 1.0, 10.0, 11.0, id="heard just now: the whole silence"),
        pytest.param(1.0, 8.0, 10.0, 11.0, id="heard some time ago: the rest of it"),
        pytest.param(1.0, 30.0, 10.0, 30.0, id="heard long ago: none"),
        pytest.param(1.0, 1.0, 3.0, 4.0, id="never longer than a session may take to come back"),
        pytest.param(1.0, 1.0, 0.0, 1.0, id="which may be no time at all"),
    ],
)
def test_a_client_that_does_not_come_back_in_time_is_cancelled(
    heard: float, lost: float, resume: float, ends: float
) -> None:
    stage = Stage(resume=resume)
    assert stage.settings.silence == 10.0
    worker, client = stage.worker("echo"), stage.client()
    stage.advance(heard)
    client.send(ask(1))
    [request] = worker.take()
    stage.advance(lost - heard)
    client.vanish()
    assert worker.take() == []
    stage.advance(ends - stage.now - 0.001 if ends > stage.now else 0.0)
    assert (worker.take() == []) is (ends > lost)
    if ends > lost:
        stage.advance(0.002)
        assert worker.take() == [c.Cancel(request.id)]
    assert names(stage) == ["worker"]
    check_counters(stage.broker)


def test_a_client_that_came_too_late_starts_anew() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1))
    client.vanish()
    stage.advance(10.0)
    client.come_back()
    assert client.welcome is not None
    assert not client.welcome.resumed
    assert stage.services() == []


@pytest.mark.parametrize("epoch", [b"", b"another"])
def test_a_client_that_knows_another_broker_starts_anew(epoch: bytes) -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    client.vanish()
    client.greet(epoch=epoch)
    assert client.welcome is not None
    assert not client.welcome.resumed
    assert worker.take() == [c.Cancel(request.id)]
    client.send(ask(1))
    assert stage.held() == {"echo": (1, 0, 1)}


def test_a_new_connection_takes_over_from_one_that_is_not_known_to_be_dead() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    old = client.peer
    client.come_back()
    assert client.welcome is not None
    assert client.welcome.resumed
    stage.cut(old)
    worker.send(c.Final(request.id, 0, b"!"))
    assert client.take() == [c.Final(1, 0, b"!")]
    assert len(names(stage)) == 2


def test_the_old_connection_of_a_session_is_a_stranger_s() -> None:
    stage = Stage()
    client = stage.client()
    old = client.peer
    client.come_back()
    stage.broker.receive(old, zmdp1.encode(c.Batch(1, 0), [ask(1)]), now=0.0)
    assert stage.services() == []
    assert stage.broker.protocol_errors == 1


@pytest.mark.parametrize("received", [99, 0])
def test_a_client_that_comes_back_and_lies_about_what_it_has_is_refused(received: int) -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    worker.send(c.Partial(request.id, 0, b""))
    client.send(c.Credit(1, 1, 1))
    client.vanish()
    client.greet(epoch=EPOCH, received=received)
    assert client.dropped
    assert names(stage) == ["worker"]
    assert c.Cancel(request.id) in worker.take()
    assert stage.broker.timers == 0


def test_a_worker_s_session_does_not_go_on() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, retry=1))
    [request] = worker.take()
    worker.come_back()
    assert worker.welcome is not None
    assert not worker.welcome.resumed
    assert [again.id for again in worker.take()] == [request.id]


def test_a_client_may_come_back_as_a_worker_and_starts_anew() -> None:
    stage = Stage()
    client = stage.client("peer")
    client.send(ask(1))
    client.greeting = hello("peer", "echo")
    client.come_back()
    assert client.welcome is not None
    assert not client.welcome.resumed
    assert stage.held() == {"echo": (0, 0, 0)}
    assert [session.role for session in stage.broker.sessions()] == ["worker"]


def test_two_workers_may_have_one_name() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo", name="twin")
    two = stage.worker("echo", name="twin", session=session_id("other"))
    client.send(ask(1, worker="twin"), ask(2, worker="twin"))
    assert len(one.take()) == len(two.take()) == 1


# ---- heartbeats


def test_the_broker_beats_for_those_that_owe_it_an_acknowledgement_alone() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    worker.acknowledges = client.acknowledges = False
    beats = []
    for _ in range(5):
        stage.step()
        beats.append(worker.beats)
    assert beats == [1, 1, 2, 2, 3], "every other time, since the answer may be under way"
    assert client.beats == 0
    assert client.link.acked == 1, "its request is acknowledged"
    worker.acknowledges = True
    for _ in range(3):
        stage.step()
    assert worker.beats == 3
    client.vanish()
    stage.step()


def test_replies_that_came_twice_are_counted() -> None:
    stage = Stage()
    client = stage.client()
    message = zmdp1.encode(c.Batch(1, 0), [c.Cancel(1)])
    for _ in range(3):
        stage.broker.receive(client.peer, message, now=0.0)
    assert stage.broker.sessions()[0].link.duplicates == 2
    client.vanish()
    stage.advance(10.0)
    assert stage.broker.duplicates == 2


def test_commands_that_nobody_knows_are_counted() -> None:
    stage = Stage()
    client = stage.client()
    unknown = msgspec.msgpack.encode([[0, 1, 0], [99], [99, 1]])
    stage.broker.receive(client.peer, [zmdp1.MAGIC, unknown], now=0.0)
    assert stage.broker.skipped == 2
    client.vanish()
    stage.advance(10.0)
    assert stage.broker.sessions() == []
    assert stage.broker.skipped == 2

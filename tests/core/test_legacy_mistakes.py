"""Peers of older dialects that make mistakes, change, or mean harm: nobody else notices, and nothing of them stays."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from golden import MALFORMED, REFUSED, VECTORS, First, Vector
from legacy import ALL, MDP, NUMBERED, Legacy, code_of, is_anothers, is_at_rest, live
from stage import Stage, ask, check_counters, hello

from zmdp_trio._core.broker.legacy.arrivals import is_ours
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1
from zmdp_trio._wire.majordomo import (
    MAJORTOMO,
    MDP01,
    MDP02,
    MDP02_ENVELOPED,
    OMDP,
    PIGATO,
    Dialect,
    Route,
)
from zmdp_trio._wire.majordomo import messages as m


def peer_of(stage: Stage, vector: Vector) -> Legacy:
    """A peer that has spoken the dialect of a message that it will send."""
    peer = Legacy(stage, vector.dialect, is_worker=vector.route is Route.WORKER_TO_BROKER)
    if vector.route is Route.WORKER_TO_BROKER:
        peer.ready("other")
    else:
        peer.ask()
    return peer


FROM_CLIENT = [each for each in MALFORMED if each.route is Route.CLIENT_TO_BROKER and not is_anothers(each)]
FROM_WORKER = [each for each in MALFORMED if each.route is Route.WORKER_TO_BROKER and not is_anothers(each)]


def test_there_are_such_messages_of_each_dialect() -> None:
    for vectors in (FROM_CLIENT, FROM_WORKER):
        assert {vector.dialect for vector in vectors} >= {MDP01, MDP02, OMDP, PIGATO}


@pytest.mark.parametrize("vector", FROM_CLIENT, ids=str)
def test_a_client_s_malformed_message_is_dropped_and_counted(vector: Vector) -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=10)
    client = peer_of(stage, vector)
    [request] = worker.take(c.Request)
    stage.broker.take_dropped()
    client.say_frames(*vector.frames)
    assert worker.take() == []
    assert stage.broker.protocol_errors == 1
    [(who, _)] = stage.broker.take_dropped()
    assert who.startswith("a message of client ")
    worker.send(c.Final(request.id, c.Content.JSON, b"1"))
    assert len(client.take(m.Final)) == 1
    client.ask()
    assert len(worker.take(c.Request)) == 1
    check_counters(stage.broker)


@pytest.mark.parametrize("vector", FROM_WORKER, ids=str)
def test_a_worker_s_malformed_message_is_answered_with_disconnect(vector: Vector) -> None:
    stage = Stage()
    worker = peer_of(stage, vector)
    client = stage.client()
    client.send(ask(1, "other", body=b"1"))
    worker.take()
    worker.say_frames(*vector.frames)
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    assert stage.broker.protocol_errors == 1
    assert worker.take() == [m.Disconnect()]
    is_at_rest(stage)


@pytest.mark.parametrize("first", [each for each in REFUSED if not is_ours(each.frames)], ids=str)
def test_what_nobody_speaks_is_refused_in_silence_and_then_ignored(first: First) -> None:
    stage = Stage()
    peer = Legacy(stage, MDP02, is_worker=False)
    for _ in range(10):
        peer.say_frames(*first.frames)
    peer.ask()
    assert stage.broker.protocol_errors == 1
    assert stage.broker.sessions() == []
    assert peer.take() == []
    peer.vanish()
    peer.come_back()
    peer.ask()
    assert len(stage.broker.sessions()) == 1


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
@pytest.mark.parametrize("works", [False, True])
def test_garbage_among_what_makes_sense(dialect: Dialect, works: bool) -> None:
    stage = Stage()
    client = stage.client()
    peer = Legacy(stage, dialect, is_worker=works)
    garbage: list[list[bytes]] = [[b""], [b"", b""], [b"\xff" * 300], [b"hello", b"world"], [b"", b"MDPC09", b"x"]]
    for frames in garbage:
        if works:
            peer.ready()
            client.send(ask(1, body=b"1"))
            peer.say_frames(*frames)
            assert peer.take(m.Disconnect) == [m.Disconnect()]
            assert len(client.take(c.Error)) == 1
        else:
            peer.ask("nobody's", id=peer.id(0), options=b'{"timeout":1000}')
            peer.say_frames(*frames)
            live(stage, 2.0, *([peer] if dialect.numbered else []))
    assert stage.broker.protocol_errors == len(garbage)
    check_counters(stage.broker)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_a_reply_from_a_client_and_a_request_from_a_worker(dialect: Dialect) -> None:
    """What the other side of the same dialect would say to them."""
    for vector in VECTORS:
        if vector.dialect is not dialect or vector.route not in (Route.BROKER_TO_CLIENT, Route.BROKER_TO_WORKER):
            continue
        stage = Stage()
        peer = Legacy(stage, dialect, is_worker=vector.route is Route.BROKER_TO_WORKER)
        if peer._to is Route.WORKER_TO_BROKER:
            peer.ready()
        else:
            peer.ask("nobody's")
        peer.say_frames(*vector.frames)
        check_counters(stage.broker)
        assert sum(held[0] for held in stage.held().values()) <= 2


# ---- peers that become others


#: Of these, one may be taken for the other: what follows is of both.
ALIKE = ({OMDP, PIGATO}, {MDP02_ENVELOPED, MAJORTOMO})
PAIRS = [
    pytest.param(first, second, id=f"{first.name}-{second.name}") for first in ALL for second in ALL if first != second
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_client_that_goes_on_in_another_dialect_is_a_new_peer(first: Dialect, second: Dialect) -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=10)
    peer = Legacy(stage, first, is_worker=False)
    peer.ask("echo", b"1")
    [old] = worker.take(c.Request)
    peer.dialect = second
    peer.ask("echo", b"1")
    assert stage.broker.protocol_errors == 0
    assert len([session for session in stage.broker.sessions() if not session.is_worker]) == 1
    commands = worker.take((c.Request, c.Cancel))
    if {first, second} == {OMDP, PIGATO}:
        assert [type(each) for each in commands] == [c.Request]
        return
    cancel, new = commands
    assert cancel == c.Cancel(old.id)
    worker.send(c.Final(old.id, c.Content.JSON, b'"old"'), c.Final(new.id, c.Content.JSON, b'"new"'))
    assert [list(reply.body) for reply in peer.take()] == [[b'"new"']]
    is_at_rest(stage)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_worker_that_goes_on_in_another_dialect_is_a_new_peer(first: Dialect, second: Dialect) -> None:
    stage = Stage()
    client = stage.client()
    peer = Legacy(stage, first, is_worker=True)
    peer.ready()
    client.send(ask(1, body=b"1"))
    peer.take()
    peer.dialect = second
    peer.deaf = {first, second} in ALIKE
    peer.ready()
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    if {first, second} in ALIKE:
        assert stage.broker.protocol_errors > 0, "a second READY of the same one"
        return
    client.send(ask(2, body=b"2"))
    [request] = peer.take(m.Request)
    peer.reply(request, b"3")
    assert [bytes(final.body) for final in client.take(c.Final)] == [b"3"]
    assert stage.broker.protocol_errors == 0


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_one_that_becomes_the_other_side(dialect: Dialect) -> None:
    stage = Stage()
    client = Legacy(stage, dialect, is_worker=False)
    client.ask("mine", b"1")
    worker = Legacy(stage, dialect, is_worker=True)
    worker.peer = client.peer
    stage.ends[client.peer] = worker  # type: ignore[assignment]
    worker.ready("mine")
    assert [session.role for session in stage.broker.sessions()] == ["worker"]
    assert stage.held() == {"mine": (0, 0, 0)}
    assert worker.take(m.Request) == []
    stage.ends[client.peer] = client  # type: ignore[assignment]
    client.ask("mine", b"1")
    assert [session.role for session in stage.broker.sessions()] == ["client"]
    assert stage.broker.protocol_errors == 0


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_one_that_becomes_ours(dialect: Dialect) -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=10)
    client = Legacy(stage, dialect, is_worker=False)
    client.ask()
    worker.take()
    stage.broker.receive(client.peer, zmdp1.encode(c.Batch(0, 0), [hello("ours")]), now=0.0)
    assert [session.name for session in stage.broker.sessions() if not session.is_worker] == ["ours"]
    assert stage.held() == {"echo": (0, 0, 1)}
    assert stage.broker.protocol_errors == 0


def test_a_name_that_comes_back_as_somebody_else_does_not_get_what_was_the_first_one_s() -> None:
    for dialect, works in ((PIGATO, True), (MDP02, False)):
        stage = Stage()
        worker = stage.worker("echo")
        client = Legacy(stage, OMDP, is_worker=False, identity=b"anna")
        client.ask()
        [request] = worker.take(c.Request)
        client.vanish()
        other = Legacy(stage, dialect, is_worker=works, identity=b"anna")
        other.ready("mine") if works else other.ask("mine")
        assert [cancel.id for cancel in worker.take(c.Cancel)] == [request.id]
        worker.send(c.Final(request.id, c.Content.JSON, b"1"))
        assert other.take((m.Final, m.Failure)) == []
        assert stage.broker.protocol_errors == 0


def test_a_broker_that_speaks_some_dialects_refuses_the_others_in_silence() -> None:
    for dialect in ALL:
        stage = Stage()
        stage.broker.protocols = frozenset((zmdp1.NAME, "mdp/0.1" if dialect is not MDP01 else "mdp/0.2"))
        for side in (False, True):
            peer = Legacy(stage, dialect, is_worker=side)
            peer.ready() if side else peer.ask()
            assert peer.take() == []
        assert stage.broker.sessions() == []
        assert {why for _, why in stage.broker.take_dropped()} != set()
        stage.client()
        assert len(stage.broker.sessions()) == 1


def test_a_broker_of_older_dialects_alone_refuses_ours() -> None:
    stage = Stage()
    stage.broker.protocols = frozenset(("pigato",))
    client = stage.client()
    assert client.dropped
    assert "pigato" in client.goodbye.reason  # type: ignore[union-attr]


# ---- many


def test_there_is_room_for_so_many_peers_and_no_more() -> None:
    stage = Stage(broker_sessions=10)
    for n in range(5_000):
        dialect = ALL[n % len(ALL)]
        peer = Legacy(stage, dialect, is_worker=n % 2 == 0, identity=b"peer-%d" % n)
        peer.deaf = True
        peer.ready(f"s{n % 3}") if n % 2 == 0 else peer.ask("s1", id=b"r")
    assert len(stage.broker.sessions()) == 10
    assert stage.broker.turned_away > 4_000
    assert len(stage.broker._shunned) == 0
    stage.advance(20.0)
    silent = [each for each in stage.broker.sessions() if each.link.dialect in NUMBERED and not each.held]
    assert silent == []


def test_names_without_number_leave_nothing_behind() -> None:
    """Each comes, says something, and is gone; those who might come back are waited for, and no longer than that."""
    stage = Stage(broker_sessions=50)
    for n in range(5_000):
        peer = Legacy(stage, OMDP if n % 2 else PIGATO, is_worker=False, identity=b"C%d" % n)
        peer.deaf = True
        peer.beat()
        peer.vanish()
        if n % 20 == 0:
            stage.advance(10.1)
    stage.advance(30.0)
    assert stage.broker.sessions() == []
    assert stage.broker.timers == 0
    assert stage.broker._peers == {}


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_thousands_of_readys(dialect: Dialect) -> None:
    stage = Stage(broker_services=20)
    worker = Legacy(stage, dialect, is_worker=True)
    for n in range(3_000):
        worker.say(m.Ready(f"service-{n}"))
        worker.take()
    stage.advance(1.0)
    assert len(stage.services()) <= 20
    assert len(stage.broker.sessions()) <= 1
    stage.advance(30.0)
    assert stage.services() == []
    assert stage.broker.timers == 0


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
def test_giant_ids_and_names(dialect: Dialect) -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=10)
    client = Legacy(stage, dialect, is_worker=False)
    client.say_frames(b"C", b"2", b"echo", b"i" * 10_000_000, b"1", b"{}")
    client.say_frames(b"C", b"2", b"x" * 10_000_000, client.id(0), b"1", b"{}")
    assert stage.broker.protocol_errors == 2
    client.say_frames(b"C", b"2", b"x" * 10_000, client.id(0), b"1", b"{}")
    assert worker.take() == []
    assert [code_of(reply) for reply in client.take()] == ["INVALID_ARGUMENT"]
    is_at_rest(stage)


@pytest.mark.parametrize("dialect", MDP, ids=lambda each: each.name)
def test_a_message_of_many_frames(dialect: Dialect) -> None:
    stage = Stage(max_message=100_000)
    worker = stage.worker("echo", slots=10)
    client = Legacy(stage, dialect, is_worker=False)
    client.ask("echo", *[b""] * 200_000)
    assert worker.take() == []
    assert len(client.take(m.Final)) == 1
    is_at_rest(stage)


def test_mistakes_leave_memory_where_it_was() -> None:
    stage = Stage(client_requests=10, resume=1.0)
    stage.worker("echo", slots=5)
    tracemalloc.start()
    try:
        used: list[int] = []
        for _ in range(3):
            for dialect in ALL * 5:
                make_mistakes(stage, dialect)
            stage.advance(60.0)
            stage.broker.take_dropped()
            assert stage.broker.timers == 0
            assert stage.broker._farewells == {}
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert used[2] - used[1] < 20_000


def make_mistakes(stage: Stage, dialect: Dialect) -> None:
    """Let a client and a worker say whatever a peer or a broker of their dialect could say, rightly or not."""
    for side in (False, True):
        peer = Legacy(stage, dialect, is_worker=side)
        peer.deaf = True
        for vector in (*VECTORS, *MALFORMED):
            if vector.dialect is dialect:
                peer.say_frames(*vector.frames)
        peer.vanish()
        del stage.endpoints[peer.peer]

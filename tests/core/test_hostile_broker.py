"""What a hostile peer can cost a broker: its own session, and never more memory than the settings allow."""

from __future__ import annotations

import gc
import itertools
import math
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from fuzzing import HEADS, nested
from stage import EPOCH, Speaker, Stage, ask, check_counters, hello

from zmdp_trio._core import link
from zmdp_trio._core.broker.greetings import MAX_DROPPED, MAX_SHUNNED
from zmdp_trio._core.broker.job import JOB_BYTES
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

MIB = 2**20


@contextmanager
def allocations() -> Iterator[Callable[[], tuple[int, int]]]:
    """Measure memory: what is called returns the bytes that are held since the start, and were held at most."""
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


def knock(stage: Stage, peer: bytes, command: c.Command, received: int = 0) -> None:
    """Send a greeting over a connection of its own, and take what comes back to nowhere."""
    stage.broker.receive(peer, zmdp1.encode(c.Batch(0, received), [command]), now=stage.now)
    stage.flush()


def say(stage: Stage, peer: Speaker, commands: list[Any], *bodies: bytes) -> None:
    """Send a batch of whatever values."""
    peer.link.sent += 1
    frame = msgspec.msgpack.encode([[0, peer.link.sent, 0], *commands])
    stage.broker.receive(peer.peer, [zmdp1.MAGIC, frame, *bodies], now=stage.now)
    stage.flush()


# ---- what can't be read


def damaged() -> Iterator[Any]:
    whole = zmdp1.encode(c.Batch(1, 0), [ask(1), c.Cancel(1)])[1]
    assert isinstance(whole, bytes)
    yield from (pytest.param(whole[:n], id=f"cut at {n}") for n in range(0, len(whole), 4))
    yield pytest.param(msgspec.msgpack.encode(nested(400)), id="nested")
    yield pytest.param(b"\x91" * 100_000, id="nested without end")
    yield pytest.param(msgspec.msgpack.encode([[0, 1, 0], [4, 1, "s", 0, nested(400), 0, 0]]), id="nested body")
    for head in HEADS:
        yield pytest.param(head, id=f"huge count {head[:1].hex()}")
        yield pytest.param(b"\x92\x93\x00\x01\x00" + head, id=f"huge count {head[:1].hex()} of fields")
        yield pytest.param(b"\x92\x93\x00\x01\x00\x93\x0b" + head, id=f"huge count {head[:1].hex()} of items")


@pytest.mark.parametrize("role", ["client", "worker"])
@pytest.mark.parametrize("data", list(damaged()))
def test_what_cannot_be_read_ends_its_sender_s_session_and_nothing_else(data: bytes, role: str) -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    liar = stage.client("liar") if role == "client" else stage.worker("echo", name="liar", slots=0)
    with allocations() as held:
        stage.broker.receive(liar.peer, [zmdp1.MAGIC, data], now=0.0)
        assert held()[1] < MIB, "no memory is set aside for what is only announced"
    stage.flush()
    assert liar.dropped
    assert stage.broker.protocol_errors == 1
    [(who, why)] = stage.broker.take_dropped()
    assert f"{role} 'liar'" in who
    assert why
    client.send(ask(1))
    [request] = worker.take()
    worker.send(c.Final(request.id, 0, b"!"))
    assert client.take() == [c.Final(1, 0, b"!")]


def test_those_who_were_dropped_are_noted_up_to_a_number() -> None:
    stage = Stage()
    for n in range(MAX_DROPPED + 10):
        stage.broker.receive(b"%d" % n, [b"?"], now=0.0)
    stage.flush()
    assert len(stage.broker.take_dropped()) == MAX_DROPPED
    assert stage.broker.take_dropped() == []
    assert stage.broker.protocol_errors == MAX_DROPPED + 10


# ---- greetings


def test_a_thousand_greetings_over_one_connection_are_one_session() -> None:
    stage = Stage()
    client = stage.client()
    with allocations() as held:
        for _ in range(1_000):
            client.say_uncounted(client.greeting)
        assert held()[0] < 50_000
    assert len(stage.broker.sessions()) == 1
    assert not client.dropped


def test_sessions_that_nobody_ends_are_limited_however_many_greet() -> None:
    stage = Stage(broker_sessions=100)
    anna = stage.client("anna")
    with allocations() as held:
        for n in range(12_000):
            greeting = hello(f"n{n}", *(["echo"] if n % 2 else []), session=b"%16d" % n)
            knock(stage, b"%d" % n, greeting)
            stage.broker.take_dropped()
        assert len(stage.broker.sessions()) == 100
        assert held()[0] < 3 * MIB, "those who are turned away are remembered, up to a number"
    assert stage.broker.turned_away == 12_000 - 99
    assert stage.broker.protocol_errors == 0
    assert len(stage.broker._shunned) == MAX_SHUNNED
    assert len(stage.services()) == 1
    anna.come_back()
    assert anna.welcome is not None
    assert anna.welcome.resumed, "who is known may come back"


def test_a_session_costs_a_few_kilobytes() -> None:
    """So that ten thousand, the default, are no more than some forty megabytes."""
    stage = Stage()
    with allocations() as held:
        for n in range(500):
            knock(stage, b"%d" % n, hello("n" * 255, session=b"%255d" % n))
        assert held()[0] / 500 < 4_500


def test_who_is_turned_away_is_told_to_come_again_and_is_let_in_when_there_is_room() -> None:
    stage = Stage(broker_sessions=1, resume=3.0)
    first, second = stage.client("first"), stage.client("second")
    assert second.goodbye == c.Goodbye("1 peers are here, come again later", refused=False)
    assert stage.broker.take_dropped() == [(f"peer {second.peer.decode()!r}", second.goodbye.reason)]
    first.vanish()
    second.greet()
    assert second.dropped, "a session that may come back keeps its place"
    stage.advance(3.0)
    second.greet()
    assert second.welcome is not None
    assert stage.broker.turned_away == 2


def test_a_flood_of_sessions_that_vanish_at_once_does_not_grow() -> None:
    stage = Stage(broker_sessions=50, resume=10.0)
    for n in range(5_000):
        peer = b"%d" % n
        knock(stage, peer, hello(f"n{n}", session=b"%16d" % n))
        stage.broker.lost(peer, now=stage.now)
        stage.broker.take_dropped()
        if n % 100 == 0:
            stage.advance(1.0)
        assert len(stage.broker.sessions()) <= 50
        assert stage.broker.timers <= 50
        assert len(stage.broker._timers._heap) <= 64 + 100
    stage.advance(10.0)
    assert stage.broker.sessions() == []
    assert stage.broker._shunned == {}


# ---- names


NAMES = {
    "services in requests": lambda n: ask(n, f"s{n}", left=0.5),
    "keys": lambda n: ask(n, "echo", key=f"k{n}", left=0.5),
    "wanted workers": lambda n: ask(n, "echo", worker=f"w{n}", left=0.5),
}


@pytest.mark.parametrize("kind", NAMES)
def test_distinct_names_without_end_in_requests_leave_nothing(kind: str) -> None:
    stage = Stage(broker_services=100, client_requests=200, queue_requests=150)
    client = stage.client()
    if kind != "services in requests":
        stage.worker("echo", slots=0)
    numbers = itertools.count()

    def flood() -> None:
        for _ in range(10):
            client.send(*(NAMES[kind](n) for n in itertools.islice(numbers, 100)))
        assert len(stage.services()) <= 101
        assert len(stage.broker._keys) <= 200
        assert stage.broker.timers <= 200 + 2
        check_counters(stage.broker)
        stage.advance(1.0)
        client.take()

    flood()  # what stays of the first one is no growth
    with allocations() as held:
        for _ in range(5):
            flood()
        gc.collect()
        assert held()[0] < MIB // 4
    assert len(stage.services()) <= 1
    assert len(stage.broker._keys) == 0
    assert stage.broker.memory == 0
    total = stage.broker.forgotten
    for service in stage.services():
        total.add(service.counters)
    assert total.received == next(numbers) == total.refused + total.expired + total.joined


def test_distinct_services_are_limited_over_all_clients_and_workers() -> None:
    stage = Stage(broker_services=10)
    client, worker = stage.client(), stage.worker(*(f"o{n}" for n in range(5)))
    client.send(*(ask(n, f"s{n}") for n in range(20)))
    errors = client.take(c.Error)
    assert [error.id for error in errors] == list(range(5, 20))
    assert {(error.code, error.message) for error in errors} == {
        ("RESOURCE_EXHAUSTED", "10 services are known, and this is not one of them")
    }
    client.send(ask(21, "o1"))
    assert len(worker.take(c.Request)) == 1, "those that are known go on"
    other = stage.worker("o1", "one too many", name="other")
    assert other.goodbye == c.Goodbye("10 services are known, this broker takes no more", refused=True)
    check_counters(stage.broker)


def test_services_of_workers_that_come_and_go_are_limited_while_they_count_as_lost() -> None:
    stage = Stage(broker_services=300, resume=10.0)
    for n in range(50):
        worker = stage.worker(*(f"s{n}-{k}" for k in range(50)), name=f"w{n}")
        if not worker.dropped:
            worker.vanish()
        assert len(stage.services()) <= 300
    assert stage.broker.protocol_errors == 44
    stage.advance(10.0)
    assert stage.services() == []
    assert stage.broker.timers == 0


@pytest.mark.parametrize(
    "fields",
    [{"service": "s" * 500_000}, {"key": "k" * 500_000}, {"worker": "w" * 500_000}, {"headers": {"h": "v" * 500_000}}],
    ids=lambda fields: next(iter(fields)),
)
def test_giant_names_are_refused_and_nothing_remembers_them(fields: dict[str, Any]) -> None:
    stage = Stage()
    client = stage.client()
    with allocations() as held:
        for n in range(1, 21):
            client.send(ask(n, **fields))
            [error] = client.take()
            assert error.code == "INVALID_ARGUMENT"
            assert len(error.message) < 200
        assert held()[0] < 500_000
    assert stage.services() == []
    assert len(stage.broker._keys) == 0
    assert stage.broker.forgotten.refused == stage.broker.forgotten.received == 20


# ---- memory


def test_what_all_clients_ask_for_has_a_limit_however_it_is_spread() -> None:
    """Over clients, services, and with a worker that takes everything and says nothing."""
    stage = Stage(broker_memory=2 * MIB, broker_services=1_000, appear=math.inf)
    stage.worker("echo", slots=c.MAX_AMOUNT)
    clients = [stage.client(f"c{n}") for n in range(5)]
    with allocations() as held:
        for n, client in enumerate(clients):
            for k in range(40):
                client.send(ask(k, "echo" if k % 2 else f"s{n}-{k}", bytes(100_000)))
        assert stage.broker.memory < 1.2 * MIB
        assert held()[0] < 4 * MIB
    accepted = sum(len(session.requests) for session in stage.broker.sessions())
    assert accepted == MIB // (100_000 + JOB_BYTES)
    errors = [error for client in clients for error in client.take(c.Error)]
    assert len(errors) == 200 - accepted
    assert {error.message for error in errors} == {"the broker holds as many requests as it has memory for"}
    for client in clients:
        client.send(c.Goodbye())
    cancelling = stage.service("echo").cancelling
    assert cancelling
    assert stage.broker.memory == cancelling * JOB_BYTES
    assert stage.services() == [stage.service("echo")]


def test_requests_without_a_body_count_too() -> None:
    stage = Stage(broker_memory=200 * JOB_BYTES)
    stage.worker("echo", slots=0)
    client = stage.client()
    client.send(*(ask(n) for n in range(150)))
    assert 40 < len(client.take(c.Error)) < 60


def test_those_who_share_a_key_count_too() -> None:
    stage = Stage(broker_memory=200 * JOB_BYTES)
    stage.worker("echo", slots=0)
    client = stage.client()
    client.send(*(ask(n, key="k") for n in range(150)))
    assert 40 < len(client.take(c.Error)) < 60
    client.send(*(c.Cancel(n) for n in range(150)))
    assert stage.broker.memory == 0


def deaf(stage: Stage, name: str, service: str) -> Speaker:
    """Return a client that has asked, has granted credit without end, and never reads."""
    client = stage.client(name)
    client.send(ask(1, service, messages=c.MAX_AMOUNT, bytes=c.MAX_AMOUNT))
    return client


def test_replies_for_clients_that_do_not_read_have_a_limit_in_all_and_who_reads_is_not_hurt() -> None:
    stage = Stage(broker_memory=20 * MIB)
    worker = stage.worker("echo", slots=10)
    reader = stage.client("reader")
    reader.send(ask(1))
    deaf_ones = [deaf(stage, f"deaf-{n}", "echo") for n in range(4)]
    requests = {request.peer: request.id for request in worker.take()}
    for client in deaf_ones:
        client.link.close()  # takes nothing, so it acknowledges nothing
        del stage.ends[client.peer]
    most = 0
    for _ in range(45):
        worker.send(*(c.Partial(requests[f"deaf-{n}"], 0, bytes(50_000 * (n + 1))) for n in range(4)))
        worker.take()
        most = max(most, stage.broker.memory)
    assert 15 * MIB < most <= 20 * MIB + 50_000
    dropped = [who.split("'")[1] for who, _ in stage.broker.take_dropped()]
    assert dropped == ["deaf-3"], "the one that let most wait"
    worker.send(c.Final(requests["reader"], 0, b"read"))
    assert reader.take() == [c.Final(1, 0, b"read")]


# ---- credit, deadlines, numbers


def test_absurd_credit_a_thousand_times_over_is_as_much_as_once() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, messages=c.MAX_AMOUNT, bytes=c.MAX_AMOUNT))
    [request] = worker.take()
    for _ in range(1_000):
        client.send(c.Credit(1, c.MAX_AMOUNT, c.MAX_AMOUNT, 1e308))
    [session] = [session for session in stage.broker.sessions() if not session.is_worker]
    job = session.requests[1]
    assert (job.messages, job.bytes) == (c.MAX_AMOUNT, c.MAX_AMOUNT)  # type: ignore[union-attr]
    worker.send(c.Final(request.id, 0, b""))
    assert client.take() == [c.Final(1, 0, b"")]


LEFT: list[Any] = [math.nan, -math.inf, -0.5, "soon", [1.0], True, -1]


@pytest.mark.parametrize("left", LEFT, ids=repr)
@pytest.mark.parametrize("where", ["left", "timeout", "credit", "held", "greeting"])
def test_times_that_are_none_cost_the_sender_its_session(where: str, left: Any) -> None:
    stage = Stage()
    client = stage.client()
    if where == "greeting":
        greeting = list(msgspec.msgpack.decode(msgspec.msgpack.encode(hello("other"))))
        greeting[6] = left
        frames = [zmdp1.MAGIC, msgspec.msgpack.encode([[0, 0, 0], greeting])]
        stage.broker.receive(b"other", frames, now=0.0)
    else:
        asked = [4, 1, "echo", 0, b"", 1, 1]
        command = {
            "left": [*asked, left],
            "timeout": [*asked, None, left],
            "credit": [9, 1, 1, 1, left],
            "held": [11, [[1, left]]],
        }[where]
        say(stage, client, [command])
        assert client.dropped
    assert stage.broker.protocol_errors == 1


@pytest.mark.parametrize("left", [0.0, 5e-324, 1e308, math.inf, 2**63], ids=repr)
def test_times_that_are_absurd_do_no_harm(left: float) -> None:
    stage = Stage(appear=5.0)
    worker, client = stage.worker("sum"), stage.client()
    say(
        stage,
        client,
        [
            *([4, n, "echo", 0, b"", 1, 1, left, left, None, 0, key] for n, key in enumerate((None, "k", "k"))),
            *([11, [[n, left]] * 10] for n in range(3)),
            *([9, n, 1, 1, left] for n in range(3)),
        ],
    )
    assert not client.dropped
    stage.advance(6.0)
    assert {error.id for error in client.take(c.Error)} == {0, 1, 2}
    assert stage.deadline < math.inf
    assert worker.take() == []


def test_deadlines_that_are_moved_without_end_are_one_timer_each() -> None:
    stage = Stage()
    stage.worker("echo")
    client = stage.client()
    client.send(*(ask(n, left=10.0) for n in range(11)))
    for n in range(20):
        held = [c.Held(n % 10, 10.0 + k / 7) for k in range(10_000)]
        client.shout(c.Heartbeat(held))
    assert stage.broker.timers == 10
    assert len(stage.broker._timers._heap) <= 64 + 1
    assert not client.dropped


# ---- batches


def resend(stage: Stage, client: Speaker, received: int = 0) -> int:
    """Wish for everything again; return how many bytes that makes the broker send."""
    stage.broker.receive(client.peer, zmdp1.encode(c.Batch(0, received, True), []), now=stage.now)
    [sent] = [sum(sum(map(len, frames)) for frames in link._unsent) for link in stage.broker.take_dirty()] or [0]
    for session in stage.broker.sessions():
        session.link.scheduled = False
        session.link._unsent.clear()
    return sent


def test_what_was_sent_is_sent_again_once_and_then_at_each_heartbeat_however_often_it_is_wished_for() -> None:
    """Else twenty bytes would buy eight megabytes, as often as one likes."""
    stage = Stage()
    worker, client = stage.worker("echo"), deaf(stage, "client", "echo")
    [request] = worker.take()
    del stage.ends[client.peer]
    for _ in range(20):
        worker.send(c.Partial(request.id, 0, bytes(300_000)))
    whole = 20 * 300_000
    assert whole < resend(stage, client) < whole + 10_000
    assert [resend(stage, client) for _ in range(1_000)] == [0] * 1_000
    stage.step()
    assert whole < resend(stage, client)
    assert resend(stage, client) == 0
    assert resend(stage, client, received=1) > 0, "who gets on may wish again"
    assert resend(stage, client, received=1) == 0


@pytest.mark.parametrize("sequence", [3, 1000, 2**62])
def test_batches_beyond_the_next_are_not_kept(sequence: int) -> None:
    stage = Stage()
    client = stage.client()
    frames = zmdp1.encode(c.Batch(sequence, 0), [ask(1, body=bytes(100_000))])
    with allocations() as held:
        for _ in range(1_000):
            stage.broker.receive(client.peer, list(frames), now=0.0)
            stage.flush()
        assert held()[0] < 50_000
    assert stage.services() == []
    assert not client.dropped


@pytest.mark.parametrize("received", [1, 2**31, 2**62])
def test_acknowledgements_from_the_future_cost_the_sender_its_session(received: int) -> None:
    stage = Stage()
    client = stage.client()
    stage.broker.receive(client.peer, zmdp1.encode(c.Batch(0, received), []), now=0.0)
    stage.flush()
    assert client.dropped
    assert stage.broker.sessions() == []


def test_what_is_never_acknowledged_stops_at_the_window_and_the_outbox_at_its_limit() -> None:
    stage = Stage(outbox=MIB)
    worker, client = stage.worker("echo"), deaf(stage, "client", "echo")
    [request] = worker.take()
    del stage.ends[client.peer]
    most = 0
    for _ in range(1_000):
        worker.send(c.Partial(request.id, 0, bytes(100_000)))
        [held] = [each.link.held_bytes for each in stage.broker.sessions() if not each.is_worker] or [0]
        most = max(most, held)
    assert link.WINDOW_BYTES < most < link.WINDOW_BYTES + 3 * MIB
    assert [name for name, _ in stage.broker.take_dropped()] == [f"client 'client' ({client.peer.hex()})"]
    assert stage.broker.memory == JOB_BYTES, "its request is cancelled, and runs until its worker says that it ended"
    worker.send(c.Final(request.id, 0, b""))
    assert stage.broker.memory == 0


def test_the_same_session_over_a_thousand_connections_is_one() -> None:
    stage = Stage()
    client = stage.client()
    for n in range(1_000):
        client.greet(epoch=EPOCH if n % 2 else b"")
        assert client.welcome is not None
    assert len(stage.broker.sessions()) == len(stage.broker._peers) == 1
    assert stage.broker.protocol_errors == 0

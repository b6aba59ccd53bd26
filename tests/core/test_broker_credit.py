"""The broker: who may send what, and who is cut off because it does not read."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from answers import LOST, OVERLOADED, counted, errors, final
from stage import Stage, ask

from zmdp_trio._core.broker import workers
from zmdp_trio._core.weights import COMMAND_BYTES, weight
from zmdp_trio._settings import MIB
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

# ---- credit


@pytest.mark.parametrize(
    ("messages", "size", "partials", "breach"),
    [
        (2, 100, [50, 50], False),
        (2, 100, [1, 1, 1], True),
        (9, 100, [99, 99], False),  # while any is left, one message may overdraw it
        (9, 100, [100, 1], True),
        (0, 100, [1], True),
        (9, 0, [0], True),
    ],
)
def test_a_worker_without_credit_may_not_send(messages: int, size: int, partials: list[int], breach: bool) -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, messages=messages, bytes=size))
    [request] = worker.take()
    worker.send(*(c.Partial(request.id, 0, bytes(n)) for n in partials))
    assert worker.dropped is breach
    assert len(client.take(c.Partial)) == len(partials) - breach


def test_credit_makes_room() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, messages=1, bytes=10))
    [request] = worker.take()
    worker.send(c.Partial(request.id, 0, bytes(15)))
    client.send(c.Credit(1, 1, 6))
    worker.send(c.Partial(request.id, 0, b"x"))
    assert not worker.dropped
    assert len(client.take()) == 2


@pytest.mark.parametrize("kind", [c.Partial, c.Final])
def test_a_reply_above_the_broker_s_own_limit_is_a_breach(kind: Any) -> None:
    stage = Stage(max_message=1000)
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    worker.send(kind(request.id, 0, bytes(1001)))
    assert worker.dropped
    assert errors(client) == [(1, *LOST)]


def test_an_error_without_measure_is_a_breach() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    worker.send(c.Error(request.id, "INTERNAL", "", "x" * 200_000))
    assert worker.dropped


# ---- who does not read


def test_a_worker_that_does_not_read_gets_no_more_until_it_has() -> None:
    stage = Stage(outbox=MIB)
    slow, client = stage.worker("echo", name="slow", slots=100), stage.client()
    unread: list[Any] = []
    deliver = slow.deliver
    slow.deliver = unread.append  # type: ignore[method-assign]
    client.send(*(ask(id, body=bytes(MIB // 4)) for id in range(1, 81)))
    held = 0
    while held != stage.service("echo").running:
        held = stage.service("echo").running
        slow.send(c.Slots("other", 1))
    assert held < 60
    assert stage.service("echo").queued == 80 - held
    slow.send(c.Slots("echo", 90), c.Slots("more", 1))
    assert stage.service("echo").running == held, "choked, whatever it leases"
    slow.deliver = deliver  # type: ignore[method-assign]
    for frames in unread:
        deliver(frames)
    for _ in range(40):
        slow.link.acknowledge()
        stage.flush()
    assert stage.service("echo").queued == 0
    assert len(slow.take(c.Request)) == 80


def test_a_client_that_does_not_read_its_partial_replies_is_cut_off() -> None:
    stage = Stage(outbox=MIB)
    worker, client = stage.worker("echo", slots=2), stage.client()
    client.send(ask(1, messages=1000, bytes=2**40))
    [request] = worker.take()
    client.deliver = lambda frames: None  # type: ignore[method-assign]
    for _ in range(40):
        worker.send(c.Partial(request.id, 0, bytes(MIB // 2)))
    assert worker.take() == [c.Cancel(request.id)]
    assert [session.name for session in stage.broker.sessions()] == ["worker"]
    assert not worker.dropped


def test_a_final_reply_for_a_client_that_does_not_read_is_dropped_and_it_is_told() -> None:
    stage = Stage(outbox=MIB)
    worker, client = stage.worker("echo", slots=30), stage.client()
    client.send(*(ask(id) for id in range(1, 31)))
    requests = worker.take()
    client.vanish()
    worker.send(*(final(request, bytes(MIB // 4)) for request in requests))
    client.come_back()
    assert {type(command) for command in client.take()} == {c.Final, c.Error}
    n = counted(stage)
    assert n["replied"] + n["failed"] == 30


def test_a_client_that_asks_and_asks_and_never_reads_is_cut_off() -> None:
    stage = Stage(outbox=10_000)
    client = stage.client()
    unread: list[Any] = []
    client.deliver = unread.append  # type: ignore[method-assign]
    for id in range(2000):
        client.shout(ask(id, ""))
        if not stage.broker.sessions():
            break
    assert stage.broker.sessions() == []
    assert zmdp1.decode(unread[-1])[0][1] == c.Goodbye("it does not read what it asked for", refused=True)


def stuck(stage: Stage, *speakers: Any) -> None:
    """Have peers read no more: what is sent to them waits, but for what is in the window."""
    for speaker in speakers:
        [session] = [each for each in stage.broker.sessions() if each.name == speaker.greeting.name]
        session.link.opened = False


def outbox(stage: Stage, name: str) -> list[c.Command]:
    """Return what waits for a peer, and check that it was weighed."""
    [link] = [session.link for session in stage.broker.sessions() if session.name == name]
    assert link.outbox_bytes == sum(COMMAND_BYTES + weight(command) for command in link.outbox)
    return list(link.outbox)


def test_what_clients_say_does_not_pile_up_before_a_worker_that_does_not_read() -> None:
    stage = Stage(outbox=5_000)
    worker = stage.worker("echo", slots=10)
    noisy, quiet = stage.client("noisy"), stage.client("quiet")
    noisy.send(ask(1, messages=0, bytes=0))
    quiet.send(ask(1))
    one, two = worker.take()
    stuck(stage, worker)
    for n in range(1000):
        noisy.send(c.Heartbeat([c.Held(1, 1.0 + n)]), c.Credit(1, 1, 2))
    quiet.send(c.Credit(1, 7, 7))
    assert outbox(stage, "worker") == [
        c.Heartbeat([c.Held(one.id, 1.0)]),
        c.Credit(one.id, 1000, 2000, 1000.0),
        c.Credit(two.id, 7, 7),
    ]
    worker.send(c.Partial(one.id, 0, bytes(1999)), final(two))
    assert [peer.dropped for peer in (noisy, quiet, worker)] == [False] * 3
    assert noisy.take() == [c.Partial(1, 0, bytes(1999))]


def test_a_worker_is_not_judged_by_what_clients_send_to_it() -> None:
    stage = Stage(outbox=5_000)
    worker, client = stage.worker("echo", slots=2), stage.client()
    stuck(stage, worker)
    client.send(ask(1, body=bytes(100_000)), ask(2))
    worker.send(c.Heartbeat())
    assert not worker.dropped
    assert stage.held() == {"echo": (1, 1, 0)}


@pytest.mark.parametrize("command", [c.Slots("echo", 3), c.Drain()])
@mock.patch.object(workers, "MAX_ANSWERS", 10)
def test_a_worker_that_does_not_read_what_it_has_answered_is_cut_off(command: c.Command) -> None:
    stage = Stage()
    worker = stage.worker("echo")
    for _ in range(20):
        worker.send(command)
    assert not worker.dropped
    stuck(stage, worker)
    for _ in range(10):
        worker.send(command)
    assert [session.name for session in stage.broker.sessions()] == ["worker"]
    worker.send(command)
    assert stage.broker.sessions() == []


@pytest.mark.parametrize("key", [None, "k"])
def test_a_worker_s_heartbeats_and_errors_do_not_pile_up_before_a_client_that_does_not_read(key: str | None) -> None:
    stage = Stage(outbox=20_000)
    worker, client = stage.worker("echo", slots=1000), stage.client()
    client.send(*(ask(id, key=key and f"{key}{id}") for id in range(1, 51)))
    requests = worker.take()
    stuck(stage, client)
    for _ in range(100):
        worker.send(*(c.Heartbeat([c.Held(request.id)] * 2) for request in requests[:10]))
    assert outbox(stage, "client") == [c.Heartbeat([c.Held(id)]) for id in range(1, 11)]
    worker.send(*(c.Error(request.id, "INTERNAL", "", "x" * 4000) for request in requests))
    waiting = [each for each in outbox(stage, "client") if isinstance(each, c.Error)]
    assert [error.id for error in waiting] == list(range(1, 51))
    assert {(error.code, error.reason) for error in waiting} == {("INTERNAL", ""), OVERLOADED}
    client.send(c.Heartbeat())
    assert not client.dropped
    assert "client" in [session.name for session in stage.broker.sessions()]
    assert counted(stage)["failed"] == 50


def test_final_replies_that_wait_leave_room_for_partial_ones() -> None:
    stage = Stage(outbox=20_000)
    worker, client = stage.worker("echo", slots=10), stage.client()
    client.send(ask(1), ask(2))
    one, two = worker.take()
    stuck(stage, client)
    worker.send(final(one, bytes(19_000)), c.Partial(two.id, 0, bytes(5_000)))
    client.send(c.Heartbeat())
    assert [type(command) for command in outbox(stage, "client")] == [c.Final, c.Partial]


def test_a_remembered_reply_does_not_pile_up_before_a_client_that_does_not_read() -> None:
    stage = Stage(outbox=20_000)
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, key="k"))
    [request] = worker.take()
    stuck(stage, client)
    worker.send(final(request, bytes(9_000)))
    client.send(*(ask(id, key="k") for id in range(2, 10)))
    kinds = [type(command) for command in outbox(stage, "client")]
    assert kinds == [c.Final] * 2 + [c.Error] * 7


def test_every_error_of_the_broker_is_weighed() -> None:
    stage = Stage(client_requests=1)
    stage.worker("echo")
    client = stage.client()
    client.send(ask(1, key="k"))
    stuck(stage, client)
    client.send(ask(2, key="k"), ask(3, key="k", body=b"another"), ask(4))
    assert [type(command) for command in outbox(stage, "client")] == [c.Error] * 3

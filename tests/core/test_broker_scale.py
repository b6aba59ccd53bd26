"""The broker among many: what a request, a beat, or a worker's end costs does not grow with who else is there.

Nothing here looks at a clock: operations are counted, of those that would grow.
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest import mock

import pytest
from answers import EXPIRED, bodies, errors, final
from stage import Speaker, Stage, ask

from zmdp_trio._core.broker import beats, machine
from zmdp_trio._core.broker.job import Job
from zmdp_trio._core.broker.service import AHEAD
from zmdp_trio._core.link import Link
from zmdp_trio._wire import commands as c

ROOM: Any = {"client_queue": 10_000, "client_requests": 10_000}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a few things are done, each to one of many."""
    counted: Counter[str] = Counter()

    def count(cls: type, name: str) -> None:
        method = getattr(cls, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return method(*args, **kwargs)

        monkeypatch.setattr(cls, name, counting)

    count(Link, "beat")
    count(Job, "suits")
    count(machine.BrokerMachine, "_is_busy")
    count(machine.BrokerMachine, "_expire")
    return counted


def many(stage: Stage, number: int) -> list[Speaker]:
    return [stage.client(f"client {n}") for n in range(number)]


# ---- time


def test_a_beat_sees_to_some_sessions_at_a_time_and_to_each_of_them_once(calls: Counter[str]) -> None:
    stage = Stage()
    clients = many(stage, 2 * beats.BEATS + 10)
    broker = stage.broker
    seen = []
    stage.now = stage.deadline
    while broker.deadline <= stage.now:
        before = calls["beat"]
        broker.handle_timer(now=stage.now)
        seen.append(calls["beat"] - before)
    assert seen == [beats.BEATS, beats.BEATS, 10]
    assert broker.deadline == stage.now + broker.settings.heartbeat
    assert len(clients) == sum(seen)


def test_a_session_that_ends_while_others_are_seen_to_is_passed_over(calls: Counter[str]) -> None:
    stage = Stage()
    clients = many(stage, beats.BEATS + 2)
    broker = stage.broker
    stage.now = stage.deadline
    broker.handle_timer(now=stage.now)
    broker.lost(clients[-1].peer, now=stage.now)
    broker.handle_timer(now=stage.now)
    assert calls["beat"] == len(clients) - 1
    assert broker.deadline > stage.now


def test_deadlines_that_come_together_are_met_some_at_a_time(calls: Counter[str]) -> None:
    stage = Stage(**ROOM)
    worker, client = stage.worker("echo"), stage.client()
    number = 2 * machine.DEADLINES + 10
    client.send(ask(1), *(ask(id, left=2.0) for id in range(2, number + 2)))
    stage.now = 2.0
    expired = []
    while stage.broker.deadline <= stage.now:
        before = calls["_expire"]
        stage.broker.handle_timer(now=stage.now)
        expired.append(calls["_expire"] - before)
    assert expired == [machine.DEADLINES, machine.DEADLINES, 10]
    stage.flush()
    assert errors(client) == [(id, *EXPIRED) for id in range(2, number + 2)]
    assert len(worker.take()) == 1


# ---- drains


def test_while_it_drains_who_is_busy_is_not_looked_for_at_each_turn(calls: Counter[str]) -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=10)
    clients = many(stage, 100)
    clients[-1].send(ask(1), ask(2), ask(3))
    requests = worker.take()
    stage.broker.drain()
    for client in clients:
        client.send(c.Drained())
    assert stage.broker.busy
    before = calls["_is_busy"]
    for _ in range(50):
        assert stage.broker.busy
    assert calls["_is_busy"] - before == 50
    for request in requests:
        worker.send(final(request))
    assert not stage.broker.busy


# ---- workers


def test_a_worker_that_is_asked_for_by_name_is_not_looked_for_among_all(calls: Counter[str]) -> None:
    stage = Stage()
    workers = {f"worker {n}": stage.worker("echo", name=f"worker {n}") for n in range(100)}
    client = stage.client()
    for id, name in enumerate(workers, 1):
        client.send(ask(id, worker=name))
        assert bodies(workers[name]) == [b"?"]
    assert calls["suits"] <= 3 * len(workers)


def test_a_rejected_request_passes_over_those_alone_who_rejected_it(calls: Counter[str]) -> None:
    stage = Stage()
    workers = [stage.worker("echo", name=f"worker {n}") for n in range(100)]
    client = stage.client()
    client.send(ask(1))
    for rejections in range(1, 5):
        [(worker, request)] = [(worker, request) for worker in workers for request in worker.take()]
        before = calls["suits"]
        worker.send(c.Reject(request.id))
        assert calls["suits"] - before <= 2 * (rejections + 1)


def loads(stage: Stage) -> list[int]:
    return sorted((offer.running for offer in stage.service("echo").offers.values()), reverse=True)


@pytest.mark.parametrize("slots", [1, 10, AHEAD - 1, 2 * AHEAD - 1])
def test_workers_with_few_slots_are_given_what_is_due_to_each(slots: int) -> None:
    stage = Stage()
    workers = [stage.worker("echo", name=f"worker {n}", slots=slots) for n in range(10)]
    stage.client().send(*map(ask, range(1, 8)))
    assert loads(stage) == [1] * 7 + [0] * 3
    assert sorted(len(worker.take()) for worker in workers) == [0] * 3 + [1] * 7


def test_of_requests_that_come_together_a_worker_with_many_slots_is_given_a_few_in_one_message() -> None:
    stage = Stage()
    workers = [stage.worker("echo", name=f"worker {n}", slots=4 * AHEAD) for n in range(10)]
    before = [worker.link.received for worker in workers]
    stage.client().send(*map(ask, range(1, 23)))
    assert loads(stage) == [4, 4, 4, 4, 4, 2, 0, 0, 0, 0]
    assert sum(worker.link.received for worker in workers) - sum(before) == 6, "messages"


def test_nobody_gets_more_than_a_few_ahead_of_the_least_loaded() -> None:
    stage = Stage(**ROOM)
    for n in range(10):
        stage.worker("echo", name=f"worker {n}", slots=4 * AHEAD)
    client = stage.client()
    asked = 0
    for burst in (1, 7, 2, 30, 3, 100, 5, 40, 1, 1):
        client.send(*map(ask, range(asked + 1, asked + 1 + burst)))
        asked += burst
        running = loads(stage)
        assert sum(running) == asked
        assert running[0] - running[-1] <= 4


def test_requests_that_come_one_by_one_are_spread_evenly() -> None:
    stage = Stage()
    for n in range(10):
        stage.worker("echo", name=f"worker {n}", slots=4 * AHEAD)
    client = stage.client()
    for id in range(1, 26):
        client.send(ask(id))
    assert loads(stage) == [3] * 5 + [2] * 5


def test_slots_are_the_limit_also_of_a_batch_that_is_being_filled() -> None:
    stage = Stage()
    one = stage.worker("echo", name="one", slots=4 * AHEAD)
    two = stage.worker("echo", name="two", slots=4 * AHEAD)
    client = stage.client()
    client.send(*map(ask, range(1, 8 * AHEAD + 3)))
    assert len(one.take()) == len(two.take()) == 4 * AHEAD
    assert stage.held()["echo"] == (2, 8 * AHEAD, 0)


def test_a_worker_that_leaves_while_its_batch_is_filled_is_given_no_more() -> None:
    stage = Stage()
    one = stage.worker("echo", name="one", slots=4 * AHEAD)
    client = stage.client()
    client.send(ask(1))
    [first] = stage.service("echo").offers.values()
    two = stage.worker("echo", name="two", slots=4 * AHEAD)
    one.send(c.Drain())
    assert first.slots == 0
    client.send(ask(2), ask(3))
    assert len(two.take(c.Request)) == 2


def test_of_shared_workers_those_alone_are_looked_at_who_have_not_heard_what_waits() -> None:
    stage = Stage(**ROOM)
    workers = [stage.worker("echo", name=f"worker {n}", slots=0) for n in range(50)]
    stage.client().send(*map(ask, range(1, 201)))
    assert [worker.take(c.Wanted) for worker in workers] == [[c.Wanted("echo", 1)]] * 50
    demand = stage.service("echo").demand
    assert len(demand._untold) == 0
    workers[0].send(c.Slots("echo", 1))
    assert workers[0].take() == [c.Slots("echo", 1), *[mock.ANY], c.Wanted("echo", 4)]
    assert [worker.take() for worker in workers[1:]] == [[]] * 49
    assert len(demand._untold) == 0
    workers[0].send(c.Drain())
    assert (len(demand._told), len(demand._untold)) == (49, 0)


# ---- memory


def test_what_drops_clients_for_memory_looks_at_each_of_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: Counter[int] = Counter()
    held_bytes = Link.held_bytes.fget  # type: ignore[attr-defined]

    def counting(link: Link) -> int:
        looked[id(link)] += 1
        return int(held_bytes(link))

    stage = Stage(broker_memory=150_000)
    worker = stage.worker("echo", slots=100)
    clients = many(stage, 40)
    for client in clients:
        client.send(ask(1))
        stage.stall(client.peer)
    requests = worker.take()
    monkeypatch.setattr(Link, "held_bytes", property(counting))
    worker.send(*(final(request, bytes(5_000)) for request in requests))
    left = sum(not session.is_worker for session in stage.broker.sessions())
    assert 25 <= left <= 30
    assert stage.broker.memory <= 150_000
    assert max(looked.values()) <= 2

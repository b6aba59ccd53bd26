"""What brokers say of requests that wait for the slots of shared workers, and what comes of it."""

from __future__ import annotations

import itertools
import math

import pytest
from stage import Speaker, Stage, ask, check_counters, start, started

from zmdp_trio._core.broker.demand import HOLD
from zmdp_trio._wire import commands as c


def play(slots: int = 0) -> tuple[Stage, Speaker, Speaker]:
    """Return a worker that leases so many slots, and a client."""
    stage = Stage()
    return stage, stage.worker("echo", slots=slots), stage.client()


def final(request: c.Request) -> c.Final:
    return c.Final(request.id, 0, b"")


def test_a_worker_without_another_broker_hears_nothing() -> None:
    stage, worker, client = play(slots=1)
    client.send(*map(ask, range(1, 10)))
    stage.advance(1.0)
    assert worker.take(c.Wanted) == []
    assert stage.broker.timers == 0


def test_a_service_that_is_forgotten_leaves_no_timer_behind() -> None:
    stage, worker, client = play()
    client.send(ask(1))
    worker.send(c.Drain())
    client.send(c.Cancel(1))
    assert stage.services() == []
    assert stage.broker.timers == 0


@pytest.mark.parametrize("slots", [0, 2])
def test_a_shared_worker_is_told_once_what_waits_for_it(slots: int) -> None:
    stage, worker, client = play(slots)
    if slots:
        worker.send(c.Slots("echo", slots))
    client.send(*map(ask, range(1, 6)))
    client.send(*map(ask, range(6, 9)))
    assert worker.take(c.Wanted) == [c.Wanted("echo", 1)]
    stage.advance(10 * HOLD)
    assert worker.take() == []


def test_it_is_told_again_after_it_changed_the_lease_and_when_nothing_waits_any_more() -> None:
    stage, worker, client = play()
    client.send(*map(ask, range(1, 6)))
    worker.take()
    worker.send(c.Slots("echo", 2))
    slots, *requests, wanted = worker.take()
    assert (slots, len(requests), wanted) == (c.Slots("echo", 2), 2, c.Wanted("echo", 3))
    worker.send(c.Slots("echo", 5))
    assert worker.take()[-1] == c.Wanted("echo", 0)
    stage.advance(10 * HOLD)
    assert worker.take() == []
    assert stage.broker.timers == 0


def test_a_queue_that_fills_and_empties_is_told_of_now_and_then() -> None:
    stage, worker, client = play()
    said = []
    for id in range(1, 101):
        client.send(ask(id))
        stage.advance(HOLD / 20)
        client.send(c.Cancel(id))
        stage.advance(HOLD / 20)
        said += [command.queued for command in worker.take(c.Wanted)]
    assert set(said) == {0, 1}
    assert 2 <= len(said) <= 100 * HOLD / 10 / HOLD + 2
    stage.advance(3 * HOLD)
    said += [command.queued for command in worker.take(c.Wanted)]
    assert said[-1] == 0
    assert all(one != other for one, other in itertools.pairwise(said))
    assert stage.broker.timers == 0


def test_what_waits_is_divided_among_those_that_share() -> None:
    stage, worker, client = play()
    other = stage.worker("echo", name="other", slots=0)
    client.send(*map(ask, range(1, 6)))
    for each in (worker, other):
        each.take()
        each.send(c.Slots("echo", 0))
    assert worker.take(c.Wanted) == other.take(c.Wanted) == [c.Wanted("echo", 3)]


def test_a_worker_that_leaves_is_told_no_more() -> None:
    stage, worker, client = play()
    client.send(ask(1))
    worker.send(c.Drain())
    worker.take()
    stage.advance(3 * HOLD)
    assert worker.take() == []
    check_counters(stage.broker)


# ---- brokers and a worker


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_worker_with_few_slots_serves_whichever_broker_has_work(slots: int) -> None:
    """Within messages alone: no time passes."""
    stage = Stage()
    names = ["broker", "second", "third"]
    for number, name in enumerate(names[1:]):
        stage.start_broker(name, epoch=b"epoch of %d" % number)
    worker = stage.worker_machine({"echo": slots}, *names)
    for name in names:
        stage.connect(worker, name)
    stage.now = 10.0
    for name in (*names, *reversed(names)):
        client = stage.client_machine(name, name=f"client of {name}")
        stage.connect(client, name)
        call = start(client, now=stage.now)
        stage.flush()
        if worker.deadline <= stage.now:
            worker.handle_timer(now=stage.now)
            stage.flush()
        [execution] = started(worker)
        worker.finish(execution, 0, b"done")
        stage.flush()
        assert call.outcome == c.Final(1, 0, b"done")
        client.goodbye()
        stage.flush()
        stage.advance(1.0)
    assert worker.protocol_errors == 0
    assert worker._timers.deadline == math.inf

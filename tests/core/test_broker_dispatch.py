"""The broker: which worker gets a request, which request a worker gets, and how a request ends."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any
from unittest import mock

import msgspec
import pytest
from answers import EXPIRED, GONE, INVALID, LOST, NOT_FOUND, OVERLOADED, REJECTED, bodies, counted, errors, final
from stage import EPOCH, Stage, ask, check_counters, hello, session_id

from zmdp_trio._core.broker import Job, JobState, queue
from zmdp_trio._settings import MIB
from zmdp_trio._wire import commands as c

# ---- there and back


def test_a_request_goes_to_the_worker_and_the_replies_come_back() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client("anna")
    client.send(ask(7, "echo", b"hello", left=9.0, timeout=3.0, headers={"a": "b"}, retry=2))
    [request] = worker.take()
    options: Any = {"left": 9.0, "timeout": 3.0, "headers": {"a": "b"}, "retry": 2}
    origin: Any = {"caller": blake2b(session_id("anna"), digest_size=16).digest(), "call": 7}
    assert request == ask(request.id, "echo", b"hello", **options, peer="anna", **origin)
    assert stage.held() == {"echo": (0, 1, 0)}
    worker.send(c.Partial(request.id, 1, b"part"), final(request))
    assert client.take() == [c.Partial(7, 1, b"part"), c.Final(7, 0, b"!")]
    assert stage.held() == {"echo": (0, 0, 0)}
    assert counted(stage) == {"received": 1, "replied": 1}
    assert not stage.broker.busy


def test_an_error_of_the_handler_s_passes_through() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=2), stage.client()
    client.send(ask(1), ask(2))
    one, two = worker.take()
    worker.send(c.Error(one.id, "NOT_FOUND", "", "no such file", b"\xc0"), c.Error(two.id, *EXPIRED, "late"))
    assert client.take() == [c.Error(1, "NOT_FOUND", "", "no such file", b"\xc0"), c.Error(2, *EXPIRED, "late")]
    assert counted(stage) == {"received": 2, "failed": 1, "expired": 1}


def test_ids_of_different_clients_don_t_meet() -> None:
    stage = Stage()
    worker, anna, otto = stage.worker("echo", slots=2), stage.client("anna"), stage.client("otto")
    anna.send(ask(1, body=b"a"))
    otto.send(ask(1, body=b"o"))
    one, two = worker.take()
    assert one.id != two.id
    worker.send(final(two, b"for otto"), final(one, b"for anna"))
    assert anna.take() == [c.Final(1, 0, b"for anna")]
    assert otto.take() == [c.Final(1, 0, b"for otto")]


def test_an_id_may_be_used_again_when_its_request_is_over() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    for _ in range(3):
        client.send(ask(1))
        [request] = worker.take()
        worker.send(final(request))
        assert client.take() == [c.Final(1, 0, b"!")]


def test_a_worker_s_sign_of_life_reaches_the_caller() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(5))
    [request] = worker.take()
    worker.send(c.Heartbeat([c.Held(request.id), c.Held(999)]))
    assert client.take() == [c.Heartbeat([c.Held(5)])]


def test_credit_and_time_left_reach_the_worker() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(5, left=10.0))
    [request] = worker.take()
    client.send(c.Credit(5, 3, 100), c.Credit(5, 0, 0, 20.0), c.Heartbeat([c.Held(5, 30.0), c.Held(5), c.Held(9, 1.0)]))
    assert worker.take() == [
        c.Credit(request.id, 3, 100, 30.0),
    ]


def test_what_waits_takes_its_credit_and_its_deadline_along() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1, left=10.0, messages=1, bytes=10))
    client.send(c.Credit(1, 2, 20), c.Heartbeat([c.Held(1, 0.9)]))
    stage.advance(0.5)
    [request] = stage.worker("echo").take()
    assert (request.messages, request.bytes) == (3, 30)
    assert request.left == pytest.approx(0.4)


def test_a_deadline_that_was_taken_back_while_the_request_waited_is_none() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1, left=0.5))
    client.send(c.Heartbeat([c.Held(1, math.inf)]))
    stage.advance(0.75)
    [request] = stage.worker("echo").take()
    assert request.left is None


def test_credit_without_end_stays_within_what_a_request_can_say() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1, messages=2**48, bytes=2**48), c.Credit(1, 2**48, 2**48))
    [request] = stage.worker("echo").take()
    assert (request.messages, request.bytes) == (2**48, 2**48)


# ---- which worker


def test_the_least_loaded_worker_is_chosen() -> None:
    stage = Stage()
    client = stage.client()
    one, two = stage.worker("echo", name="one", slots=3), stage.worker("echo", name="two", slots=3)
    client.send(ask(1))
    [first] = one.take()
    client.send(ask(2), ask(3))
    assert len(two.take()) == 1
    assert len(one.take()) == 1
    one.send(final(first))
    client.send(ask(4))
    assert (len(one.take()), len(two.take())) in ((1, 0), (0, 1))
    client.send(ask(5))
    assert {offer.running for offer in stage.service("echo").offers.values()} == {2}


def test_of_equally_loaded_workers_the_longest_idle_is_chosen() -> None:
    stage = Stage()
    client = stage.client()
    workers = {name: stage.worker("echo", name=name) for name in "abc"}
    order = []
    for id in range(1, 10):
        client.send(ask(id))
        for name, worker in workers.items():
            for request in worker.take():
                order.append(name)
                worker.send(final(request))
    assert "".join(order) == "abcabcabc"


def test_a_worker_gets_no_more_than_its_slots() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=2), stage.client()
    client.send(*map(ask, range(1, 6)))
    requests = worker.take()
    assert len(requests) == 2
    assert stage.held() == {"echo": (3, 2, 0)}
    worker.send(final(requests[0]))
    assert len(worker.take()) == 1


def test_slots_change_and_are_acknowledged() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=1), stage.client()
    client.send(*map(ask, range(1, 6)))
    requests = worker.take()
    worker.send(c.Slots("echo", 3))
    assert worker.take(c.Slots) == [c.Slots("echo", 3)]
    assert stage.held() == {"echo": (2, 3, 0)}
    worker.send(c.Slots("echo", 0))
    worker.send(final(requests[0]))
    assert worker.take() == [c.Slots("echo", 0), c.Wanted("echo", 2)]
    assert stage.held() == {"echo": (2, 2, 0)}


def test_a_service_may_be_offered_later() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, "sum"))
    worker.send(c.Slots("sum", 1))
    [request] = worker.take()
    assert request.service == "sum"


def test_a_worker_without_slots_still_serves() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=0), stage.client()
    client.send(ask(1))
    stage.advance(5.0)
    assert client.take() == []
    worker.send(c.Slots("echo", 1))
    assert len(worker.take(c.Request)) == 1


def test_a_request_for_a_certain_worker_goes_there() -> None:
    stage = Stage()
    client = stage.client()
    one, two = stage.worker("echo", name="one"), stage.worker("echo", name="two")
    client.send(ask(1, worker="two"), ask(2, worker="two"), ask(3))
    assert bodies(one) == [b"?"]
    [request] = two.take()
    assert stage.held() == {"echo": (1, 2, 0)}
    two.send(final(request))
    assert bodies(two) == [b"?"]


def test_a_certain_worker_that_is_not_there_is_told_at_the_end_of_the_wait() -> None:
    stage = Stage()
    client = stage.client()
    stage.worker("echo", name="one")
    client.send(ask(1, worker="two"))
    stage.advance(0.99)
    assert client.take() == []
    stage.advance(0.01)
    assert errors(client) == [(1, *NOT_FOUND)]


def test_a_certain_worker_that_is_lost_while_others_serve_is_told_too() -> None:
    stage = Stage()
    client = stage.client()
    stage.worker("echo", name="one")
    two = stage.worker("echo", name="two")
    client.send(ask(1, worker="two"), ask(2, worker="two"))
    two.vanish()
    assert errors(client) == [(1, *LOST)]
    stage.advance(1.0)
    assert errors(client) == [(2, *NOT_FOUND)]


# ---- which request


def test_clients_take_turns() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(*(ask(id, body=b"a%d" % id) for id in range(1, 5)))
    otto.send(*(ask(id, body=b"o%d" % id) for id in range(1, 3)))
    order = []
    while requests := worker.take(c.Request):
        order += [request.body for request in requests]
        worker.send(*map(final, requests))
    assert order == [b"a1", b"a2", b"o1", b"a3", b"o2", b"a4"]


def test_one_client_s_requests_keep_their_order_while_they_wait_for_a_worker() -> None:
    """The wait of each ends at another moment: that must not put the later ones first."""
    stage = Stage()
    client = stage.client()
    for id in (1, 2, 3, 4):
        client.send(ask(id, body=b"%d" % id))
        stage.advance(0.1)
    worker = stage.worker("echo")
    order = bodies(worker)
    stage.advance(2.0)
    for job in range(1, 4):
        worker.send(c.Final(job, 0, b""))
        order += bodies(worker)
    assert order == [b"1", b"2", b"3", b"4"]


def test_a_full_queue_is_overloaded_and_says_when_to_try_again() -> None:
    stage = Stage(queue_requests=2)
    client = stage.client()
    client.send(ask(1), ask(2), ask(3))
    [error] = client.take()
    assert (error.id, error.code, error.reason) == (3, *OVERLOADED)
    assert msgspec.msgpack.decode(error.details) == {"retry_after": 1.0}
    assert counted(stage) == {"received": 3, "refused": 1}


def test_a_queue_is_limited_in_bytes() -> None:
    stage = Stage(queue_bytes=1000)
    client = stage.client()
    client.send(ask(1, body=bytes(600)), ask(2, body=bytes(600)), ask(3, body=bytes(300)))
    assert errors(client) == [(2, *OVERLOADED)]


@pytest.mark.parametrize("worker", [None, "one"])
def test_a_client_can_not_fill_a_queue_alone(worker: str | None) -> None:
    stage = Stage(client_queue=2)
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(*(ask(id, worker=worker) for id in (1, 2, 3)))
    otto.send(ask(1, worker=worker))
    assert errors(anna) == [(3, *OVERLOADED)]
    assert errors(otto) == []
    anna.send(c.Cancel(1))
    anna.send(ask(4, worker=worker))
    assert errors(anna) == []


def test_a_client_s_requests_are_limited_in_all() -> None:
    stage = Stage(client_requests=2)
    client = stage.client()
    stage.worker("echo", "sum", slots=5)
    client.send(ask(1), ask(2, "sum"), ask(3))
    assert errors(client) == [(3, *OVERLOADED)]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ask(1, ""), INVALID),
        (ask(1, "s" * 256), INVALID),
        (ask(1, "\N{EURO SIGN}" * 86), INVALID),
        (ask(1, body=bytes(MIB + 1)), INVALID),
        (ask(1, headers={"h": "\N{EURO SIGN}" * 6000}), INVALID),
        (ask(1, worker="w" * 256), INVALID),
        (ask(1, key="k" * 256), INVALID),
        (ask(1, left=0.0), EXPIRED),
    ],
)
def test_what_is_not_even_queued(request_: c.Request, expected: tuple[str, str]) -> None:
    stage = Stage(max_message=MIB)
    client = stage.client()
    client.send(request_)
    assert errors(client) == [(1, *expected)]
    assert stage.services() == [], "a name that nobody offers leaves nothing behind"


def test_a_payload_above_what_the_worker_takes_is_not_sent_there() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", limits=c.Limits(100, 100, 100)), stage.client()
    client.send(ask(1, body=bytes(101)), ask(2, body=bytes(100)))
    assert errors(client) == [(1, "INVALID_ARGUMENT", "message-too-large")]
    assert len(worker.take()) == 1


def test_replies_above_what_the_client_takes_are_not_sent_there() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=3), stage.client(limits=c.Limits(100, 100, 100))
    client.send(ask(1), ask(2), ask(3))
    one, two, three = worker.take()
    worker.send(final(one, bytes(101)), c.Partial(two.id, 0, bytes(101)), final(three, bytes(100)))
    assert [type(command) for command in client.take()] == [c.Error, c.Error, c.Final]
    assert worker.take() == [c.Cancel(two.id)]
    worker.send(final(two))
    assert stage.held() == {"echo": (0, 0, 0)}
    assert counted(stage) == {"received": 3, "replied": 1, "failed": 1, "cancelled": 1}


# ---- nobody there


def test_a_service_that_no_worker_offers_is_not_found_after_a_wait() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1))
    assert stage.deadline == 1.0
    stage.step()
    assert errors(client) == [(1, *NOT_FOUND)]
    assert stage.services() == []
    assert stage.broker.timers == 0


def test_a_worker_that_appears_in_time_gets_the_request() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1))
    stage.advance(0.9)
    assert len(stage.worker("echo").take()) == 1
    stage.advance(10.0)
    assert client.take() == []


@pytest.mark.parametrize("left", [0.5, 60.0, math.inf])
def test_moving_the_deadline_does_not_change_the_wait_for_a_worker(left: float) -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1, left=30.0))
    client.send(c.Heartbeat([c.Held(1, left)]))
    stage.advance(1.0)
    assert errors(client) == [(1, *(EXPIRED if left < 1 else NOT_FOUND))]


def test_a_deadline_passes_in_the_queue() -> None:
    stage = Stage()
    client = stage.client()
    worker = stage.worker("echo")
    client.send(ask(1), ask(2, left=2.0))
    stage.advance(1.99)
    assert client.take() == []
    stage.advance(0.01)
    assert errors(client) == [(2, *EXPIRED)]
    [request] = worker.take()
    worker.send(final(request))
    assert worker.take() == [], "expired work is never dispatched"
    assert counted(stage) == {"received": 2, "replied": 1, "expired": 1}


def test_work_that_expired_this_very_moment_is_not_dispatched() -> None:
    stage = Stage()
    client = stage.client()
    worker = stage.worker("echo")
    client.send(ask(1), ask(2, left=2.0))
    [request] = worker.take()
    stage.now = 2.0
    worker.send(final(request))
    assert worker.take() == []
    assert errors(client) == [(2, *EXPIRED)]


def test_a_service_whose_last_worker_was_lost_is_unavailable() -> None:
    stage = Stage()
    client = stage.client()
    worker = stage.worker("echo")
    client.send(ask(1), ask(2))
    worker.vanish()
    assert errors(client) == [(1, *LOST)]
    client.send(ask(3))
    stage.advance(1.0)
    assert errors(client) == [(2, *GONE), (3, *GONE)]
    assert counted(stage) == {"received": 3, "lost": 1, "refused": 2}


def test_a_service_is_forgotten_some_time_after_its_last_worker_was_lost() -> None:
    stage = Stage()
    stage.worker("echo").vanish()
    assert stage.held() == {"echo": (0, 0, 0)}
    stage.advance(10.0)
    assert stage.services() == []
    client = stage.client()
    client.send(ask(1))
    stage.advance(1.0)
    assert errors(client) == [(1, *NOT_FOUND)]


def test_a_service_whose_worker_left_in_order_is_forgotten_at_once() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    worker.send(c.Drain())
    assert worker.take() == [c.Drained()]
    assert stage.services() == []


# ---- workers that are lost


def test_a_lost_worker_s_requests_run_again_where_they_may() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo", name="one", slots=3)
    client.send(ask(1), ask(2, retry=1), ask(3, retry=1))
    partly = one.take()[2]
    one.send(c.Partial(partly.id, 0, b"part"))
    two = stage.worker("echo", name="two", slots=3)
    one.vanish()
    assert client.take(c.Error) == [
        c.Error(1, *LOST, "worker one was lost"),
        c.Error(3, *LOST, "worker one was lost"),
    ], "never after a partial reply"
    [again] = two.take()
    two.send(final(again))
    assert client.take() == [c.Final(2, 0, b"!")]
    assert counted(stage) == {"received": 3, "lost": 2, "replied": 1}


def test_a_request_runs_again_as_often_as_it_may() -> None:
    stage = Stage()
    client = stage.client()
    stage.worker("echo", name="w0")
    client.send(ask(1, retry=2))
    for n in range(3):
        # Told each time, in case that the broker is lost, too.
        assert client.take() == ([c.Heartbeat([c.Held(1, None, 2 - n)])] if n else [])
        stage.worker("echo", name=f"w{n + 1}")
        stage.speakers[-2].vanish()
    assert errors(client) == [(1, *LOST)]


def test_a_request_that_may_run_again_waits_for_a_worker_to_appear() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo")
    client.send(ask(1, retry=1))
    one.vanish()
    stage.advance(0.5)
    assert client.take() == []
    assert len(stage.worker("echo").take()) == 1


def test_each_wait_for_a_worker_is_one_more_try() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo")
    client.send(ask(1, retry=3))
    one.vanish()
    stage.advance(2.9)
    assert client.take() == []
    stage.advance(0.1)
    assert errors(client) == [(1, *GONE)]
    assert counted(stage) == {"received": 1, "refused": 1}


def test_a_request_that_runs_again_goes_before_those_that_wait() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo", name="one")
    client.send(ask(1, body=b"first", retry=1), ask(2, body=b"second"))
    two = stage.worker("echo", name="two", slots=0)
    one.vanish()
    two.send(c.Slots("echo", 1))
    assert bodies(two) == [b"first"]


def test_expired_work_does_not_run_again() -> None:
    stage = Stage()
    client = stage.client()
    one, two = stage.worker("echo", name="one"), stage.worker("echo", name="two")
    client.send(ask(1, retry=1, left=1.0))
    assert len(one.take()) == 1
    stage.now = 1.5
    one.vanish()
    assert two.take() == []
    assert errors(client) == [(1, *EXPIRED)]
    assert counted(stage) == {"received": 1, "expired": 1}


def test_a_lost_worker_s_late_reply_is_counted_and_passed_over() -> None:
    stage = Stage()
    client = stage.client()
    one, two = stage.worker("echo", name="one"), stage.worker("echo", name="two")
    client.send(ask(1, retry=1))
    [request] = one.take()
    one.vanish()
    [again] = two.take()
    assert client.take() == [c.Heartbeat([c.Held(1, None, 0)])]
    one.greet()
    one.send(final(request), c.Partial(request.id, 0, b""), c.Error(request.id, "INTERNAL", "", ""))
    one.send(c.Reject(request.id))
    assert client.take() == []
    assert stage.broker.late_replies == 4
    two.send(final(again))
    assert client.take() == [c.Final(1, 0, b"!")]


@pytest.mark.parametrize("how", ["vanish", "goodbye", "breach", "greets anew"])
def test_however_a_worker_goes_its_requests_are_lost(how: str) -> None:
    stage = Stage()
    client = stage.client()
    worker = stage.worker("echo")
    client.send(ask(1))
    if how == "vanish":
        worker.vanish()
    elif how == "goodbye":
        worker.send(c.Goodbye())
        # It went politely: that is no reason to wait for it.
        check_counters(stage.broker)
        assert stage.services() == []
        assert errors(client) == [(1, *LOST)]
        assert stage.broker.forgotten.lost == 1
        client.send(ask(2))
        stage.advance(1.0)
        assert errors(client) == [(2, *NOT_FOUND)]
        return
    elif how == "breach":
        worker.send(c.Welcome(1, "", b"", False, c.Limits(1, 1, 1), 1.0, []))
        assert worker.dropped
    else:
        worker.come_back()
        assert worker.welcome is not None
        assert not worker.welcome.resumed
    assert errors(client) == [(1, *LOST)]
    assert counted(stage)["lost"] == 1


# ---- rejections


def test_a_rejected_request_goes_to_another_worker_and_never_to_the_same_one_twice() -> None:
    stage = Stage()
    client = stage.client()
    workers = [stage.worker("echo", name=name) for name in "abc"]
    client.send(ask(1))
    asked = []
    while not (told := errors(client)):
        [(worker, request)] = [(worker, request) for worker in workers for request in worker.take(c.Request)]
        asked.append(worker.greeting.name)
        worker.send(c.Reject(request.id))
    assert sorted(asked) == ["a", "b", "c"]
    assert told == [(1, *REJECTED)]
    assert stage.now == 0.0, "told at once"
    assert counted(stage) == {"received": 1, "refused": 1}


def test_a_rejected_request_waits_for_a_worker_that_is_busy() -> None:
    stage = Stage()
    client = stage.client()
    one, two = stage.worker("echo", name="one"), stage.worker("echo", name="two")
    client.send(ask(1), ask(2))
    [first], [second] = one.take(), two.take()
    one.send(c.Reject(first.id))
    assert stage.held() == {"echo": (1, 1, 0)}
    assert one.take() == []
    two.send(final(second))
    assert [request.id for request in two.take()] == [first.id]


def test_a_rejected_request_is_told_when_the_last_worker_that_was_not_asked_leaves() -> None:
    stage = Stage()
    client = stage.client()
    one, two = stage.worker("echo", name="one"), stage.worker("echo", name="two")
    client.send(ask(1), ask(2))
    [first] = one.take()
    one.send(c.Reject(first.id))
    two.send(c.Drain())
    stage.advance(1.0)
    assert errors(client) == [(1, *REJECTED)]


def test_what_a_worker_may_not_have_costs_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(appear=1000.0)
    worker, other, client = stage.worker("echo"), stage.client("other"), stage.client()
    other.send(*(ask(id, worker=f"elsewhere {id % 7}") for id in range(1, 1001)))
    client.send(*(ask(id) for id in range(1, 11)))
    looked: list[None] = []
    suits = Job.suits
    monkeypatch.setattr(Job, "suits", lambda job, offer: looked.append(None) or suits(job, offer))
    done = 0
    while requests := worker.take(c.Request):
        worker.send(*map(final, requests))
        done += len(requests)
    assert (done, len(looked)) == (10, 0)
    assert stage.held() == {"echo": (1000, 0, 0)}
    elsewhere = stage.worker("echo", name="elsewhere 3", slots=200)
    assert [request.worker for request in elsewhere.take()] == ["elsewhere 3"] * 143
    other.send(*map(c.Cancel, range(1, 1001)))
    assert stage.service("echo").choosy_jobs() == []
    assert not stage.service("echo")._choosy


@mock.patch.object(queue, "MAX_REJECTIONS", 2)
def test_those_that_were_rejected_by_ever_more_workers_do_not_wait_without_end() -> None:
    stage = Stage()
    busy, client = stage.worker("echo", name="busy"), stage.client()
    client.send(ask(1))
    [first] = busy.take()
    for id in range(2, 6):
        worker = stage.worker("echo", name=f"worker {id}")
        client.send(ask(id))
        while requests := worker.take(c.Request):
            worker.send(*(c.Reject(request.id) for request in requests))
        worker.send(c.Drain())
    assert len(errors(client)) == stage.service("echo").counters.refused == 2
    assert stage.held() == {"echo": (2, 1, 0)}
    busy.send(final(first))
    [second] = busy.take()
    busy.send(final(second))
    assert len(busy.take()) == 1


def test_a_certain_worker_s_rejection_is_told_at_once() -> None:
    stage = Stage()
    client = stage.client()
    one, _ = stage.worker("echo", name="one"), stage.worker("echo", name="two")
    client.send(ask(1, worker="one"))
    [request] = one.take()
    one.send(c.Reject(request.id))
    assert errors(client) == [(1, *REJECTED)]


def test_a_rejection_frees_the_slot() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo", name="one")
    client.send(ask(1), ask(2, body=b"next"))
    [request] = one.take()
    one.send(c.Reject(request.id))
    assert bodies(one) == [b"next"]


def test_a_rejection_after_a_partial_reply_is_a_breach() -> None:
    stage = Stage()
    client = stage.client()
    one = stage.worker("echo", name="one")
    client.send(ask(1, retry=5))
    [request] = one.take()
    one.send(c.Partial(request.id, 0, b""), c.Reject(request.id))
    assert one.dropped
    assert errors(client) == [(1, *LOST)]


# ---- cancellation


def test_a_queued_request_is_dropped() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1), ask(2, worker="x"), c.Cancel(1), c.Cancel(2), c.Cancel(3))
    assert client.take() == []
    assert stage.services() == []
    assert stage.broker.timers == 0


def test_a_running_request_is_cancelled_at_its_worker_and_keeps_its_slot_until_it_has_ended() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1), ask(2))
    [request] = worker.take()
    client.send(c.Cancel(1), c.Cancel(1))
    assert worker.take() == [c.Cancel(request.id)]
    assert stage.held() == {"echo": (1, 0, 1)}
    assert counted(stage) == {"received": 2}
    worker.send(c.Error(request.id, "CANCELLED", "cancelled", ""))
    assert client.take() == []
    assert len(worker.take()) == 1
    assert counted(stage) == {"received": 2, "cancelled": 1}


@pytest.mark.parametrize("end", ["final", "error", "reject", "lost"])
def test_however_a_cancelled_request_ends_it_counts_as_cancelled(end: str) -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, retry=3))
    [request] = worker.take()
    client.send(c.Cancel(1))
    if end == "lost":
        worker.vanish()
    else:
        answers: dict[str, c.Command] = {
            "final": final(request),
            "error": c.Error(request.id, "INTERNAL", "", ""),
            "reject": c.Reject(request.id),
        }
        worker.send(answers[end])
    assert client.take() == []
    assert counted(stage) == {"received": 1, "cancelled": 1}
    assert stage.held() == {"echo": (0, 0, 0)}
    assert not stage.broker.busy


def test_partial_replies_to_a_cancelled_request_go_nowhere() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    client.send(c.Cancel(1))
    worker.send(c.Partial(request.id, 0, b"x"), c.Heartbeat([c.Held(request.id)]))
    client.send(c.Credit(1, 1, 1), c.Heartbeat([c.Held(1, 5.0)]))
    assert client.take() == []
    assert worker.take() == [c.Cancel(request.id)]


# ---- the drain


def test_a_draining_broker_refuses_what_is_new_and_runs_what_it_accepted() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1), ask(2))
    [first] = worker.take()
    stage.broker.drain()
    stage.broker.drain()
    client.send(ask(3))
    assert client.take() == [c.Drain(), c.Error(3, *GONE, "the broker is draining", b"\x81\xa3ran\xc2")]
    assert stage.broker.busy
    assert worker.take() == [c.Drain()]
    worker.send(final(first))
    [second] = worker.take()
    worker.send(final(second))
    assert [command.id for command in client.take()] == [1, 2]
    # What the client sent before it heard of the drain may be on the way.
    assert stage.broker.busy
    client.send(c.Drained())
    assert not stage.broker.busy
    assert stage.client("late").take() == [c.Drain()]
    stage.broker.goodbye()
    stage.flush()
    assert client.take() == [c.Goodbye("the broker stops")]


def test_a_draining_worker_gets_nothing_new_and_ends_what_it_has() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", slots=2), stage.client()
    client.send(ask(1))
    [request] = worker.take()
    worker.send(c.Drain())
    client.send(ask(2))
    worker.send(c.Slots("echo", 5))
    assert worker.take() == [c.Drained()]
    worker.send(final(request))
    assert client.take() == [c.Final(1, 0, b"!")]
    stage.advance(1.0)
    assert errors(client) == [(2, *NOT_FOUND)]


def test_a_draining_worker_that_is_lost_loses_what_it_ran() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1))
    worker.send(c.Drain())
    worker.vanish()
    assert errors(client) == [(1, *LOST)]
    assert stage.services() == []


# ---- odds and ends


def test_every_job_that_ends_is_let_go_of() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, retry=1))
    [job] = stage.broker._sessions[client.greeting.session].requests.values()
    assert job.state is JobState.RUNNING
    [request] = worker.take()
    worker.send(final(request))
    assert job.state is JobState.ENDED
    assert (job.request, job.offer) == (None, None)


def test_an_offer_s_repr_tells_its_load() -> None:
    stage = Stage()
    stage.worker("echo", slots=3, name="otto")
    stage.client().send(ask(1))
    [offer] = stage.service("echo").offers.values()
    assert repr(offer) == "<Offer 'echo' by otto 1/3>"


def test_a_worker_s_greeting_may_offer_nothing() -> None:
    stage = Stage()
    worker = stage.worker(offers=[])
    assert worker.welcome is not None
    assert stage.services() == []
    assert [session.is_worker for session in stage.broker.sessions()] == [True]
    assert worker.welcome.epoch == EPOCH
    assert hello("x").offers is None


def test_what_became_of_requests_for_forgotten_services_is_still_counted() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1, "nobody's"), ask(2, "nothing"), c.Cancel(2))
    stage.advance(1.0)
    assert stage.services() == []
    forgotten = stage.broker.forgotten
    assert (forgotten.received, forgotten.refused, forgotten.cancelled) == (2, 1, 1)
    check_counters(stage.broker)

"""The broker: requests that share a key share an execution, and its outcome."""

from __future__ import annotations

import math
from typing import Any

import pytest
from answers import EXPIRED, INVALID, LOST, NOT_FOUND, OVERLOADED, counted, errors, final
from stage import Stage, ask, check_counters

from zmdp_trio._settings import MIB
from zmdp_trio._wire import commands as c


def test_requests_with_one_key_share_an_execution() -> None:
    stage = Stage()
    worker = stage.worker("echo", slots=5)
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1, key="k"))
    otto.send(ask(2, key="k"))
    [request] = worker.take()
    assert request.peer == "anna"
    worker.send(c.Partial(request.id, 0, b"p"), c.Heartbeat([c.Held(request.id)]), final(request))
    assert anna.take() == [c.Partial(1, 0, b"p"), c.Heartbeat([c.Held(1)]), c.Final(1, 0, b"!")]
    assert otto.take() == [c.Heartbeat([c.Held(2)]), c.Final(2, 0, b"!")]
    otto.send(ask(3, key="k"))
    assert otto.take() == [c.Final(3, 0, b"!")], "remembered"
    assert worker.take() == []
    assert counted(stage) == {"received": 1, "replied": 1, "joined": 2}
    assert not stage.broker.busy


def test_another_key_or_another_service_is_another_execution() -> None:
    stage = Stage()
    worker, client = stage.worker("echo", "sum", slots=5), stage.client()
    client.send(ask(1, key="k"), ask(2, key="l"), ask(3, "sum", key="k"), ask(4, key=""), ask(5, key=""))
    assert len(worker.take()) == 4


def test_an_outcome_is_remembered_for_its_window() -> None:
    stage = Stage(key_window=10.0)
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, key="k"))
    [request] = worker.take()
    worker.send(final(request))
    stage.advance(9.9)
    client.send(ask(2, key="k"))
    assert client.take() == [c.Final(1, 0, b"!"), c.Final(2, 0, b"!")]
    stage.advance(0.2)
    client.send(ask(3, key="k"))
    assert len(worker.take()) == 1


@pytest.mark.parametrize("limits", [{"key_limit": 2}, {"key_bytes": 200}])
def test_remembered_outcomes_are_bounded_and_the_oldest_goes_first(limits: dict[str, Any]) -> None:
    stage = Stage(**limits)
    worker, client = stage.worker("echo", slots=9), stage.client()
    for id in (1, 2, 3):
        client.send(ask(id, key=str(id)))
        [request] = worker.take()
        worker.send(final(request, bytes(100)))
    assert len(stage.broker._keys) == 2
    client.send(ask(4, key="3"), ask(5, key="1"))
    assert len(worker.take()) == 1


@pytest.mark.parametrize(
    ("error", "remembered"),
    [
        (("NOT_FOUND", ""), True),
        (("INTERNAL", ""), True),
        (("UNAVAILABLE", ""), False),
        (("RESOURCE_EXHAUSTED", ""), False),
        (EXPIRED, False),
        (INVALID, False),
    ],
)
def test_which_errors_are_remembered(error: tuple[str, str], remembered: bool) -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, key="k"))
    [request] = worker.take()
    worker.send(c.Error(request.id, *error, "m"))
    client.send(ask(2, key="k"))
    assert (worker.take() == []) is remembered


def test_that_no_worker_was_there_is_not_remembered() -> None:
    stage = Stage()
    client = stage.client()
    client.send(ask(1, key="k"))
    stage.advance(1.0)
    assert errors(client) == [(1, *NOT_FOUND)]
    worker = stage.worker("echo")
    client.send(ask(2, key="k"))
    assert len(worker.take()) == 1


def test_a_keyed_handler_is_cancelled_when_the_last_caller_leaves() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1, key="k"))
    otto.send(ask(1, key="k"))
    [request] = worker.take()
    anna.send(c.Cancel(1))
    assert worker.take() == []
    otto.vanish()
    stage.advance(20.0)
    assert worker.take() == [c.Cancel(request.id)]
    anna.send(ask(2, key="k"))
    worker.send(final(request))
    assert anna.take() == [], "the cancelled run is nobody's"
    assert [again.id for again in worker.take()] != [request.id]


def test_the_others_get_the_final_reply_though_the_one_that_reads_left_without_credit() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1, key="k", messages=2, bytes=10))
    otto.send(ask(1, key="k"))
    [request] = worker.take()
    worker.send(c.Partial(request.id, 0, bytes(25)))
    anna.send(c.Cancel(1))
    credit = 10 - 25
    for size in (5, 100, 0, 7):
        for command in worker.take(c.Credit):
            credit += command.bytes
        assert credit > 0
        worker.send(c.Partial(request.id, 0, bytes(size)))
        credit -= size
    assert not worker.dropped
    assert otto.take() == []
    worker.send(final(request))
    assert otto.take() == [c.Final(1, 0, b"!")]


def test_a_caller_moves_no_deadline_but_its_own() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    anna, otto, ida = stage.client("anna"), stage.client("otto"), stage.client("ida")
    anna.send(ask(1, key="k", left=10.0))
    otto.send(ask(1, key="k", left=60.0))
    [request] = worker.take(c.Request)
    anna.send(c.Heartbeat([c.Held(1, 2.0)]), c.Credit(1, 1, 1, 1.0))
    assert worker.take() == [c.Credit(request.id, 1, 1)]
    otto.send(c.Credit(1, 5, 5, 20.0))
    assert worker.take() == [c.Heartbeat([c.Held(request.id, 20.0)])]
    ida.send(ask(1, key="k", left=40.0))
    assert worker.take() == [c.Heartbeat([c.Held(request.id, 40.0)])]
    ida.send(c.Cancel(1))
    assert worker.take() == [c.Heartbeat([c.Held(request.id, 20.0)])]
    otto.send(c.Heartbeat([c.Held(1, 0.5)]))
    assert worker.take() == [c.Heartbeat([c.Held(request.id, 1.0)])]
    worker.send(final(request))
    assert anna.take() == otto.take() == [c.Final(1, 0, b"!")]


def test_a_keyed_request_that_waits_ends_with_the_latest_deadline_of_those_who_stayed() -> None:
    stage = Stage()
    stage.worker("echo", slots=0)
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1, key="k", left=5.0))
    otto.send(ask(1, key="k", left=9.0))
    stage.advance(6.0)
    assert (errors(anna), errors(otto)) == ([], [])
    otto.send(c.Cancel(1))
    stage.advance(0.0)
    assert errors(anna) == [(1, *EXPIRED)]
    assert counted(stage) == {"received": 1, "joined": 1, "expired": 1}


def test_only_the_reader_s_credit_and_the_latest_deadline_count() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1, key="k", left=5.0))
    [request] = worker.take()
    otto.send(ask(1, key="k", left=3.0))
    assert worker.take() == []
    otto.send(ask(2, key="k"))
    otto.send(c.Credit(1, 5, 5), c.Heartbeat([c.Held(1, 1.0)]))
    anna.send(c.Credit(1, 7, 7))
    assert worker.take() == [c.Heartbeat([c.Held(request.id, math.inf)]), c.Credit(request.id, 7, 7)]
    otto.send(c.Cancel(2))
    assert worker.take() == [c.Heartbeat([c.Held(request.id, 5.0)])]


def test_a_keyed_request_runs_again_where_it_may_and_is_lost_where_not() -> None:
    stage = Stage()
    anna, otto = stage.client("anna"), stage.client("otto")
    for retry, expected in ((0, [(1, *LOST)]), (1, [])):
        worker = stage.worker("echo")
        anna.send(ask(1, key="k", retry=retry))
        otto.send(ask(1, key="k"))
        worker.vanish()
        assert errors(anna) == errors(otto) == expected


def test_those_who_join_are_limited_too() -> None:
    stage = Stage(client_requests=3)
    stage.worker("echo")
    client = stage.client()
    client.send(*(ask(id, key="k") for id in range(1, 6)))
    assert errors(client) == [(4, *OVERLOADED), (5, *OVERLOADED)]


def test_a_remembered_reply_above_what_a_caller_takes_is_an_error_for_that_one() -> None:
    stage = Stage()
    worker = stage.worker("echo")
    anna, otto = stage.client("anna"), stage.client("otto", limits=c.Limits(10, 10, 10))
    anna.send(ask(1, key="k"))
    otto.send(ask(1, key="k"))
    [request] = worker.take()
    worker.send(final(request, bytes(11)))
    assert [type(command) for command in (*anna.take(), *otto.take())] == [c.Final, c.Error]


def test_a_reader_that_does_not_read_loses_the_stream_and_not_the_others() -> None:
    stage = Stage(outbox=MIB)
    worker = stage.worker("echo")
    anna, otto = stage.client("anna"), stage.client("otto")
    anna.send(ask(1, key="k", messages=1000, bytes=2**40))
    otto.send(ask(1, key="k"))
    [request] = worker.take()
    anna.vanish()
    for _ in range(10):
        worker.send(c.Partial(request.id, 0, bytes(MIB // 2)))
    worker.send(final(request))
    assert otto.take() == [c.Final(1, 0, b"!")]
    assert max(session.link.outbox_bytes for session in stage.broker.sessions()) < 2 * MIB


def test_who_joins_with_more_time_does_not_share_the_first_ones_deadline() -> None:
    stage = Stage()
    worker, anna, ben = stage.worker("echo"), stage.client("anna"), stage.client("ben")
    anna.send(ask(1, key="k", left=1.0))
    [first] = worker.take()
    stage.now = 0.999
    ben.send(ask(1, key="k"))
    worker.send(c.Error(first.id, *EXPIRED, "late"))  # it had not yet heard of Ben
    again = worker.take()[-1]
    assert (again.key, again.body, again.left) == ("k", b"?", None)
    worker.send(final(again))
    for client in (anna, ben):
        assert [type(command) for command in client.take()] == [c.Final]


def test_who_joins_with_more_time_does_share_what_was_replied_already() -> None:
    stage = Stage()
    worker, anna, ben = stage.worker("echo"), stage.client("anna"), stage.client("ben")
    anna.send(ask(1, key="k", left=1.0))
    [first] = worker.take()
    worker.send(c.Partial(first.id, 0, b"some"))
    ben.send(ask(1, key="k"))
    worker.send(c.Error(first.id, *EXPIRED, "late"))
    assert errors(ben) == [(1, *EXPIRED)]


def test_a_key_that_was_used_with_another_payload_is_refused_and_leaves_nothing_behind() -> None:
    stage = Stage()
    worker, client = stage.worker("echo"), stage.client()
    client.send(ask(1, key="k", body=b"one"))
    [request] = worker.take()
    client.send(ask(2, key="k", body=b"two"))
    assert errors(client) == [(2, *INVALID)]
    check_counters(stage.broker)
    worker.send(final(request), c.Drain())
    assert stage.services() == []
    client.send(ask(3, key="k", body=b"two"), ask(4, key="k", body=b"one"))
    assert [type(command) for command in client.take()] == [c.Final, c.Error, c.Final]
    assert stage.services() == []
    check_counters(stage.broker)

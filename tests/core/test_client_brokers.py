"""A client with several brokers: which one gets a call, and what becomes of it there."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from itertools import permutations
from typing import Any

import msgspec
import pytest
from stage import FakeBroker, Stage, start

from zmdp_trio._core.client import Call, CallState, ClientMachine
from zmdp_trio._core.client.choice import ABSENCE, MAX_ABSENT, PATIENCE, RETURN
from zmdp_trio._core.client.ranking import weight_of
from zmdp_trio._errors import BrokerLost, RequestError, ServiceNotFound, Unavailable
from zmdp_trio._wire import commands as c

NAMES = ["one", "two", "three"]
NOT_RUN = msgspec.msgpack.encode({"ran": False})


def play(*names: str, up: str = "", **overrides: Any) -> tuple[Stage, dict[str, FakeBroker], ClientMachine]:
    """Return a client of brokers that say what the test has them say; all are up, or those named."""
    stage = Stage(**overrides)
    fakes = {name: FakeBroker(epoch=b"epoch of " + name.encode()) for name in names or NAMES}
    stage.brokers = dict(fakes)
    client = stage.client_machine(*fakes)
    for name in up.split() or fakes:
        stage.connect(client, name)
    return stage, fakes, client


def a_request(service: str = "echo", **fields: Any) -> c.Request:
    return c.Request(0, service, 0, b"?", 0, 0, **fields)


def where(call: Call) -> str:
    assert call.uplink is not None
    return call.uplink.endpoint


def refuse(stage: Stage, broker: FakeBroker, call: Call, error: type[RequestError], details: bytes = NOT_RUN) -> None:
    broker.send(c.Error(call.id, error.default_code.value, error.reason, "no", details))
    stage.flush()


def settled(client: ClientMachine) -> None:
    assert client.calls() == []
    assert client.credit.left == client.settings.connection_credit
    assert not any(isinstance(key, Call) for key in client._timers._when)


# ---- spreading


def test_calls_go_to_the_broker_that_has_the_fewest_and_in_turn_if_that_is_no_difference() -> None:
    stage, fakes, client = play()
    calls = [start(client) for _ in range(6)]
    assert Counter(map(where, calls)) == dict.fromkeys(NAMES, 2)
    assert where(calls[0]) != where(calls[1]) != where(calls[2])
    for call in calls:
        if where(call) == "two":
            fakes["two"].send(c.Final(call.id, 0, b""))
    stage.flush()
    assert {where(start(client)) for _ in range(2)} == {"two"}


def test_a_broker_that_does_not_answer_gets_no_more_than_its_part() -> None:
    stage, fakes, client = play()
    given: Counter[str] = Counter()
    for _ in range(100):
        call = start(client)
        given[where(call)] += 1
        if where(call) != "three":
            fakes[where(call)].send(c.Final(call.id, 0, b""))
            stage.flush()
    assert given["three"] == 1


@pytest.mark.parametrize("away", ["drains", "retires", "is lost"])
def test_a_broker_that_is_going_gets_none(away: str) -> None:
    stage, fakes, client = play()
    if away == "drains":
        fakes["one"].send(c.Drain())
        stage.flush()
    elif away == "retires":
        client.retire(client.uplinks["one"])
    else:
        stage.disconnect(client, "one")
    assert {where(start(client)) for _ in range(10)} == {"two", "three"}
    if away == "retires":
        client.keep(client.uplinks["one"])
    else:
        if away == "drains":
            stage.disconnect(client, "one")
        stage.connect(client, "one")
        assert {where(start(client)) for _ in range(10)} == {"two", "three"}, "its workers need a moment, too"
        stage.now += RETURN
    assert where(start(client, now=stage.now)) == "one"


# ---- what a broker did not run


@pytest.mark.parametrize("error", [Unavailable, ServiceNotFound])
def test_a_call_that_was_not_run_goes_to_each_broker_once(error: type[RequestError]) -> None:
    stage, fakes, client = play()
    call = start(client)
    asked = []
    for _ in NAMES:
        assert call.state is CallState.SENT
        asked.append(where(call))
        refuse(stage, fakes[asked[-1]], call, error)
    assert sorted(asked) == sorted(NAMES)
    assert type(call.outcome) is error
    assert call.outcome.details is None
    assert call.retries == 0
    settled(client)


def test_a_call_is_not_sent_to_brokers_that_drain() -> None:
    stage, fakes, client = play("one", "two")
    for fake in fakes.values():
        fake.send(c.Drain())
    stage.flush()
    call = start(client)
    refuse(stage, fakes[where(call)], call, Unavailable)
    assert type(call.outcome) is Unavailable
    settled(client)


@pytest.mark.parametrize(
    "error",
    [
        c.Error(1, "UNAVAILABLE", "unavailable", "may have run"),
        c.Error(1, "UNAVAILABLE", "worker-lost", "may have run", NOT_RUN),
        c.Error(1, "NOT_FOUND", "", "a handler's own words", NOT_RUN),
        c.Error(1, "UNAVAILABLE", "unavailable", "not ours", msgspec.msgpack.encode({"ran": True})),
    ],
    ids=lambda error: error.message,
)
def test_what_may_have_run_is_not_sent_again(error: c.Error) -> None:
    stage, fakes, client = play()
    call = start(client)
    error.id = call.id
    fakes[where(call)].send(error)
    stage.flush()
    assert isinstance(call.outcome, RequestError)
    assert call.outcome.details == (msgspec.msgpack.decode(error.details) if error.details else None)
    assert sum(len(fake.take(c.Request)) for fake in fakes.values()) == 1
    settled(client)


def test_a_call_that_may_have_run_goes_elsewhere_if_it_may_run_once_more() -> None:
    stage, fakes, client = play()
    call = start(client, a_request(retry=3))
    first = where(call)
    refuse(stage, fakes[first], call, Unavailable, b"")
    second = where(call)
    assert second != first
    [request] = fakes[second].take(c.Request)
    assert (request.retry, call.retries) == (0, 0), "the first one may have used up all but one"
    refuse(stage, fakes[second], call, Unavailable, b"")
    assert type(call.outcome) is Unavailable
    settled(client)


def test_a_call_does_not_go_elsewhere_after_a_partial_reply() -> None:
    stage, fakes, client = play()
    call = start(client, a_request(retry=3))
    fakes[where(call)].send(c.Partial(call.id, 0, b"part"))
    refuse(stage, fakes[where(call)], call, Unavailable, b"")
    assert type(call.outcome) is Unavailable


def test_a_broker_that_did_not_know_a_service_is_asked_last_for_a_while() -> None:
    stage, fakes, client = play("one", "two")
    call = start(client)
    lacking = where(call)
    refuse(stage, fakes[lacking], call, ServiceNotFound)
    other = where(call)
    assert other != lacking
    assert {where(start(client)) for _ in range(5)} == {other}
    assert {where(start(client, a_request("another"))) for _ in range(5)} == {lacking}
    stage.disconnect(client, other)
    assert where(start(client)) == lacking, "better than none"


@pytest.mark.parametrize("how", ["time", "a new session"])
def test_that_is_forgotten(how: str) -> None:
    stage, fakes, client = play("one", "two")
    call = start(client)
    lacking = where(call)
    refuse(stage, fakes[lacking], call, ServiceNotFound)
    if how == "time":
        stage.now += ABSENCE
    else:
        stage.disconnect(client, lacking)
        stage.connect(client, lacking)
        assert client.choice.absent == {}
        stage.now += RETURN
    assert where(start(client, now=stage.now)) == lacking


def test_a_service_that_only_one_worker_s_name_lacks_is_not_absent() -> None:
    stage, fakes, client = play("one", "two")
    call = start(client, a_request(worker="anna"))
    refuse(stage, fakes[where(call)], call, ServiceNotFound)
    assert client.choice.absent == {}


def test_what_is_remembered_of_absent_services_is_bounded() -> None:
    _, _, client = play("one", "two")
    uplink = client.uplinks["one"]
    for number in range(MAX_ABSENT + 10):
        client.choice.note_absence(uplink, a_request(str(number)), 0.0)
    assert len(client.choice.absent) <= MAX_ABSENT


def test_a_retry_goes_to_another_broker_first_though_its_own_is_back() -> None:
    stage, _, client = play("one", "two")
    call = start(client, a_request(retry=1))
    first = where(call)
    stage.disconnect(client, first)
    stage.connect(client, first)  # anew
    assert call.state is CallState.SENT
    assert where(call) != first


# ---- keys


def best(service: str, key: str, names: list[str] = NAMES) -> list[str]:
    """The ranking, from what the document says."""

    def weight(name: str) -> int:
        return int.from_bytes(blake2b(f"{name}\0{service}\0{key}".encode(), digest_size=8).digest(), "big")

    return sorted(names, key=weight, reverse=True)


@pytest.mark.parametrize("order", list(permutations(NAMES)))
def test_every_client_finds_the_same_broker_for_a_key(order: tuple[str, ...]) -> None:
    _, _, client = play(*order)
    for number in range(20):
        key = f"key {number}"
        assert where(start(client, a_request(key=key))) == best("echo", key)[0]


def test_keys_are_spread_over_the_brokers_and_services() -> None:
    first = Counter(best("echo", f"key {number}")[0] for number in range(3000))
    assert min(first.values()) > 900
    assert any(best("echo", key)[0] != best("other", key)[0] for key in map(str, range(20)))


def test_a_ranking_that_is_published() -> None:
    assert weight_of("tcp://10.0.0.1:5555", "charge", "order-17").hex() == "830c01b83dc67431"


def test_a_key_s_next_broker_has_it_while_the_first_is_away() -> None:
    stage, fakes, client = play()
    first, second, third = best("echo", "k")
    stage.disconnect(client, first)
    call = start(client, a_request(key="k"))
    assert call.state is CallState.WAITING, "it may be back in a moment"
    stage.advance(PATIENCE)
    assert where(call) == second
    assert where(start(client, a_request(key="k"), now=stage.now)) == second
    fakes[second].send(c.Drain())
    stage.flush()
    assert where(start(client, a_request(key="k"), now=stage.now)) == third
    stage.connect(client, first)
    assert where(start(client, a_request(key="k"), now=stage.now)) == first


def test_a_keyed_call_that_was_not_run_goes_down_the_ranking() -> None:
    stage, fakes, client = play()
    call = start(client, a_request(key="k"))
    for name in best("echo", "k"):
        assert where(call) == name
        refuse(stage, fakes[name], call, ServiceNotFound)
    assert type(call.outcome) is ServiceNotFound
    settled(client)


def test_a_keyed_call_waits_for_its_broker_when_the_client_has_just_begun() -> None:
    first, second, third = best("echo", "k")
    stage, _, client = play(up=second)
    call = start(client, a_request(key="k"))
    other = start(client)
    assert (call.state, where(other)) == (CallState.WAITING, second)
    stage.connect(client, third)
    assert call.state is CallState.WAITING
    stage.connect(client, first)
    assert where(call) == first


def test_it_does_not_wait_for_a_broker_that_is_known_to_be_away() -> None:
    first, second, _ = best("echo", "k")
    stage, _, client = play(up=second)
    call = start(client, a_request(key="k"))
    client.lost(client.uplinks[first], "refused", now=0.0)
    assert where(call) == second
    stage.flush()


def test_it_does_not_wait_for_long() -> None:
    _, second, _ = best("echo", "k")
    stage, _, client = play(up=second)
    call = start(client, a_request(key="k"))
    stage.advance(PATIENCE - 0.01)
    assert call.state is CallState.WAITING
    stage.advance(0.02)
    assert where(call) == second


def test_it_waits_for_a_connection_as_long_as_any_other_call() -> None:
    stage, _, client = play()
    for name in NAMES:
        stage.disconnect(client, name)
    call = start(client, a_request(key="k"), now=stage.now)
    stage.advance(4.99)
    assert call.state is CallState.WAITING
    stage.advance(0.02)
    assert isinstance(call.outcome, BrokerLost)
    settled(client)


@pytest.mark.parametrize("outcome", ["resolved", "failed", "too late"])
def test_it_waits_for_names_that_are_being_looked_up(outcome: str) -> None:
    stage, _, client = play("one")
    client.unresolved["tcp://brokers:1"] = None
    call = start(client, a_request(key="k"))
    assert call.state is CallState.WAITING
    assert start(client).state is CallState.SENT
    if outcome == "too late":
        stage.advance(PATIENCE)
    else:
        client.looked_up("tcp://brokers:1", None if outcome == "resolved" else "no such name", now=0.5)
    assert where(call) == "one"


def test_a_client_that_has_no_broker_says_what_each_name_lacks() -> None:
    stage, _, client = play("one")
    stage.disconnect(client, "one", reason="refused")
    client.looked_up("tcp://brokers:1", "can't be resolved: no such name", now=0.0)
    call = start(client)
    stage.advance(5.0)
    assert isinstance(call.outcome, BrokerLost)
    assert call.outcome.message == (
        "no broker within 5 s (one: refused; tcp://brokers:1: can't be resolved: no such name)"
    )


# ---- brokers that are no longer ours


def test_an_uplink_that_retires_ends_what_it_has_and_is_forgotten() -> None:
    stage, fakes, client = play("one", "two")
    calls = [start(client) for _ in range(2)]
    [call] = [call for call in calls if where(call) == "one"]
    uplink = client.uplinks["one"]
    client.retire(uplink)
    assert client.take_retired() == []
    fakes["one"].send(c.Final(call.id, 0, b"done"))
    stage.flush()
    assert call.outcome == c.Final(call.id, 0, b"done")
    assert client.take_retired() == [uplink]
    stage.flush()
    assert fakes["one"].take(c.Goodbye) == [c.Goodbye()]
    assert list(client.uplinks) == ["two"]
    assert client.retiring == {}
    assert {where(start(client)) for _ in range(3)} == {"two"}


def test_an_uplink_that_retires_and_is_lost_keeps_its_calls_for_as_long_as_any_other() -> None:
    stage, _, client = play("one", "two")
    [call] = [call for call in (start(client), start(client)) if where(call) == "one"]
    client.retire(client.uplinks["one"])
    stage.disconnect(client, "one")
    assert client.take_retired() == []
    stage.advance(client.settings.resume)
    assert isinstance(call.outcome, BrokerLost)
    assert [uplink.endpoint for uplink in client.take_retired()] == ["one"]


def test_an_uplink_that_is_wanted_again_in_time_stays() -> None:
    _, _, client = play("one", "two")
    client.retire(client.uplinks["one"])
    client.keep(client.uplinks["one"])
    assert client.take_retired() == []
    assert {where(start(client)) for _ in range(2)} == {"one", "two"}


@pytest.mark.parametrize("retry", [0, 1])
def test_what_was_claimed_may_have_run_whatever_its_new_broker_says_of_a_key(retry: int) -> None:
    """It shares a request that has not run; but the broker before this one had given it to a worker."""
    stage, fakes, client = play("one", "two")
    call = start(client, a_request(key="k", retry=retry))
    stage.flush()
    name = where(call)
    other = next(each for each in fakes if each != name)
    stage.disconnect(client, name)
    fakes[name]._welcome = {"epoch": b"another"}
    stage.connect(client, name)
    fakes[name].take()
    refuse(stage, fakes[name], call, Unavailable)
    assert fakes[other].take(c.Request) == []
    again = fakes[name].take(c.Request)
    assert [request.retry for request in again] == [0] * retry
    assert (call.outcome is None) is bool(retry)

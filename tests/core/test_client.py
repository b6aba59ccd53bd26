"""The client's machine: where a call is, who ends it, and what is left of it afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from stage import BROKER, FakeBroker, Stage, start

from zmdp_trio._core.client import Call, CallState, ClientMachine
from zmdp_trio._core.uplink import State
from zmdp_trio._errors import (
    BrokerLost,
    Code,
    DeadlineExceeded,
    InvalidArgument,
    MessageTooLarge,
    RequestCancelled,
    RequestError,
    ServiceNotFound,
)
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1


def play(**overrides: Any) -> tuple[Stage, FakeBroker, ClientMachine]:
    """Return a client's machine that is connected to a broker that says what the test has it say."""
    broker = FakeBroker()
    stage = Stage(fake=broker, **overrides)
    client = stage.client_machine()
    stage.connect(client)
    return stage, broker, client


def a_request(**fields: Any) -> c.Request:
    return c.Request(0, "echo", 0, b"?", 0, 0, **fields)


def settled(client: ClientMachine) -> None:
    """Nothing of any call is left anywhere."""
    statistics = client.statistics()
    assert statistics["waiting"] == statistics["outstanding"] == 0
    assert not any(isinstance(key, Call) for key in client._timers._when)
    assert client.calls() == []
    assert client.credit.left == client.settings.connection_credit


def error_of(call: Call) -> RequestError:
    assert isinstance(call.outcome, RequestError)
    return call.outcome


# ---- there and back


def test_a_call_goes_out_and_its_replies_come_in() -> None:
    stage, broker, client = play()
    call = start(client, a_request(timeout=3.0, headers={"a": "b"}))
    assert call.state is CallState.SENT
    stage.flush()
    [request] = broker.take()
    assert request == c.Request(1, "echo", 0, b"?", 64, 2**20, None, 3.0, {"a": "b"})
    broker.send(c.Partial(1, 0, b"p"), c.Final(1, 1, b"f"))
    stage.flush()
    assert client.take_news() == [call, call]
    assert client.take(call).body == b"p"
    assert call.outcome == c.Final(1, 1, b"f")
    assert call.state is CallState.ENDED
    settled(client)


def test_a_call_s_error_is_what_the_broker_said() -> None:
    stage, broker, client = play()
    call = start(client)
    details = msgspec.msgpack.encode({"a": 1})
    broker.send(c.Error(1, "NOT_FOUND", "service-not-found", "none", details))
    stage.flush()
    error = error_of(call)
    assert type(error) is ServiceNotFound
    assert (error.code, error.message, error.details, error.service) == (Code.NOT_FOUND, "none", {"a": 1}, "echo")
    settled(client)


@pytest.mark.parametrize("details", [b"\xc1", b"\x91" * 100_000, b"\xff\xff"])
def test_details_that_can_t_be_read_are_none(details: bytes) -> None:
    stage, broker, client = play()
    call = start(client)
    broker.send(c.Error(1, "NEW_CODE", "new-reason", "m", details))
    stage.flush()
    assert error_of(call).details is None
    assert error_of(call).code is Code.INTERNAL


def test_a_caller_that_does_not_wait_is_not_woken() -> None:
    stage, broker, client = play()
    call = start(client)
    call.waiter = None
    broker.send(c.Partial(1, 0, b"p"), c.Final(1, 0, b""))
    stage.flush()
    assert client.take_news() == []
    assert len(call.inbox) == 1


def test_late_replies_are_counted() -> None:
    stage, broker, client = play()
    broker.send(c.Partial(9, 0, b""), c.Final(9, 0, b""), c.Error(9, "INTERNAL", "", ""), c.Heartbeat([c.Held(9)]))
    stage.flush()
    assert client.late_replies == 3
    assert client.protocol_errors == 0


# ---- limits


def limited(**limits: int) -> tuple[Stage, FakeBroker, ClientMachine]:
    broker = FakeBroker(limits=c.Limits(**{"message": 10, "headers": 10, "service": 10, **limits}))
    stage = Stage(fake=broker)
    client = stage.client_machine()
    stage.connect(client)
    return stage, broker, client


TOO_LARGE: list[tuple[Callable[[], c.Request], str]] = [
    (lambda: c.Request(0, "echo", 0, bytes(11), 0, 0), "the payload: 11 bytes, the limit is 10"),
    (lambda: a_request(headers={"a": "b" * 10}), "the headers: 11 bytes"),
    (lambda: a_request(headers={"a": "\N{EURO SIGN}" * 4}), "the headers: 13 bytes"),
    (lambda: c.Request(0, "\N{EURO SIGN}" * 4, 0, b"", 0, 0), "the service name: 12 bytes"),
    (lambda: a_request(key="k" * 256), "the key: 256 bytes"),
    (lambda: a_request(worker="w" * 256), "the worker's name: 256 bytes"),
]


@pytest.mark.parametrize(("make", "message"), TOO_LARGE, ids=[message for _, message in TOO_LARGE])
def test_what_the_broker_would_not_take_is_refused_before_anything_is_sent(make: Any, message: str) -> None:
    stage, broker, client = limited()
    with pytest.raises(MessageTooLarge, match=message):
        client.start(Call(make()), now=0.0)
    stage.flush()
    assert broker.take() == []
    assert client.statistics()["started"] == 0
    settled(client)


@pytest.mark.parametrize(
    "fields", [{"headers": {"a": "\ud800"}}, {"key": "\ud800"}, {"worker": "\ud800"}, {"retry": 2**49}], ids=str
)
def test_what_can_not_be_said_at_all_is_refused_too(fields: dict[str, Any]) -> None:
    _, _, client = play()
    with pytest.raises(InvalidArgument):
        client.start(Call(a_request(**fields)), now=0.0)
    settled(client)


def test_a_call_that_waits_for_its_broker_is_measured_again_when_that_comes() -> None:
    broker = FakeBroker(limits=c.Limits(10, 10, 10))
    stage = Stage(fake=broker)
    client = stage.client_machine()
    large, small = start(client, c.Request(0, "echo", 0, bytes(11), 0, 0)), start(client)
    stage.connect(client)
    assert type(error_of(large)) is MessageTooLarge
    assert [request.body for request in broker.take()] == [b"?"]
    client.cancel(small)
    settled(client)


# ---- no broker


def test_a_call_waits_for_a_connection() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker)
    client = stage.client_machine()
    call = start(client)
    assert call.state is CallState.WAITING
    stage.advance(4.9)
    stage.connect(client)
    assert call.state is CallState.SENT
    assert [request.id for request in broker.take()] == [1]
    stage.advance(10.0)
    assert call.outcome is None


def test_the_wait_for_a_connection_has_a_limit_and_says_why() -> None:
    stage = Stage(fake=FakeBroker())
    client = stage.client_machine(BROKER, "tcp://other")
    client.lost(client.uplinks[BROKER], "refused", now=0.0)
    call = start(client)
    stage.advance(4.999)
    assert call.outcome is None
    stage.advance(0.001)
    error = error_of(call)
    assert type(error) is BrokerLost
    assert error.message == "no broker within 5 s (broker: refused; tcp://other: no answer)"
    assert client.take_news() == [call]
    settled(client)


def test_somebody_who_is_there_and_does_not_answer_is_told_from_nobody() -> None:
    stage = Stage(fake=FakeBroker())
    client = stage.client_machine()
    uplink = client.uplinks[BROKER]
    client.connected(uplink, now=0.0)
    call = start(client)
    stage.advance(client.settings.heartbeat - 0.001)
    assert (uplink.reason, client.take_unanswered()) == ("", [])
    stage.advance(0.001)
    assert client.take_unanswered() == [uplink]
    stage.advance(client.settings.connect - client.settings.heartbeat)
    words = f"({BROKER}: connected, but not answered as by a broker that speaks zmdp/1)"
    assert words in error_of(call).message


@pytest.mark.parametrize(("deadline", "kind", "ends"), [(2.0, DeadlineExceeded, 2.0), (9.0, BrokerLost, 5.0)])
def test_a_deadline_passes_while_a_call_waits(deadline: float, kind: type, ends: float) -> None:
    stage = Stage(fake=FakeBroker())
    client = stage.client_machine()
    call = start(client, explicit_deadline=deadline)
    assert stage.step() == ends
    assert type(call.outcome) is kind


@pytest.mark.parametrize("answers", ["refusal", "other version", "nonsense", "another's session"])
def test_a_broker_that_will_not_have_us_is_named_with_its_reason(answers: str) -> None:
    broker = FakeBroker(answers=False)
    stage = Stage(fake=broker)
    client = stage.client_machine()
    call = start(client)
    stage.connect(client)
    if answers == "refusal":
        broker.say_uncounted(c.Goodbye("version 1 is not supported", refused=True))
    elif answers == "other version":
        broker.welcome(version=2)
    elif answers == "nonsense":
        broker.say_uncounted(c.Drain())
    else:
        broker.welcome(resumed=True)
    stage.flush()
    assert client.uplinks[BROKER].state is State.DOWN
    stage.advance(5.0)
    reason = {
        "refusal": "version 1 is not supported",
        "other version": "the broker speaks version 2, this peer 1",
        "nonsense": "the broker did not answer the greeting",
        "another's session": "the broker goes on with a session that is not ours",
    }[answers]
    assert f"broker: {reason}" in error_of(call).message


# ---- time


def test_silence_counts_only_while_the_caller_waits() -> None:
    stage, broker, client = play()
    call = start(client, a_request(timeout=3.0))
    client.unwait(call)
    stage.advance(100.0)
    assert call.outcome is None
    client.wait(call, now=stage.now)
    stage.advance(2.9)
    broker.send(c.Heartbeat([c.Held(1)]))
    stage.flush()
    stage.advance(2.9)
    broker.send(c.Partial(1, 0, b""))
    stage.flush()
    stage.advance(2.9)
    assert call.outcome is None
    stage.advance(0.1)
    error = error_of(call)
    assert (type(error), error.message) == (DeadlineExceeded, "no reply for 3 s")
    stage.flush()
    assert broker.take(c.Cancel) == [c.Cancel(1)]
    settled(client)


def test_a_deadline_ends_a_call_whether_anybody_waits_or_not() -> None:
    stage, broker, client = play()
    waited, left = start(client, explicit_deadline=7.0), start(client, explicit_deadline=7.0)
    client.unwait(left)
    stage.advance(6.99)
    assert waited.outcome is left.outcome is None
    stage.advance(0.01)
    for call in (waited, left):
        assert (type(call.outcome), error_of(call).message) == (DeadlineExceeded, "the deadline passed")
    assert sorted(cancel.id for cancel in broker.take(c.Cancel)) == [1, 2]
    settled(client)


@pytest.mark.parametrize(
    ("deadline", "left"), [(10.0, 9.0), (math.inf, None), (1.0, 0.0), (-math.inf, 0.0), (math.nan, 0.0)]
)
def test_a_deadline_travels_as_time_left(deadline: float, left: float | None) -> None:
    stage, broker, client = play()
    stage.advance(1.0)
    start(client, explicit_deadline=deadline, now=1.0)
    stage.flush()
    [request] = broker.take(c.Request)
    assert request.left == left


def test_the_caller_s_own_deadline_is_not_enforced_here_and_is_looked_at_in_time() -> None:
    stage, _, client = play()
    call = Call(a_request())
    call.deadline = 4.0
    client.start(call, now=0.0)
    call.waiter = "waiter"
    client.wait(call, now=0.0)
    looks = []
    while stage.now < 4.0:
        stage.step()
        if client.take_news():
            looks.append(stage.now)
    assert looks[:3] == [2.0, 3.0, 3.5]
    assert call.outcome is None


def test_a_call_that_is_over_before_the_next_beat_never_had_a_timer() -> None:
    stage, broker, client = play()
    stage.advance(1.0)
    brief, long = start(client, now=1.0), start(client, now=1.0)
    assert client.statistics()["timers"] == 0
    broker.send(c.Final(1, 0, b""))
    stage.flush()
    assert client.take_news() == [brief]
    looks = []
    while stage.now < 10.0:
        stage.step()
        if client.take_news() == [long]:
            looks.append(stage.now)
    assert looks == [3.5, 6.0, 8.5]


def test_a_deadline_that_was_moved_is_told() -> None:
    stage, broker, client = play()
    call = Call(a_request())
    call.deadline = 4.0
    client.start(call, now=0.0)
    for deadline, now in ((9.0, 1.0), (9.0, 2.0), (1.0, 3.0), (math.inf, 3.0)):
        client.move_deadline(call, deadline, now=now)
    stage.flush()
    assert broker.take(c.Heartbeat) == [
        c.Heartbeat([c.Held(1, 8.0)]),
        c.Heartbeat([c.Held(1, 0.0)]),
        c.Heartbeat([c.Held(1, math.inf)]),
    ]


def test_a_deadline_that_is_moved_while_the_call_waits_goes_out_with_it() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker)
    client = stage.client_machine()
    call = Call(a_request())
    call.deadline = 4.0
    client.start(call, now=0.0)
    client.move_deadline(call, 3.0, now=0.0)
    stage.connect(client)
    [request] = broker.take()
    assert request.left == 3.0


# ---- leaving


@pytest.mark.parametrize("state", ["new", "waiting", "sent", "sent and down", "ended", "ended with replies"])
def test_a_call_that_is_left_leaves_nothing(state: str) -> None:
    stage, broker, client = play()
    if state == "waiting":
        stage.disconnect(client)
    call = Call(a_request())
    if state != "new":
        client.start(call, now=0.0)
        client.wait(call, now=0.0)
    stage.flush()
    broker.take()
    if state == "sent and down":
        stage.disconnect(client)
    if state.startswith("ended"):
        broker.send(c.Partial(1, 0, bytes(100)), c.Final(1, 0, b""))
        stage.flush()
        if state == "ended":
            client.take(call)
    client.cancel(call)
    client.cancel(call)
    assert call.state is CallState.ENDED
    assert call.outcome is not None
    assert not call.inbox
    settled(client)
    stage.flush()
    assert broker.take() == ([c.Cancel(1)] if state == "sent" else [])
    if state == "sent and down":
        stage.connect(client)
        broker.welcome()
        stage.flush()
        assert broker.take() == []


def test_replies_that_cross_a_cancel_are_late() -> None:
    stage, broker, client = play()
    call = start(client)
    client.cancel(call)
    broker.send(c.Partial(1, 0, b""), c.Final(1, 0, b""))
    stage.flush()
    assert client.late_replies == 2
    settled(client)


def test_closing_ends_every_call_and_says_goodbye() -> None:
    stage, broker, client = play()
    calls = [start(client), start(client)]
    client.fail_all(RequestCancelled("the client was closed"))
    client.goodbye()
    stage.flush()
    assert [type(call.outcome) for call in calls] == [RequestCancelled, RequestCancelled]
    assert [type(command) for command in broker.take()] == [c.Request, c.Request, c.Cancel, c.Cancel, c.Goodbye]
    settled(client)


def test_closing_without_a_connection() -> None:
    stage = Stage(fake=FakeBroker())
    client = stage.client_machine()
    call = start(client)
    client.fail_all(RequestCancelled("the client was closed"))
    client.goodbye()
    assert type(call.outcome) is RequestCancelled
    settled(client)


def test_a_goodbye_before_the_welcome_still_goes_out() -> None:
    broker = FakeBroker(answers=False)
    stage = Stage(fake=broker)
    client = stage.client_machine()
    stage.connect(client)
    client.goodbye()
    stage.flush()
    assert broker.take() == [c.Goodbye()]


# ---- connections that come and go


def test_a_call_survives_a_connection_that_comes_back() -> None:
    stage, broker, client = play()
    call = start(client)
    stage.flush()
    stage.disconnect(client)
    stage.advance(9.0)
    broker.answers = False
    stage.connect(client)
    assert broker.hello is not None
    assert broker.hello.epoch == b"epoch-1"
    broker.send(c.Final(1, 0, b"!"))
    broker.welcome(resumed=True)
    stage.flush()
    assert call.outcome == c.Final(1, 0, b"!")
    settled(client)


@pytest.mark.parametrize("how", ["forgot us", "did not come back", "said goodbye", "refused us", "refused to greet us"])
@pytest.mark.parametrize("retry", [0, 1])
@pytest.mark.parametrize("partials", [0, 1])
def test_calls_of_a_lost_broker_run_again_or_are_lost(how: str, retry: int, partials: int) -> None:
    stage, broker, client = play()
    call = start(client, a_request(retry=retry))
    stage.flush()
    broker.send(*[c.Partial(1, 0, b"p")] * partials)
    stage.flush()
    broker.take()
    if how == "forgot us":
        stage.disconnect(client)
        stage.connect(client)
    elif how == "did not come back":
        stage.disconnect(client)
        stage.advance(10.0)
    elif how == "said goodbye":
        broker.send(c.Goodbye("the broker stops"))
        stage.flush()
        assert (call.state, call.outcome) == (CallState.SENT, None), "another one may be started in its place"
        stage.advance(10.0)
    elif how == "refused us":
        broker.send(c.Goodbye("that makes no sense", refused=True))
        stage.flush()
    else:
        stage.disconnect(client)
        broker.answers = False
        stage.connect(client)
        broker.say_uncounted(c.Goodbye("not now", refused=True))
        stage.flush()
    if not retry or partials:
        error = error_of(call)
        assert type(error) is BrokerLost
        assert error.message.startswith("the broker is lost: ")
        if call.inbox:
            client.take(call)
        settled(client)
        return
    assert call.outcome is None
    if how != "forgot us":
        assert call.state is CallState.WAITING, "not sent to a broker that is leaving"
        broker.answers = True
        stage.connect(client)
    assert call.state is CallState.SENT
    assert [request.id for request in broker.take(c.Request)] == [2]
    assert call.retries == 0
    broker.send(c.Final(2, 0, b"!"))
    stage.flush()
    assert call.outcome == c.Final(2, 0, b"!")
    settled(client)


@pytest.mark.parametrize("reason", ["broker-lost", "worker-lost"])
@pytest.mark.parametrize("retry", [0, 1])
@pytest.mark.parametrize("partials", [0, 1])
def test_a_restarted_broker_is_asked_for_calls_before_they_run_again_or_are_lost(
    reason: str, retry: int, partials: int
) -> None:
    stage, broker, client = play()
    call = start(client, a_request(retry=retry, key="key"), explicit_deadline=9.0)
    stage.flush()
    broker.send(*[c.Partial(1, 0, b"p")] * partials)
    stage.flush()
    restart(stage, broker, client)
    left = {"messages": 64 - partials, "bytes": client.settings.credit_bytes - partials, "left": 9.0}
    assert broker.take() == [c.Claim(1, "echo", partials, **left, key="key")]
    assert (call.state, call.outcome) == (CallState.SENT, None)
    broker.send(c.Error(1, "UNAVAILABLE", reason, "nobody has it"))
    stage.flush()
    if not retry or partials:
        assert error_of(call).reason == reason
        if call.inbox:
            client.take(call)
        settled(client)
        return
    assert [request.id for request in broker.take(c.Request)] == [2]
    broker.send(c.Error(2, "UNAVAILABLE", reason, "gone"))
    stage.flush()
    assert error_of(call).reason == reason, "that was no claim, and nothing is left to try"
    settled(client)


def test_what_was_not_sent_is_not_claimed() -> None:
    stage, broker, client = play()
    sent, unread = start(client), start(client, discards=True)
    stage.flush()
    stage.disconnect(client)
    client.cancel(sent)
    restart(stage, broker, client)
    assert [(claim.id, claim.received) for claim in broker.take(c.Claim)] == [(2, None)]
    broker.send(c.Final(2, 0, b"!"))
    stage.flush()
    late = start(client)
    restart(stage, broker, client)
    assert [(type(command), command.id) for command in broker.take()] == [(c.Request, 4)]
    assert unread.outcome == c.Final(2, 0, b"!")
    assert (late.state, late.retries) == (CallState.SENT, 0)


def restart(stage: Stage, broker: FakeBroker, client: ClientMachine) -> None:
    """Have another broker take the place of the one that was there."""
    if (client, BROKER) in stage.lines:
        stage.disconnect(client)
    broker.answers = False
    broker.take()
    stage.connect(client)
    broker.welcome(epoch=b"after-" + client.uplinks[BROKER].epoch)
    stage.flush()


def test_a_session_that_was_given_up_is_not_gone_on_with() -> None:
    """The broker may not have noticed anything; it must not go on with requests that nobody waits for."""
    stage, broker, client = play()
    call = start(client)
    stage.disconnect(client)
    stage.advance(10.0)
    assert type(call.outcome) is BrokerLost
    stage.connect(client)
    assert broker.hello is not None
    assert broker.hello.epoch == b""


def test_a_session_that_is_given_up_while_we_greet_is_not_gone_on_with_either() -> None:
    stage, broker, client = play()
    call = start(client)
    stage.disconnect(client)
    broker.answers = False
    stage.advance(9.0)
    stage.connect(client)
    stage.advance(1.0)
    assert type(call.outcome) is BrokerLost
    broker.welcome(resumed=True)
    stage.flush()
    assert client.uplinks[BROKER].state is State.DOWN, "dial again"
    broker.answers = True
    stage.connect(client)
    assert broker.hello is not None
    assert broker.hello.epoch == b""
    assert client.uplinks[BROKER].up


def test_cancelling_while_the_connection_is_away_is_told_when_it_is_back() -> None:
    stage, broker, client = play()
    call = start(client)
    stage.flush()
    broker.take()
    stage.disconnect(client)
    client.cancel(call)
    broker.answers = False
    stage.connect(client)
    broker.welcome(resumed=True)
    stage.flush()
    assert broker.take() == [c.Cancel(1)]


def test_what_overtakes_the_welcome_is_sent_again() -> None:
    stage, broker, client = play()
    call = start(client)
    stage.flush()
    stage.disconnect(client)
    broker.answers = False
    stage.connect(client)
    broker.link.open(broker.peer, broker.received)
    broker.send(c.Final(1, 0, b"!"))
    stage.flush()
    assert call.outcome is None
    broker.welcome(resumed=True)
    stage.flush()
    assert call.outcome == c.Final(1, 0, b"!")
    assert client.protocol_errors == 0


def test_a_greeting_without_an_answer_is_repeated() -> None:
    broker = FakeBroker(answers=False)
    stage = Stage(fake=broker)
    client = stage.client_machine()
    stage.connect(client)
    stage.advance(5.0)
    assert broker.hellos == 3
    for _ in range(2):
        broker.welcome()
        stage.flush()
    assert client.uplinks[BROKER].up
    assert client.protocol_errors == 0, "the answers to the others are no breach"


def test_an_idle_session_is_silent_and_a_busy_one_beats() -> None:
    stage, broker, client = play()
    stage.advance(10.0)
    assert broker.link.received == 0
    call = start(client)
    stage.advance(10.0)
    assert broker.link.received >= 4
    client.cancel(call)
    stage.flush()
    broker.link.acknowledge()
    stage.flush()
    received = broker.link.received
    stage.advance(10.0)
    assert broker.link.received == received


def test_several_brokers_take_turns_and_one_that_drains_is_passed_over() -> None:
    stage = Stage()
    stage.start_broker("second", epoch=b"epoch-2")
    client = stage.client_machine(BROKER, "second")
    stage.connect(client)
    stage.connect(client, "second")
    sent = [start(client).uplink for _ in range(4)]
    assert [uplink.endpoint for uplink in sent if uplink] == ["second", BROKER, "second", BROKER]
    stage.brokers["second"].drain()
    stage.flush()
    assert {start(client).uplink for _ in range(4)} == {client.uplinks[BROKER]}
    stage.brokers[BROKER].drain()
    stage.flush()
    assert start(client).uplink is not None


def test_a_retry_goes_to_another_broker_if_one_is_there() -> None:
    stage = Stage()
    stage.start_broker("second", epoch=b"epoch-2")
    client = stage.client_machine(BROKER, "second")
    stage.connect(client)
    call = start(client, a_request(retry=1))
    stage.connect(client, "second")
    stage.disconnect(client)
    stage.advance(10.0)
    assert call.state is CallState.SENT
    assert call.uplink is client.uplinks["second"]


def test_a_retry_that_the_other_broker_would_not_take_ends() -> None:
    stage = Stage()
    stage.brokers["small"] = FakeBroker(limits=c.Limits(10, 10, 10))
    client = stage.client_machine(BROKER, "small")
    stage.connect(client)
    call = start(client, c.Request(0, "echo", 0, bytes(11), 0, 0, retry=1))
    stage.connect(client, "small")
    stage.disconnect(client)
    stage.advance(10.0)
    assert type(call.outcome) is MessageTooLarge
    settled(client)


# ---- brokers that make no sense


@pytest.mark.parametrize(
    "command",
    [c.Slots("echo", 1), c.Request(1, "echo", 0, b"", 0, 0), c.Cancel(1), c.Credit(1, 1, 1), c.Reject(1), c.Drained()],
    ids=lambda command: type(command).__name__,
)
def test_a_command_that_is_not_for_clients_is_counted_and_passed_over(command: c.Command) -> None:
    stage, broker, client = play()
    call = start(client)
    broker.send(command, c.Final(1, 0, b""))
    stage.flush()
    assert call.outcome == c.Final(1, 0, b"")
    assert client.protocol_errors == 1


def test_a_lying_acknowledgement_costs_the_broker_its_connection() -> None:
    stage, _, client = play()
    start(client)
    client.receive(client.uplinks[BROKER], zmdp1.encode(c.Batch(1, 99), []), now=0.0)
    stage.flush()
    assert client.uplinks[BROKER].state is State.DOWN
    assert client.protocol_errors == 1
    assert "batch 99" in client.uplinks[BROKER].reason


def test_a_broker_that_lies_about_what_it_has_is_dialled_again() -> None:
    stage, broker, client = play()
    call = start(client)
    stage.flush()
    stage.disconnect(client)
    broker.answers = False
    stage.connect(client)
    broker.welcome(resumed=True, received=99)
    stage.flush()
    assert client.uplinks[BROKER].state is State.DOWN
    assert call.outcome is None
    stage.advance(10.0)
    assert type(call.outcome) is BrokerLost


def test_more_messages_than_were_granted_cost_the_broker_its_connection() -> None:
    stage, broker, client = play(credit_messages=2)
    start(client)
    broker.send(*[c.Partial(1, 0, b"")] * 3)
    stage.flush()
    assert client.uplinks[BROKER].state is State.DOWN
    assert client.uplinks[BROKER].reason == "request 1: a partial reply without credit"


def test_nothing_is_heard_after_a_broker_s_goodbye() -> None:
    stage, broker, client = play()
    call = start(client, a_request(retry=1))
    broker.send(c.Goodbye(), c.Final(1, 0, b""), c.Drain())
    stage.flush()
    assert (call.state, call.outcome) == (CallState.SENT, None)
    uplink = client.uplinks[BROKER]
    assert uplink.state is State.DOWN
    assert uplink.reason == "the broker said goodbye"
    assert not uplink.draining
    stage.advance(10.0)
    assert call.state is CallState.WAITING
    assert client.late_replies == 0


def test_a_call_that_was_left_says_so() -> None:
    _, _, client = play()
    call = start(client)
    client.cancel(call)
    assert type(call.outcome) is RequestCancelled

"""The gateway's machine, without a network: envelopes, order, limits, and books that balance whatever comes."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmdp_trio._core.gateway import Exchange, Fate, GatewayMachine
from zmdp_trio._core.gateway.machine import EXCHANGE_BYTES, MAX_SHUNNED
from zmdp_trio._errors import ProtocolError, RequestError, ServiceNotFound
from zmdp_trio._settings import MIB, Overrides, settings_with
from zmdp_trio._wire import reqrep


def machine_with(**overrides: Any) -> GatewayMachine:
    known: Overrides = overrides  # type: ignore[assignment]
    return GatewayMachine(name="gateway", settings=settings_with(None, **known))


def receive(machine: GatewayMachine, peer: bytes, *frames: bytes) -> list[Exchange]:
    machine.receive(peer, list(frames), now=0.0)
    return machine.take_started()


def flush(machine: GatewayMachine, room: int = 10**9, deaf: frozenset[bytes] = frozenset()) -> list[tuple[bytes, Any]]:
    """Send what is ready, as the engine does; a deaf peer's transport has no room."""
    sent = []
    for client in machine.take_dirty():
        client.scheduled = False
        while client.peer is not None and (frames := client.next_batch()) is not None:
            if client.peer in deaf or len(sent) >= room:
                break
            sent.append((client.peer, [bytes(frame) for frame in frames]))
            client.batch_sent()
    return sent


def code_of(frames: list[bytes]) -> str:
    code: str = json.loads(frames[-1])["error"]["code"]
    return code


def balance(machine: GatewayMachine) -> None:
    assert machine.received == machine.fates.total() + sum(machine.held)
    held = [exchange for client in machine._clients.values() for exchange in client.held]
    assert machine.memory == sum(exchange.cost for exchange in held)
    assert machine.asked == sum(exchange.cost for exchange in held if exchange.running)
    for client in machine._clients.values():
        assert client.held
        assert client.bytes == sum(exchange.cost for exchange in client.held)


# ---- envelopes


@pytest.mark.parametrize(
    ("envelope", "body", "sender"),
    [
        ([b""], [b"x"], ()),
        ([b""], [b""], ()),
        ([b""], [b"", b"", b"x"], ()),
        ([b"\0\0\0\1", b""], [b"x"], ()),
        ([b"\0abcd", b""], [b"x"], (b"\0abcd",)),
        ([b"\0abcd", b"\0\0\0\1", b""], [b"x"], (b"\0abcd",)),
        ([b"four", b"\0abcd", b""], [b"x"], (b"four", b"\0abcd")),
    ],
)
def test_what_stands_before_the_empty_frame_is_the_envelope(
    envelope: list[Any], body: list[Any], sender: tuple[bytes, ...]
) -> None:
    assert reqrep.split(envelope + body) == (envelope, body)
    assert reqrep.sender(envelope) == sender


@pytest.mark.parametrize("frames", [[], [b""], [b"x"], [b"x", b"y"], [b"x", b""]])
def test_what_has_no_body_or_no_envelope_is_no_request(frames: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        reqrep.split(frames)


# ---- order


def test_replies_wait_for_earlier_ones_of_the_same_sender() -> None:
    machine = machine_with()
    (first,), (second,), (third,) = (receive(machine, b"a", b"", b"%d" % number) for number in range(3))
    (other,) = receive(machine, b"b", b"", b"x")
    machine.reply(second, [b"2"])
    machine.reply(other, [b"other"])
    assert flush(machine) == [(b"b", [b"", b"other"])]
    assert machine.held == (2, 1)
    machine.reply(first, [b"1"])
    assert flush(machine) == [(b"a", [b"", b"1"]), (b"a", [b"", b"2"])]
    machine.fail(third, ServiceNotFound("gone"))
    ((_, frames),) = flush(machine)
    assert frames == [b"", b'{"error":{"code":"NOT_FOUND","message":"gone"}}']
    assert machine.fates == {Fate.REPLIED: 3, Fate.FAILED: 1}
    assert (machine.clients, machine.memory, machine.asked) == (0, 0, 0)


def test_a_second_reply_is_passed_over() -> None:
    machine = machine_with()
    (exchange,) = receive(machine, b"a", b"", b"x")
    machine.reply(exchange, [b"1"])
    machine.reply(exchange, [b"2"])
    assert flush(machine) == [(b"a", [b"", b"1"])]
    machine.fail(exchange, RequestError(""))
    assert flush(machine) == []
    balance(machine)


# ---- who leaves


def test_what_a_lost_client_asked_is_cancelled_and_late_replies_are_passed_over() -> None:
    machine = machine_with()
    (first,), (second,) = (receive(machine, b"a", b"", b"x") for _ in range(2))
    machine.reply(second, [b"waits for the first"])
    machine.lost(b"a", now=1.0)
    assert machine.take_cancelled() == [first]
    machine.reply(first, [b"late"])
    assert flush(machine) == []
    assert machine.fates == {Fate.CANCELLED: 2}
    assert (machine.clients, machine.memory, machine.asked) == (0, 0, 0)
    machine.lost(b"a", now=2.0)
    assert receive(machine, b"a", b"", b"a new connection of that name")


def test_a_client_that_cannot_be_reached_is_lost() -> None:
    machine = machine_with()
    (exchange,) = receive(machine, b"a", b"", b"x")
    machine.reply(exchange, [b"1"])
    machine.unreachable(b"a", now=1.0)
    assert machine.fates == {Fate.CANCELLED: 1}
    balance(machine)


# ---- limits


def test_too_many_at_once_are_refused_and_twice_as_many_cut_off() -> None:
    machine = machine_with(gateway_requests=2)
    running = [receive(machine, b"a", b"", b"x") for _ in range(4)]
    assert [len(started) for started in running] == [1, 1, 0, 0]
    assert machine.held == (2, 2)
    assert receive(machine, b"a", b"", b"x") == []
    assert (machine.cut_off, machine.clients, len(machine.take_cancelled())) == (1, 0, 2)
    assert machine.take_dropped() == [("client 61", "5 requests are outstanding")]
    assert receive(machine, b"a", b"", b"ignored") == []
    assert machine.received == 5
    machine.lost(b"a", now=1.0)
    assert receive(machine, b"a", b"", b"a new connection of that name")


def test_of_those_who_were_cut_off_so_many_are_remembered() -> None:
    machine = machine_with(gateway_requests=1)
    for number in range(MAX_SHUNNED + 1):
        for _ in range(3):
            receive(machine, b"%d" % number, b"", b"x")
    assert machine.cut_off == MAX_SHUNNED + 1
    assert receive(machine, b"0", b"", b"forgotten, and so a client again")
    assert not receive(machine, b"1", b"", b"x")


def test_requests_take_half_of_the_memory() -> None:
    machine = machine_with(gateway_memory=100_000)
    assert receive(machine, b"a", b"", bytes(40_000))
    assert not receive(machine, b"b", b"", bytes(20_000))
    ((peer, frames),) = flush(machine)
    assert (peer, code_of(frames)) == (b"b", "RESOURCE_EXHAUSTED")
    assert machine.fates == {Fate.REFUSED: 1}
    balance(machine)


def test_who_does_not_read_is_cut_off_for_others_requests_and_replies() -> None:
    for reply in (True, False):
        machine = machine_with(gateway_memory=100_000)
        (deaf,) = receive(machine, b"deaf", b"", b"x")
        machine.reply(deaf, [bytes(80_000)])
        assert flush(machine, deaf=frozenset([b"deaf"])) == []
        (client,) = receive(machine, b"a", b"", b"x" if reply else bytes(30_000))
        if reply:
            assert machine.cut_off == 0
            machine.reply(client, [bytes(30_000)])
            assert flush(machine) == [(b"a", [b"", bytes(30_000)])]
        assert machine.cut_off == 1
        assert machine.take_dropped() == [("client 64656166", "it does not read its replies")]
        balance(machine)


@pytest.mark.parametrize("size", [1, 30_000])
def test_who_does_not_read_is_cut_off_for_more_of_its_own(size: int) -> None:
    machine = machine_with(gateway_memory=100_000)
    (first,) = receive(machine, b"deaf", b"", b"x")
    machine.reply(first, [bytes(80_000)])
    assert flush(machine, deaf=frozenset([b"deaf"])) == []
    for second in receive(machine, b"deaf", b"", bytes(size)):
        machine.reply(second, [bytes(30_000)])
    assert (machine.cut_off, machine.fates) == (1, {Fate.CANCELLED: 2})
    balance(machine)


def test_without_room_a_reply_is_replaced_by_an_error() -> None:
    machine = machine_with(gateway_memory=100_000)
    (exchange,) = receive(machine, b"a", b"", b"x")
    machine.reply(exchange, [bytes(100_000)])
    ((_, frames),) = flush(machine)
    assert code_of(frames) == "RESOURCE_EXHAUSTED"
    assert machine.fates == {Fate.FAILED: 1}


def test_refusals_that_pile_up_cost_whoever_holds_most() -> None:
    machine = machine_with(gateway_memory=1, gateway_requests=10**6)
    while not machine.cut_off:
        receive(machine, b"flood", b"", b"x")
        receive(machine, b"one", b"", b"x")
        flush(machine, deaf=frozenset([b"flood"]))
        for client in machine._clients.values():
            client.blocked = False  # it reads, but more comes than can be sent
    assert machine.received <= 2 * (8 * MIB // EXCHANGE_BYTES)
    assert machine.take_dropped() == [(f"client {b'flood'.hex()}", "its requests take too much memory")]
    balance(machine)


# ---- the end


def test_a_drain_refuses_and_what_runs_is_told_at_the_end() -> None:
    machine = machine_with()
    (exchange,) = receive(machine, b"a", b"", b"x")
    machine.drain()
    assert receive(machine, b"b", b"", b"x") == []
    ((_, frames),) = flush(machine)
    assert code_of(frames) == "UNAVAILABLE"
    machine.abandon()
    ((peer, frames),) = flush(machine)
    assert (peer, code_of(frames)) == (b"a", "UNAVAILABLE")
    machine.reply(exchange, [b"late"])
    assert machine.clients == 0
    machine.handle_timer(now=10.0**9)
    assert machine.deadline == float("inf")


# ---- whatever happens

PEERS = st.sampled_from([b"a", b"b", b"c"])
STEPS = st.one_of(
    st.tuples(st.just("receive"), PEERS, st.sampled_from([0, 10, 3_000, 30_000])),
    st.tuples(st.just("receive nonsense"), PEERS),
    st.tuples(st.just("reply"), st.integers(0, 9), st.sampled_from([0, 10, 3_000, 90_000])),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("lost"), PEERS),
    st.tuples(st.just("flush"), st.frozensets(PEERS), st.integers(0, 5)),
)


@given(st.lists(STEPS, max_size=60), st.sampled_from([1, 3]), st.sampled_from([20_000, 200_000]))
def test_books_balance_and_order_holds_whatever_happens(
    steps: list[tuple[Any, ...]], requests: int, memory: int
) -> None:
    machine = machine_with(gateway_requests=requests, gateway_memory=memory)
    running: list[Exchange] = []
    numbers: dict[bytes, int] = defaultdict(int)
    last: dict[bytes, int] = defaultdict(int)

    def check(sent: list[tuple[bytes, Any]]) -> None:
        for peer, frames in sent:
            number = int.from_bytes(frames[0])
            assert number > last[peer]
            last[peer] = number

    for what, *arguments in steps:
        if what == "receive":
            peer, size = arguments
            numbers[peer] += 1
            running += receive(machine, peer, numbers[peer].to_bytes(4), b"", bytes(size))
        elif what == "receive nonsense":
            receive(machine, arguments[0], b"nonsense")
        elif what == "lost":
            machine.lost(arguments[0], now=0.0)
        elif what == "flush":
            check(flush(machine, arguments[1], arguments[0]))
        elif running:
            exchange = running.pop(arguments[0] % len(running))
            if what == "reply":
                machine.reply(exchange, [bytes(arguments[1])])
            else:
                machine.fail(exchange, RequestError(""))
        for client in machine._clients.values():
            client.schedule()
        balance(machine)
        assert machine.memory <= memory + 8 * MIB
    machine.abandon()
    for client in machine._clients.values():
        client.schedule()
    check(flush(machine))
    balance(machine)
    assert machine.held == (0, 0)

"""Credit: streams never stall, never overrun their budget, and give back all of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import FakeBroker, Stage, start, started

from zmdp_trio._core.client import Call, ClientMachine
from zmdp_trio._core.client.credit import SHARE, CreditBudget
from zmdp_trio._settings import MIB, Settings
from zmdp_trio._wire import commands as c

SMALL = {"credit_messages": 4, "credit_bytes": 1000, "connection_credit": 8000}


def budget(client: ClientMachine, calls: list[Call]) -> int:
    """What is left, what was granted, and what is unread: together always the whole."""
    return client.credit.left + sum(max(call.granted, 0) + call.unread for call in calls)


class Source:
    """A worker's end of some streams, which sends what it may as soon as it may."""

    def __init__(self, broker: FakeBroker, sizes: dict[int, list[int]]) -> None:
        self.broker = broker
        self.sizes = {id: list(row) for id, row in sizes.items()}
        self.messages: dict[int, int] = {}
        self.bytes: dict[int, int] = {}
        self.ended: set[int] = set()

    def hear(self) -> None:
        for command in self.broker.take((c.Request, c.Credit)):
            if isinstance(command, c.Request):
                self.messages[command.id] = self.bytes[command.id] = 0
            assert command.messages >= 0
            assert command.bytes >= 0
            self.messages[command.id] += command.messages
            self.bytes[command.id] += command.bytes

    def send_one(self, id: int) -> bool:
        """Send what is next of a stream, if it may be sent."""
        if id in self.ended:
            return False
        if not self.sizes[id]:
            self.broker.send(c.Final(id, 0, b""))
            self.ended.add(id)
            return True
        if self.messages[id] <= 0 or self.bytes[id] <= 0:
            return False
        size = self.sizes[id].pop(0)
        self.messages[id] -= 1
        self.bytes[id] -= size
        self.broker.send(c.Partial(id, 0, bytes(size)))
        return True


SIZES = st.lists(st.sampled_from([0, 1, 10, 400, 999, 1000, 1001, 5_000, 20_000]), max_size=30)


@given(
    rows=st.lists(st.tuples(SIZES, st.booleans(), st.integers(0, 40)), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
)
def test_streams_that_share_a_budget_never_stall_and_give_it_back(
    rows: list[tuple[list[int], bool, int]], seed: int
) -> None:
    order = random.Random(seed)
    broker = FakeBroker()
    stage = Stage(fake=broker, **SMALL)
    client = stage.client_machine()
    stage.connect(client)
    calls = [start(client, discards=discards) for _, discards, _ in rows]
    stage.flush()
    source = Source(broker, {call.id: sizes for call, (sizes, _, _) in zip(calls, rows, strict=True)})
    #: Some readers leave when they have seen enough.
    patience = {call: left for call, (_, _, left) in zip(calls, rows, strict=True)}
    streams = [call for call in calls if not call.discards]
    taken = dict.fromkeys(calls, 0)
    while True:
        source.hear()
        sendable = [call for call in calls if call.id not in source.ended]
        readable = [call for call in calls if call.inbox]
        if not sendable and not readable:
            break
        moved = False
        for call in order.sample(sendable, len(sendable)):
            for _ in range(order.randint(1, 4)):
                moved |= source.send_one(call.id)
        stage.flush()
        for call in order.sample(readable, order.randint(0, len(readable))):
            client.take(call)
            taken[call] += 1
            moved = True
            if taken[call] > patience[call]:
                client.cancel(call)
                source.ended.add(call.id)
        assert moved or readable, "stalled"
        assert budget(client, streams) == SMALL["connection_credit"]
        stage.flush()
    for call, (sizes, discards, left) in zip(calls, rows, strict=True):
        if not discards and len(sizes) <= left:
            assert taken[call] == len(sizes), "every partial reply was read"
    assert client.credit.left == SMALL["connection_credit"]
    assert client.calls() == []
    assert client.protocol_errors == 0


def test_a_stream_is_granted_a_share_of_what_is_left() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker)
    client = stage.client_machine()
    stage.connect(client)
    grants = []
    for _ in range(100):
        start(client)
        stage.flush()
        [request] = broker.take()
        grants.append(request.bytes)
    assert grants[0] == MIB
    assert grants == sorted(grants, reverse=True)
    assert sum(grants) < 16 * MIB
    assert grants[-1] == pytest.approx(client.credit.left / SHARE, rel=0.1)


def test_even_when_the_budget_is_used_up_one_message_gets_through() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker, connection_credit=100, credit_bytes=100)
    client = stage.client_machine()
    stage.connect(client)
    hog, other = start(client), start(client)
    stage.flush()
    broker.send(c.Partial(1, 0, bytes(10_000)))
    stage.flush()
    assert client.credit.left < 0
    third = start(client)
    stage.flush()
    assert [request.bytes for request in broker.take(c.Request)][-1] == 1
    for call in (hog, other, third):
        client.cancel(call)
    assert client.credit.left == 100


def test_a_reader_that_pauses_is_granted_no_more() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker)
    client = stage.client_machine()
    stage.connect(client)
    call = start(client)
    for _ in range(64):
        broker.send(c.Partial(1, 0, b"x"))
    stage.flush()
    assert broker.take(c.Credit) == []
    for _ in range(32):
        client.take(call)
    stage.flush()
    [credit] = broker.take(c.Credit)
    assert credit.messages == 32


def test_a_call_that_discards_its_replies_is_granted_more_at_once_and_takes_no_budget() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker)
    client = stage.client_machine()
    stage.connect(client)
    call = start(client, discards=True)
    for _ in range(1000):
        broker.send(c.Partial(1, 0, bytes(100)))
    stage.flush()
    assert client.credit.left == 16 * MIB
    assert not call.inbox
    assert sum(credit.messages for credit in broker.take(c.Credit)) >= 1000 - 64
    assert call.partials == 1000


def test_three_machines_pass_a_long_stream_on_within_their_credit() -> None:
    stage = Stage(credit_messages=3, credit_bytes=500, connection_credit=4000)
    worker, client = stage.worker_machine({"count": 1}), stage.client_machine()
    stage.connect(worker)
    stage.connect(client)
    call = start(client, c.Request(0, "count", 0, b"", 0, 0))
    stage.flush()
    [execution] = started(worker)
    sent = read = 0
    while read < 500:
        while execution.has_credit and sent < 500:
            worker.partial(execution, 0, bytes((sent * 37) % 700))
            sent += 1
        stage.flush()
        assert call.inbox, "stalled"
        while call.inbox:
            assert len(client.take(call).body) == (read * 37) % 700
            read += 1
        stage.flush()
    worker.finish(execution, 0, b"done")
    stage.flush()
    assert call.outcome == c.Final(call.id, 0, b"done")
    assert client.credit.left == 4000


def test_what_a_reader_is_handed_counts_as_read_and_once() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker, credit_messages=2, credit_bytes=10)
    client = stage.client_machine()
    stage.connect(client)
    call = start(client)
    stage.flush()
    broker.send(c.Partial(1, 0, bytes(10)))
    stage.flush()
    assert broker.take(c.Credit) == []
    client.hand(call)
    stage.flush()
    assert [(credit.messages, credit.bytes) for credit in broker.take(c.Credit)] == [(1, 10)]
    assert budget(client, [call]) == 16 * MIB
    client.take(call)
    stage.flush()
    assert broker.take(c.Credit) == []
    assert budget(client, [call]) == 16 * MIB
    assert not call.unread


def test_what_is_handed_after_the_end_grants_nothing() -> None:
    broker = FakeBroker()
    stage = Stage(fake=broker, credit_messages=1)
    client = stage.client_machine()
    stage.connect(client)
    call = start(client)
    stage.flush()
    broker.send(c.Partial(1, 0, bytes(10)), c.Final(1, 0, b""))
    stage.flush()
    client.hand(call)
    client.take(call)
    stage.flush()
    assert broker.take(c.Credit) == []
    assert client.credit.left == 16 * MIB


def test_a_stream_that_goes_on_may_be_ahead_by_a_part_of_what_was_read() -> None:
    credit = CreditBudget(Settings(credit_messages=4, max_credit_messages=20, credit_bytes=10**6))
    call = Call(c.Request(1, "s", 0, b"", 0, 0))
    credit.open(call)
    ahead = []
    for read in range(1, 1_000):
        while call.granted_messages:
            call.partials += 1
            call.inbox.append(c.Partial(1, 0, b"x"))
            credit.arrived(call, 1)
        call.inbox.popleft()
        if credit.taken(call, 1):
            credit.grant(call)
        ahead.append(call.granted_messages + len(call.inbox))
        assert ahead[-1] <= max(4, min(read // 16, 20))
    assert (max(ahead[:63]), max(ahead[:200]), max(ahead)) == (4, 12, 20)


def test_so_it_may_in_bytes() -> None:
    credit = CreditBudget(Settings(credit_bytes=1_000, max_credit_bytes=5_000, connection_credit=10**6))
    call = Call(c.Request(1, "s", 0, b"", 0, 0))
    credit.open(call)
    ahead = []
    for read in range(1, 2_000):
        while call.granted >= 100:
            call.partials += 1
            call.inbox.append(c.Partial(1, 0, bytes(100)))
            credit.arrived(call, 100)
        call.inbox.popleft()
        if credit.taken(call, 100):
            credit.grant(call)
        ahead.append(call.granted + call.unread)
        assert ahead[-1] <= max(1_000, min(100 * read // 16, 5_000))
    assert (max(ahead[:160]), max(ahead)) == (1_000, 5_000)
    assert max(ahead[:500]) == pytest.approx(500 * 100 / 16, rel=0.05)
    credit.close(call)
    credit.forget(call)
    assert credit.left == 10**6


def test_streams_that_go_on_share_what_there_is() -> None:
    """Each may have twice the share by and by; together they never have more than the connection may."""
    budget = 4 * MIB
    credit = CreditBudget(Settings(connection_credit=budget))
    calls = [Call(c.Request(id, "s", 0, b"", 0, 0)) for id in range(1, 33)]
    for call in calls:
        credit.open(call)
    for _ in range(2_000):
        for call in calls:
            size = min(call.granted, 32 * 1024)
            if size > 0:
                call.partials += 1
                call.inbox.append(c.Partial(call.id, 0, bytes(size)))
                credit.arrived(call, size)
            if call.inbox and credit.taken(call, len(call.inbox.popleft().body)):  # type: ignore[arg-type]
                credit.grant(call)
        assert sum(call.granted + call.unread for call in calls) == budget - credit.left <= budget
    assert min(call.read_bytes for call in calls) > 0

"""Leases: slots are never given twice, and always given in the end."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from zmdp_trio._core.worker.leases import SETTLE, Leases


class Broker:
    """A broker's side of one lease, some time later: messages wait in both directions."""

    def __init__(self) -> None:
        self.slots = 0
        self.running = 0
        #: What the worker has told and this broker has not heard.
        self.told: deque[int] = deque()
        #: What the worker has not heard: acknowledgements, and requests (None).
        self.said: deque[int | None] = deque()
        #: The greeting that was not answered.
        self.offered: int | None = None
        self.up = False
        #: How many run at the worker for this session.
        self.at_worker = 0


class LeasedSlots(RuleBasedStateMachine):
    """Brokers join, leave, come back, and acknowledge late."""

    @initialize(concurrency=st.integers(1, 10))
    def prepare(self, concurrency: int) -> None:
        self.leases: Leases[str] = Leases(concurrency)
        self.brokers: dict[str, Broker] = {}
        self.now = 0.0

    def share_out(self) -> None:
        for name, slots in self.leases.changes():
            if self.brokers[name].up:
                self.brokers[name].told.append(slots)

    @rule(name=st.sampled_from("abc"))
    def lose(self, name: str) -> None:
        broker = self.brokers.get(name)
        if broker is not None:
            broker.up = False
            broker.offered = None
            broker.told.clear()
            broker.said.clear()
            self.leases.suspend(name)
            self.share_out()

    @rule(name=st.sampled_from("abc"))
    def greet(self, name: str) -> None:
        self.lose(name)
        broker = self.brokers.setdefault(name, Broker())
        broker.offered = self.leases.offer(name)

    @rule(name=st.sampled_from("abc"), queued=st.integers(0, 12))
    def want(self, name: str, queued: int) -> None:
        if name in self.brokers and self.brokers[name].up:
            self.leases.want(name, queued, self.now)
            self.balance(0.0)

    @rule(seconds=st.sampled_from([0.0, SETTLE / 3, SETTLE, 5 * SETTLE]))
    def balance(self, seconds: float) -> None:
        self.now += seconds
        again = self.leases.balance(self.now)
        assert again in (math.inf, self.now + SETTLE)
        self.share_out()

    @rule(name=st.sampled_from("abc"))
    def welcome(self, name: str) -> None:
        broker = self.brokers.get(name)
        if broker is None or broker.offered is None:
            return
        self.leases.fresh(name)
        broker.slots, broker.offered = broker.offered, None
        broker.running = broker.at_worker = 0
        broker.up = True
        self.share_out()

    @rule(name=st.sampled_from("abc"))
    def give_up(self, name: str) -> None:
        if self.brokers.pop(name, None) is not None:
            self.leases.close(name)
            self.share_out()

    @rule(name=st.sampled_from("abc"))
    def hear(self, name: str) -> None:
        broker = self.brokers.get(name)
        if broker is not None and broker.told:
            broker.slots = broker.told.popleft()
            broker.said.append(broker.slots)

    @rule(name=st.sampled_from("abc"))
    def dispatch(self, name: str) -> None:
        broker = self.brokers.get(name)
        if broker is not None and broker.up and broker.running < broker.slots:
            broker.running += 1
            broker.said.append(None)

    @rule(name=st.sampled_from("abc"))
    def deliver(self, name: str) -> None:
        broker = self.brokers.get(name)
        if broker is None or not broker.said:
            return
        said = broker.said.popleft()
        if said is None:
            self.leases.lease(name).start(self.now)
            broker.at_worker += 1
        else:
            self.leases.acknowledged(name, said)
            self.share_out()

    @rule(name=st.sampled_from("abc"))
    def finish(self, name: str) -> None:
        broker = self.brokers.get(name)
        if broker is not None and broker.at_worker:
            broker.at_worker -= 1
            broker.running -= broker.up
            self.leases.lease(name).running -= 1
            self.share_out()

    @rule()
    def finish_stray(self) -> None:
        if self.leases.stray:
            self.leases.stray -= 1
            self.share_out()

    @invariant()
    def no_slot_is_given_twice(self) -> None:
        if not hasattr(self, "leases"):
            return
        leases = self.leases
        assert leases.stray + sum(lease.committed for lease in leases._leases.values()) <= leases.concurrency
        promised = sum(
            max(broker.slots, broker.running, *broker.told, broker.at_worker)
            for broker in self.brokers.values()
            if broker.up
        )
        assert leases.stray + promised <= leases.concurrency
        assert leases.running <= leases.concurrency

    @invariant()
    def every_slot_is_somebody_s(self) -> None:
        if hasattr(self, "leases") and self.leases._active:
            targets = [self.leases.lease(name).target for name in self.leases._active]
            assert sum(targets) == self.leases.concurrency
            assert min(targets) >= 0

    def settle(self) -> None:
        for _ in range(100):
            for name in [*self.brokers]:
                self.hear(name)
                self.deliver(name)
                self.finish(name)
            self.finish_stray()

    def teardown(self) -> None:
        """When all is said and done, every slot is leased; and all but one each to a broker that alone wants them."""
        if not getattr(self, "brokers", None):
            return
        for name in self.brokers:
            self.welcome(name)
        self.settle()
        up = {name: broker for name, broker in self.brokers.items() if broker.up}
        if not up:
            return
        total = self.leases.concurrency
        assert sum(broker.slots for broker in up.values()) == total
        for hungry in up:
            for name in up:
                self.want(name, total if name == hungry else 0)
            for _ in range(3):
                self.balance(SETTLE)
                self.settle()
            least = min(total // len(up), 1)
            assert [broker.slots for name, broker in up.items() if name != hungry] == [least] * (len(up) - 1)


TestLeasedSlots = LeasedSlots.TestCase
TestLeasedSlots.settings = settings(stateful_step_count=50)


def open_leases(concurrency: int, *brokers: str) -> Leases[str]:
    leases: Leases[str] = Leases(concurrency)
    for broker in brokers:
        leases.offer(broker)
        leases.fresh(broker)
        for name, slots in leases.changes():
            leases.acknowledged(name, slots)
        list(leases.changes())
    return leases


@pytest.mark.parametrize(
    ("concurrency", "brokers", "shares"),
    [(10, "a", [10]), (10, "ab", [5, 5]), (10, "abc", [4, 3, 3]), (1, "ab", [1, 0]), (2, "abc", [1, 1, 0])],
)
def test_slots_are_shared_evenly_and_the_rest_goes_to_those_that_came_first(
    concurrency: int, brokers: str, shares: list[int]
) -> None:
    leases = open_leases(concurrency, *brokers)
    assert [leases.lease(broker).slots for broker in brokers] == shares


def test_the_first_broker_is_offered_everything_and_the_second_nothing_yet() -> None:
    leases: Leases[str] = Leases(10)
    assert leases.offer("a") == 10
    leases.fresh("a")
    assert leases.offer("b") == 0
    leases.fresh("b")
    assert list(leases.changes()) == [("a", 5)]


def test_a_shrunk_lease_is_not_given_away_before_it_is_acknowledged() -> None:
    leases = open_leases(10, "a")
    leases.offer("b")
    leases.fresh("b")
    assert list(leases.changes()) == [("a", 5)]
    assert list(leases.changes()) == []
    leases.acknowledged("a", 5)
    assert list(leases.changes()) == [("b", 5)]


def test_a_slot_in_use_is_not_given_away_though_its_lease_is_back() -> None:
    leases = open_leases(4, "a")
    leases.lease("a").running = 4
    leases.offer("b")
    leases.fresh("b")
    assert list(leases.changes()) == [("a", 2)]
    leases.acknowledged("a", 2)
    assert list(leases.changes()) == []
    leases.lease("a").running = 3
    assert list(leases.changes()) == [("b", 1)]


def test_what_runs_for_a_session_that_is_over_keeps_its_slot() -> None:
    leases = open_leases(4, "a")
    leases.lease("a").running = 3
    assert leases.offer("a") == 1
    leases.fresh("a")
    assert leases.stray == leases.running == 3
    assert list(leases.changes()) == []
    leases.stray = 0
    assert list(leases.changes()) == [("a", 4)]


def test_a_session_that_goes_on_is_told_its_lease_anew() -> None:
    leases = open_leases(4, "a")
    leases.suspend("a")
    assert leases.lease("a").committed == 0
    assert leases.offer("a") == 4
    leases.resumed("a")
    assert list(leases.changes()) == [("a", 4)]
    assert list(leases.changes()) == []


def test_a_broker_whose_connection_is_gone_keeps_what_runs_and_nothing_else() -> None:
    leases = open_leases(4, "a", "b")
    leases.lease("a").start(0.0)
    leases.suspend("a")
    assert list(leases.changes()) == [("b", 3)]
    leases.lease("a").running -= 1
    assert list(leases.changes()) == [("b", 4)]


# ---- demand


def shares(leases: Leases[str], brokers: str) -> list[int]:
    """Let every broker hold to what it is told, until nobody is told more."""
    for _ in range(10):
        for name, slots in list(leases.changes()):
            leases.acknowledged(name, slots)
    return [leases.lease(broker).slots for broker in brokers]


@pytest.mark.parametrize(
    ("concurrency", "brokers", "queued", "expected"),
    [
        (10, "ab", 2, [7, 3]),
        (10, "ab", 1000, [9, 1]),
        (10, "abc", 1000, [8, 1, 1]),
        (10, "abc", 3, [7, 1, 2]),
        (1, "ab", 1000, [1, 0]),
        (2, "abc", 1000, [2, 0, 0]),
    ],
)
def test_what_is_idle_goes_to_who_wants_it(concurrency: int, brokers: str, queued: int, expected: list[int]) -> None:
    leases = open_leases(concurrency, *brokers)
    leases.want("a", queued, 10.0)
    assert leases.balance(10.0) == math.inf
    assert shares(leases, brokers) == expected


def test_the_last_of_many_brokers_gets_the_only_slot_and_keeps_it_while_nobody_else_wants_it() -> None:
    leases = open_leases(1, "a", "b", "c")
    leases.want("c", 1, 10.0)
    assert leases.balance(10.0) == math.inf
    assert list(leases.changes()) == [("a", 0)]
    assert list(leases.changes()) == [], "not before the first one holds to it"
    leases.acknowledged("a", 0)
    assert list(leases.changes()) == [("c", 1)]
    assert not leases.contended
    assert leases.balance(100.0) == math.inf
    assert list(leases.changes()) == []


def test_two_that_both_want_more_have_even_shares() -> None:
    leases = open_leases(10, "a", "b")
    leases.want("a", 100, 10.0)
    leases.balance(10.0)
    assert shares(leases, "ab") == [9, 1]
    for broker, running in (("a", 9), ("b", 1)):
        for _ in range(running):
            leases.lease(broker).start(10.0)
    leases.want("b", 100, 10.1)
    leases.want("a", 100, 10.1)
    assert leases.balance(10.1) == math.inf, "nothing will change by itself"
    assert shares(leases, "ab") == [5, 1], "they are still in use"
    leases.lease("a").running = 5
    assert shares(leases, "ab") == [5, 5]
    leases.balance(10.2)
    assert list(leases.changes()) == []


def test_slots_that_were_used_a_moment_ago_are_not_idle() -> None:
    leases = open_leases(10, "a", "b")
    for _ in range(4):
        leases.lease("b").start(10.0)
    leases.lease("b").running = 0
    leases.want("a", 100, 10.0)
    assert leases.balance(10.0) == pytest.approx(10.0 + SETTLE)
    assert shares(leases, "ab") == [6, 4]
    leases.want("a", 100, 10.0)
    again = leases.balance(10.0)
    while again < math.inf:
        assert again < 10.0 + 4.5 * SETTLE
        now, again = again, leases.balance(again)
    assert now >= 10.0 + SETTLE
    assert shares(leases, "ab") == [9, 1]


def test_fewer_slots_than_brokers_that_want_them_go_round() -> None:
    leases = open_leases(1, "a", "b", "c")
    now, had = 10.0, []
    for broker in "abc":
        leases.want(broker, 5, now)
    for _ in range(6):
        while leases.balance(now) == math.inf or not list(leases.changes()):
            now += SETTLE / 4
        [holder] = [broker for broker in "abc" if leases.lease(broker).slots]
        leases.acknowledged(holder, 0)
        [(taker, slots)] = leases.changes()
        leases.acknowledged(taker, slots)
        assert slots == 1
        had.append(taker)
        for broker in (holder, taker):
            leases.want(broker, 5, now)
    assert had[:3] == had[3:]
    assert sorted(had[:3]) == ["a", "b", "c"]


def test_a_want_that_is_taken_back_moves_nothing() -> None:
    leases = open_leases(4, "a", "b")
    leases.want("a", 3, 10.0)
    leases.want("a", 0, 10.0)
    assert not leases.contended
    assert leases.balance(10.0) == math.inf
    assert list(leases.changes()) == []


def test_a_broker_whose_lease_is_neither_all_nor_nothing_is_told_so() -> None:
    """Only then does it say what it wants: it can't see that there are others."""
    leases = open_leases(4, "a", "b")
    leases.suspend("b")
    assert shares(leases, "a") == [4]
    leases.lease("a").start(0.0)
    leases.acknowledged("a", 2)
    leases.lease("a").told = leases.lease("a").slots = 2
    assert leases.offer("b") == 2
    leases.fresh("b")
    assert ("b", 2) in list(leases.changes())
    assert list(leases.changes()) == []


def test_a_broker_can_not_lease_itself_more_than_it_was_told() -> None:
    leases = open_leases(4, "a", "b")
    leases.acknowledged("a", 1000)
    assert leases.lease("a").slots == 2
    leases.acknowledged("a", 1)
    assert leases.lease("a").committed == 2


def test_an_early_answer_says_nothing_of_what_was_told_since() -> None:
    leases: Leases[str] = Leases(20)
    for name in "ab":
        leases.offer(name)
        leases.fresh(name)
    told = list(leases.changes())
    assert told == [("a", 10)]
    leases.acknowledged("a", 10)
    assert list(leases.changes()) == [("b", 10)]
    leases.want("b", 9, 0.0)
    leases.balance(0.0)
    assert list(leases.changes()) == [("a", 1)]
    leases.acknowledged("a", 1)
    assert list(leases.changes()) == [("b", 19)]
    leases.offer("c")
    assert dict(leases.changes())["b"] == 7
    # The answer to the first of three: requests that the second lets through may be on their way.
    leases.acknowledged("b", 10)
    assert leases.lease("b").slots == 19
    leases.acknowledged("b", 19)
    assert leases.lease("b").slots == 19
    leases.acknowledged("b", 7)
    assert leases.lease("b").slots == 7

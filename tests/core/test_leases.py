"""Leases: slots are never given twice, and always given in the end."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from zmdp_trio._core.worker.leases import Leases


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

    def share_out(self) -> None:
        for name, slots in self.leases.changes():
            if self.brokers[name].up:
                self.brokers[name].told.append(slots)

    @rule(name=st.sampled_from("abc"))
    def greet(self, name: str) -> None:
        broker = self.brokers.setdefault(name, Broker())
        broker.up = False
        broker.told.clear()
        broker.said.clear()
        broker.offered = self.leases.offer(name)

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
            self.leases.lease(name).running += 1
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

    def teardown(self) -> None:
        """When all is said and done, every slot is leased, in even shares."""
        if not getattr(self, "brokers", None):
            return
        for name in self.brokers:
            self.welcome(name)
        for _ in range(100):
            for name in [*self.brokers]:
                self.hear(name)
                self.deliver(name)
                self.finish(name)
            self.finish_stray()
        up = [broker.slots for broker in self.brokers.values() if broker.up]
        if len(up) == len(self.brokers):
            assert sum(up) == self.leases.concurrency
            assert max(up) - min(up) <= 1


TestLeasedSlots = LeasedSlots.TestCase
TestLeasedSlots.settings = settings(deadline=None, max_examples=200, stateful_step_count=50)


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


def test_a_session_that_goes_on_keeps_its_lease() -> None:
    leases = open_leases(4, "a")
    leases.offer("a")
    leases.resumed("a")
    assert leases.lease("a").committed == 4
    assert list(leases.changes()) == []


def test_a_broker_can_not_lease_itself_more_than_it_was_told() -> None:
    leases = open_leases(4, "a", "b")
    leases.acknowledged("a", 1000)
    assert leases.lease("a").slots == 2
    leases.acknowledged("a", 1)
    assert leases.lease("a").committed == 2

"""Timers: against the simplest model there is, and bounded however much is set and called off."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmdp_trio._core.timers import Timers

KEYS = st.sampled_from("abcdefgh")
TIMES = st.integers(0, 20).map(float)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, TIMES | st.just(math.inf)),
        st.tuples(st.just("cancel"), KEYS, st.none()),
        st.tuples(st.just("pop"), st.none(), TIMES),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_timers_do_what_a_dict_that_is_searched_does(operations: list[tuple[str, str, float]]) -> None:
    timers: Timers[str] = Timers()
    model: dict[str, float] = {}
    for what, key, when in operations:
        if what == "set":
            timers.set(key, when)
            model.pop(key, None)
            if when < math.inf:
                model[key] = when
        elif what == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = {key: at for key, at in model.items() if at <= when}
            popped = list(timers.pop_due(when))
            assert sorted(popped) == sorted(due)
            assert [due[key] for key in popped] == sorted(due.values()), "in the order of their deadlines"
            model = {key: at for key, at in model.items() if key not in due}
        assert len(timers) == len(model)
        assert timers.deadline == min(model.values(), default=math.inf)
        assert all((key in timers) == (key in model) for key in "abcdefgh")


def entries(timers: Timers[Any]) -> int:
    """Return how many entries there are, live or not."""
    return len(timers._heap) + len(timers._old)


def test_an_empty_set_of_timers_has_no_deadline() -> None:
    timers: Timers[str] = Timers()
    assert timers.deadline == math.inf
    assert list(timers.pop_due(1e9)) == []


def test_equal_deadlines_come_in_the_order_in_which_they_were_set() -> None:
    timers: Timers[int] = Timers()
    for key in range(10):
        timers.set(key, 1.0)
    assert list(timers.pop_due(1.0)) == list(range(10))


def test_a_deadline_that_is_set_while_others_are_popped_is_seen_too() -> None:
    timers: Timers[str] = Timers()
    timers.set("first", 1.0)
    timers.set("third", 3.0)
    popped = []
    for key in timers.pop_due(2.0):
        popped.append(key)
        if key == "first":
            timers.set("second", 2.0)
            timers.set("fourth", 4.0)
    assert popped == ["first", "second"]
    assert timers.deadline == 3.0


def test_one_that_is_called_off_while_others_are_popped_does_not_come() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("b", 1.0)
    popped = []
    for key in timers.pop_due(1.0):
        popped.append(key)
        timers.cancel("b")
    assert popped == ["a"]


@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda n: float(n), id="later and later"),
        pytest.param(lambda n: float(-n), id="sooner and sooner"),
        pytest.param(lambda n: 5.0, id="always the same"),
        pytest.param(lambda n: 5.0 + n % 2, id="to and fro"),
    ],
)
@pytest.mark.parametrize("cancels", [True, False])
def test_the_heap_stays_bounded(when, cancels: bool) -> None:
    timers: Timers[int] = Timers()
    largest = 0
    for n in range(100_000):
        timers.set(n % 7, when(n))
        if cancels:
            timers.cancel(n % 7)
        largest = max(largest, entries(timers))
    assert largest <= 128
    assert len(timers) == (0 if cancels else 7)


def test_a_million_timers_that_are_called_off_leave_nothing_behind() -> None:
    timers: Timers[int] = Timers()
    for n in range(1_000_000):
        timers.set(n, 60.0 + n)
        timers.cancel(n)
    assert len(timers) == 0
    assert entries(timers) <= 128
    assert timers.deadline == math.inf


class Counted(float):
    """A time that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < other


def test_no_deadline_that_is_set_has_to_wait_for_all_others() -> None:
    """Beside 20,000 that stay, as many come and go: the heap is tidied up meanwhile, some of it at a time."""
    timers: Timers[int] = Timers()
    for n in range(20_000):
        timers.set(n, Counted(60.0))
    worst = 0
    for n in range(20_000, 100_000):
        before = Counted.comparisons
        timers.set(n, Counted(90.0))
        timers.cancel(n)
        assert timers.deadline == 60.0
        worst = max(worst, Counted.comparisons - before)
        assert entries(timers) <= 3 * len(timers) + 100
    assert worst <= 6 * 2 * math.log2(60_000), "a few pushes at a time"
    assert list(timers.pop_due(60.0)) == list(range(20_000))
    assert timers.deadline == math.inf

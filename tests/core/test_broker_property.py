"""The broker under honest and lying peers: its books balance at every step, and are empty in the end."""

from __future__ import annotations

from typing import Any

import crowd
import pytest
from crowd import ACTIONS, Crowd
from crowd_machine import crowd_test

from zmdp_trio._core.broker import Counters
from zmdp_trio._core.broker.machine import WORKER, BrokerMachine
from zmdp_trio._core.link import Link
from zmdp_trio._wire import commands as c

TestCrowd = crowd_test(Crowd, ACTIONS, examples=60)


@pytest.mark.parametrize("seed", range(6))
def test_thousands_of_steps(seed: int) -> None:
    """`make fuzz` takes a hundred thousand, from other seeds."""
    seen = crowd.run(seed, 2_000).seen
    assert all(seen[action.__name__] for action in ACTIONS)
    assert seen["Final"] > 50
    assert seen["Partial"] > 20


def test_every_lie_is_told() -> None:
    seen = crowd.run(1, 3_000, broker_sessions=100).seen
    lies = (*crowd.LIES, *crowd.CLIENT_LIES, *crowd.WORKER_LIES)
    assert [lie.__name__ for lie in lies if not seen[lie.__name__]] == []
    assert seen["dropped"] > 20


def run_many() -> None:
    for seed in range(20):
        crowd.run(seed, 2_000)


# ---- what keeps the crowd itself honest: it notices a broker that does wrong


def test_a_broker_that_miscounts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counters, "expired", property(lambda self: 0, lambda self, value: None), raising=False)
    with pytest.raises(AssertionError) as caught:
        crowd.run(1, 2_000)
    assert "crowd.run(1, 2000)" in caught.value.__notes__[0]


def test_a_broker_that_takes_anybody_s_reply_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = WORKER[c.Final]

    def gullible(self: BrokerMachine, session: Any, final: c.Final, now: float) -> None:
        holders = [each for each in self.sessions() if final.id in each.held]
        honest(self, holders[0] if holders else session, final, now)

    monkeypatch.setitem(WORKER, c.Final, gullible)
    with pytest.raises((AssertionError, KeyError)):
        run_many()


def test_a_broker_that_forgets_to_free_its_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "drop_outbox", lambda self: self.outbox.clear())
    with pytest.raises(AssertionError):
        run_many()

"""The broker under peers of all dialects: its books balance at every step, nobody gets what is not his, and in the end
nothing is left."""

from __future__ import annotations

from typing import Any

import legacy_crowd
import pytest
from crowd_machine import crowd_test
from legacy_crowd import ACTIONS, LegacyCrowd

from zmdp_trio._core.broker.legacy import LegacyClient, LegacyWorker
from zmdp_trio._core.broker.legacy.client import Call

TestLegacyCrowd = crowd_test(LegacyCrowd, ACTIONS, examples=40)


@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_steps(seed: int) -> None:
    seen = legacy_crowd.run(seed, 1_500).seen
    assert all(seen[action.__name__] for action in ACTIONS)
    for kind in ("Partial", "Final", "Failure"):
        assert seen[f"client gets {kind}"], kind


# ---- what keeps the crowd itself honest: it notices a broker that does wrong


def run_many() -> None:
    for seed in range(20):
        legacy_crowd.run(seed, 1_000)


def test_a_broker_that_replies_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Call, "expires", property(lambda self: self.heard + 2 * self.timeout))
    with pytest.raises((AssertionError, KeyError)):
        run_many()


def test_a_broker_that_forgets_what_waits_for_credit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LegacyWorker, "_release", lambda self, held: setattr(held, "waiting", None))
    with pytest.raises(AssertionError):
        run_many()


def test_a_broker_that_forgets_what_it_joined_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: LegacyClient, call: Any) -> None:
        del self._calls[call.id]
        self._ids.pop(call.rid, None)

    monkeypatch.setattr(LegacyClient, "_forget", forget)
    with pytest.raises(AssertionError):
        run_many()

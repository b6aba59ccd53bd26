"""What drives a crowd: a seed, for many steps, or Hypothesis, which makes what it finds as short as it can."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

RANDOM = st.randoms(use_true_random=False)


def run_crowd(crowd: Any, steps: int, called: str) -> Any:
    """Drive a crowd for so many steps, checking after each; whatever fails says how it was `called`."""
    try:
        while crowd.steps < steps:
            crowd.step()
            crowd.check()
        crowd.finish()
    except BaseException as error:
        error.add_note(f"step {crowd.steps} of {called}")
        raise
    return crowd


def crowd_test(kind: type[Any], actions: Iterable[Any], *, examples: int) -> type[Any]:
    """Return the test case of a crowd whose choices are Hypothesis's."""

    class CrowdMachine(RuleBasedStateMachine):
        crowd: Any = None

        @initialize(random=RANDOM)
        def prepare(self, random: Random) -> None:
            self.crowd = kind(random)

        @rule(action=st.sampled_from(list(actions)), random=RANDOM)
        def step(self, action: Any, random: Random) -> None:
            self.crowd.random = random
            self.crowd.step(action)

        @invariant()
        def the_books_balance(self) -> None:
            if self.crowd is not None:
                self.crowd.check()

        def teardown(self) -> None:
            if self.crowd is not None:
                self.crowd.finish()

    case: type[Any] = CrowdMachine.TestCase
    case.settings = settings(deadline=None, max_examples=examples, stateful_step_count=60)
    return case

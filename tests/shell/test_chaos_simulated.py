"""The short form of `python -m chaos.simulated`: some seeds of its thousand, and its hour."""

from __future__ import annotations

import time

import pytest

from chaos import simulated
from zmdp_trio.testing import run


@pytest.mark.parametrize("seed", range(8))
def test_a_cluster_with_every_fault_there_is(seed: int) -> None:
    happened, violated = run(simulated.simulate, seed, 15.0, seed=seed)
    assert violated == []
    assert happened["answered"]


def test_an_hour_with_a_failover_takes_moments() -> None:
    began = time.perf_counter()
    assert run(simulated.simulate_hour) == simulated.HOUR / simulated.EVERY
    # A second on a quiet machine, and this one may be busy.
    assert time.perf_counter() - began < 30

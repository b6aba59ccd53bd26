"""A short form of `make fuzz`: messages that are nearly right, against each machine."""

from __future__ import annotations

import gc
import tracemalloc
from random import Random

import pytest
from fuzzing import SETTINGS, TARGETS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TARGETS)
def test_messages_with_mistakes_do_no_more_than_they_may(name: str, seed: int) -> None:
    target = TARGETS[name](Random(seed))
    while target.mutator.mistakes < 1_000:
        target.step()
        target.check()
    assert target.machine.protocol_errors > 100
    assert target.answers > 100
    target.finish()


@pytest.mark.parametrize("name", TARGETS)
def test_memory_stays_where_it_was_after_the_first_third(name: str) -> None:
    """The limits of `SETTINGS` allow for some hundred kilobytes, whatever comes."""
    target = TARGETS[name](Random(1))
    tracemalloc.start()
    try:
        used = []
        for messages in (500, 1_500):
            while target.mutator.mistakes < messages:
                target.step()
            # A session of an older dialect and its link know each other: some are there still, by chance.
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert used[1] - used[0] < SETTINGS.broker_memory + SETTINGS.connection_credit + 500_000

"""The same seed gives the same run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from trio._core import _run

from zmdp_trio._chance import chance
from zmdp_trio.testing import open_cluster, run, seeded

FAULTY = Path(__file__).with_name("faulty_run.py")


def faulty(seed: int, *hash_seeds: int) -> list[list[str]]:
    """Every message of a cluster under faults, with its time, in a process of its own for each hash seed."""
    command = [sys.executable, str(FAULTY), str(seed)]
    # What stands in the environment moves the memory addresses, too.
    environments = [os.environ | {"PYTHONHASHSEED": str(each), "PADDING": each * "x"} for each in hash_seeds]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(subprocess.Popen(command, env=each, stdout=subprocess.PIPE, text=True))
            for each in environments
        ]
        for run in runs:
            stack.callback(run.kill)
        outputs = [run.communicate(timeout=60)[0].splitlines() for run in runs]
        assert [run.returncode for run in runs] == [0] * len(runs)
    return outputs


@pytest.mark.parametrize("seed", [4, 7])
def test_a_run_repeats_in_another_process(seed: int) -> None:
    first, *others = faulty(seed, 1, 2, 30_000)
    assert len(first) > 1_000
    for fault in ("dropped", "WorkerLost"):
        assert any(fault in line for line in first), f"nothing was tested: no {fault}"
    for again in others:
        different = next((pair for pair in zip(first, again, strict=False) if pair[0] != pair[1]), None)
        assert different is None
        assert len(again) == len(first)


async def facts() -> list[object]:
    """All kinds of chance, once each."""
    order: list[int] = []

    async def note(i: int) -> None:
        await trio.lowlevel.checkpoint()
        order.append(i)

    async with trio.open_nursery() as nursery:
        for i in range(20):
            nursery.start_soon(note, i)
    async with open_cluster(workers=0, clients=0) as cluster:
        epoch = cluster.broker._machine.epoch
    return [order, epoch, chance().random(), random.random(), trio.current_time()]


def test_all_that_is_random_comes_from_the_seed() -> None:
    first, other = run(facts, seed=1), run(facts, seed=2)
    assert run(facts, seed=1) == first
    assert [one == another for one, another in zip(first, other, strict=True)] == [False] * 4 + [True]


def test_outside_of_it_nothing_is_seeded() -> None:
    async def draw() -> bytes:
        return chance().randbytes(8)

    random.seed(7)
    before = random.getstate(), _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING
    with seeded(1):
        assert random.random() == random.Random(1).random()
        assert _run._ALLOW_DETERMINISTIC_SCHEDULING
    with pytest.raises(ZeroDivisionError):
        run(fail, 1)
    assert (random.getstate(), _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING) == before
    assert trio.run(draw) != trio.run(draw)


async def fail(number: int) -> None:
    raise ZeroDivisionError(number)


def test_run_returns_and_passes_arguments_on() -> None:
    async def add(one: int, other: int) -> int:
        await trio.sleep(3600)
        return one + other

    assert run(add, 1, 2) == 3


def test_an_hour_with_a_failover_takes_little_time() -> None:
    """Some 0.3 s of computing; the bound leaves room for slow machines."""

    async def main() -> float:
        async with open_cluster(brokers=2, workers=0, clients=3) as cluster:
            await trio.sleep(1800)
            cluster.kill("broker")
            await trio.sleep(1800)
        return trio.current_time()

    start = time.process_time()
    assert run(main) >= 3600
    assert time.process_time() - start < 5

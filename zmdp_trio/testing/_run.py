"""Runs that repeat."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from .._chance import seed_chance
from ._clock import VirtualClock
from ._internals import repeatable_scheduling

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(
    async_fn: Callable[[Unpack[Ts]], Awaitable[T]],
    *args: *Ts,
    seed: int = 0,
    clock: trio.abc.Clock | None = None,
) -> T:
    """Run `async_fn(*args)` under virtual time; the same seed gives the same run.

    From the seed come the order in which Trio runs tasks that are ready at once, the names, ids, and pauses of
    zmdp_trio, and the `random` module.  What stays open is what threads do at the same time: with sync handlers a run
    repeats as far as the operating system's scheduler lets it.

    One run at a time: what is seeded belongs to the process.

    Args:
        async_fn: the async function to run.
        args: its arguments.
        seed: any whole number.
        clock: by default a new `VirtualClock`.

    Returns:
        What `async_fn` returns; what it raises is raised.
    """

    async def main() -> T:
        seed_chance(seed)
        return await async_fn(*args)

    with seeded(seed):
        return trio.run(main, clock=clock or VirtualClock())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the `random` module and Trio's scheduler for as long as the block runs; then all is as it was before."""
    before = random.getstate()
    random.seed(seed)
    try:
        with repeatable_scheduling(seed):
            yield
    finally:
        random.setstate(before)

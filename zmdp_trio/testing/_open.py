"""A cluster for as long as a block runs."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn, Unpack

import trio

from .._nursery import open_plain_nursery, raise_plain
from .._service import Service
from .._settings import Overrides, Settings, settings_with
from .._transport.memory import current_network
from ._cluster import ENDPOINTS, Cluster, Transport


@asynccontextmanager
async def _time_limit(seconds: float) -> AsyncIterator[None]:
    """End what waits for ever, which under a virtual clock would beat for ever.

    A task of its own, since a cancel scope would be every request's deadline.
    """

    async def end() -> NoReturn:
        await trio.sleep(seconds)
        raise trio.TooSlowError(f"the cluster was up for {seconds:,g} s: is something waiting for ever?")

    async with open_plain_nursery() as nursery:
        if seconds < math.inf:
            nursery.start_soon(end)
        yield
        nursery.cancel_scope.cancel()


@contextmanager
def _hook_errors_plain() -> Iterator[None]:
    """Let what the network's hook raised come out as itself: it ended the run, what stands beside it came of that."""
    try:
        yield
    except BaseExceptionGroup as group:
        network = current_network()
        if network.hook_error is None or group.subgroup(lambda each: each is network.hook_error) is None:
            raise
        raise_plain(network.hook_error)


@asynccontextmanager
async def open_cluster(
    *services: Service[..., Any],
    brokers: int = 1,
    workers: int = 1,
    clients: int = 1,
    transport: Transport = "memory",
    check: bool = True,
    settle_within: float | None = None,
    limit: float = 86_400,
    settings: Settings | None = None,
    **overrides: Unpack[Overrides],
) -> AsyncIterator[Cluster]:
    """Run a cluster for as long as the block runs.

        async with open_cluster(echo, workers=2) as cluster:
            assert await cluster.client.request("echo", 1) == 1

    It begins when all workers and clients are connected to all brokers.  At its normal end all take their leave in
    good order, after a check that nothing is left of any request; an exception ends it at once.

    Args:
        services: what every worker serves; none are needed with `workers=0`.
        brokers: how many, at least one; workers and clients get the endpoints of all.
        workers: how many.
        clients: how many.
        transport: `memory`, or `tcp` on this machine, where there is neither virtual time nor a fault.
        check: call `Cluster.settle` at the normal end.
        settle_within: seconds that `Cluster.settle` waits; by default as long as a session that was lost is kept, so
            that what killed peers left behind is gone, too.
        limit: seconds on Trio's clock after which the cluster, and with it the block, ends as trio.TooSlowError.
        settings: limits and intervals of everybody; `overrides` replaces some, such as `heartbeat=1`.

    Raises:
        AssertionError: at the end, something is left of a request.
        ValueError: a number is negative or there is no broker, there is no such transport, or a setting is out of
            range.
        TypeError: there is no such setting.
    """
    if transport not in ENDPOINTS:
        raise ValueError(f"transport is one of {', '.join(map(repr, ENDPOINTS))}, not {transport!r}")
    if brokers < 1:
        raise ValueError(f"a cluster has at least one broker, not {brokers!r}")
    if workers < 0 or clients < 0:
        raise ValueError(f"none or more are wanted, not workers={workers!r}, clients={clients!r}")
    with _hook_errors_plain():
        async with _time_limit(limit), open_plain_nursery() as nursery:
            cluster = Cluster(services, nursery, transport, settle_within, settings_with(settings, **overrides))
            try:
                for add, number in (
                    (cluster.add_broker, brokers),
                    (functools.partial(cluster.add_worker, wait=False), workers),
                    (cluster.add_client, clients),
                ):
                    for _ in range(number):
                        await add()
                await cluster._wait_connected()
                yield cluster
                if check:
                    await cluster.settle()
                await cluster._stop_all()
            finally:
                cluster._cancel_all()

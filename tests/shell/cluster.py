"""A broker, a worker, and a client over the in-memory network, and what must hold of them when all is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Unpack

import trio
from trio.testing import MockClock

from zmdp_trio import Client, Final, ReplyStream, Service, Settings, Worker, service, testing
from zmdp_trio._settings import Overrides
from zmdp_trio._transport.memory import MemoryPort
from zmdp_trio.testing import Cluster as Cluster


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)


class Probe:
    """What a handler did, and when."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.left = trio.Event()
        self.left_at: float | None = None
        self.sent = 0

    def enter(self) -> None:
        self.entered.set()

    def leave(self) -> None:
        self.left_at = trio.current_time()
        self.left.set()


@asynccontextmanager
async def open_cluster(*services: Service[..., Any], **overrides: Unpack[Overrides]) -> AsyncIterator[Cluster]:
    """Run a cluster for as long as the block runs; acknowledged or not, nothing may be left soon after any request."""
    settings = Settings(**overrides)
    # A loss is shown by the second heartbeat after it, and what is sent again acknowledged by the third; beyond that,
    # real time passes while others have the CPU.
    virtual = isinstance(trio.lowlevel.current_clock(), MockClock | testing.VirtualClock)
    soon = 3 * settings.heartbeat + (1 if virtual else 5)
    async with testing.open_cluster(*services, settle_within=soon, limit=10_000, settings=settings) as cluster:
        yield cluster


async def read_into(replies: list[Any], stream: ReplyStream) -> None:
    """Read a stream to its end, and keep what came though it ends in an error."""
    async for reply in stream:
        replies.append(reply)  # noqa: PERF401


def port_of(peer: Worker | Client) -> MemoryPort:
    """The port that a worker or a client has dialled its only broker with."""
    (connection,) = peer._engine._connections.values()
    assert isinstance(connection.port, MemoryPort)
    return connection.port


async def until(condition: Callable[[], Any], *, within: float = 5) -> None:
    """Wait until a condition holds that no event tells of."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)

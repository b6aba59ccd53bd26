"""A broker, a worker, and a client over the in-memory network, and what must hold of them when all is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Unpack

import attrs
import trio

from zmdp_trio import (
    Broker,
    Client,
    Final,
    ReplyStream,
    Service,
    Worker,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._settings import Overrides
from zmdp_trio._transport.memory import MemoryPort


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


@attrs.frozen
class Cluster:
    broker: Broker
    worker: Worker
    client: Client

    @property
    def endpoint(self) -> str:
        return self.broker.endpoints[0]

    async def settle(self) -> None:
        """Wait for the last acknowledgements, then check that nobody holds anything of any request."""
        settled = 3 * self.broker.settings.heartbeat
        with trio.move_on_after(settled):
            while self.leftovers():  # noqa: ASYNC110  nobody signals it
                await trio.sleep(settled / 30)
        assert self.leftovers() == {}

    def leftovers(self) -> dict[str, Any]:
        """What is still held somewhere, by name; empty when all is over."""
        broker, worker, client = self.broker.statistics(), self.worker.statistics(), self.client.statistics()
        held: dict[str, Any] = {
            "broker.timers": broker.timers,
            "broker.outbox_bytes": broker.outbox_bytes,
            "broker.busy": self.broker._machine.busy,
            "broker.protocol_errors": broker.protocol_errors,
            "worker.running": worker.running,
            "worker.cancelling": worker.cancelling,
            "worker.protocol_errors": worker.protocol_errors,
            "client.waiting": client.waiting,
            "client.outstanding": client.outstanding,
            "client.timers": client.timers,
            "client.protocol_errors": client.protocol_errors,
            "client.credit": self.client.settings.connection_credit - self.client._machine.credit.left,
        }
        for name, numbers in broker.services.items():
            held |= {
                f"{name}.queued": numbers.queued,
                f"{name}.running": numbers.running,
                f"{name}.cancelling": numbers.cancelling,
                f"{name}.unaccounted": numbers.received
                - numbers.refused
                - numbers.replied
                - numbers.failed
                - numbers.cancelled
                - numbers.expired
                - numbers.lost,
            }
        return {name: value for name, value in held.items() if value}


@asynccontextmanager
async def _time_limit(seconds: float) -> AsyncIterator[None]:
    """End a test that waits for ever: under a virtual clock it would beat for ever.

    A task of its own, since a cancel scope would be every request's deadline.
    """

    async def end() -> NoReturn:
        await trio.sleep(seconds)
        raise trio.TooSlowError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_cluster(
    *services: Service[..., Any], endpoint: str = "memory://*", **settings: Unpack[Overrides]
) -> AsyncIterator[Cluster]:
    """Run a cluster for as long as the block runs; on a normal end, nothing may be left of any request."""
    async with (
        _time_limit(10_000),
        open_broker(endpoint, **settings) as broker,
        open_worker(services, broker.endpoints[0], name="worker", **settings) as worker,
        open_client(broker.endpoints[0], name="client", **settings) as client,
    ):
        await worker.wait_welcomed()
        cluster = Cluster(broker, worker, client)
        yield cluster
        await cluster.settle()


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

"""The surroundings of one check: a service name of its own, and as many peers as it wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import attrs
import trio

from .._chance import chance
from .._transport import Options
from .._wire.majordomo import Dialect
from ._peer import Client, Heard, Peer, Worker
from ._verdict import ungrouped

#: Seconds after which a message that nobody answers has certainly reached the broker.
MOMENT: Final = 0.25
#: Intervals without a sign of life after which a worker counts as dead with every broker.
DEAD: Final = 6.0
#: Intervals for which the tool listens where nothing may come.
LISTEN: Final = 2.5

_P = TypeVar("_P", bound=Peer)


@attrs.frozen
class Target:
    """The broker under test.

    Attributes:
        clients: the endpoint for clients.
        workers: the endpoint for workers; often the same.
        heartbeat: the broker's interval in seconds.
        prefix: what the names of all services begin with.
    """

    clients: str
    workers: str
    heartbeat: float = 2.5
    prefix: str = "conformance."


class Bench:
    """What a check works with.

    Attributes:
        dialect: the one that the check is for.
        heartbeat: the broker's interval in seconds.
        service: a name that nobody else uses.
        heard_anything: set when any peer here has heard something in its own dialect.
    """

    def __init__(self, target: Target, dialect: Dialect, nursery: trio.Nursery) -> None:
        self.target = target
        self.dialect = dialect
        self.heartbeat = target.heartbeat
        self.service = f"{target.prefix}{chance().getrandbits(64):016x}"
        self.heard_anything = trio.Event()
        self._nursery = nursery

    async def client(self, dialect: Dialect | None = None) -> Client:
        """Return a client that is connected; of the check's dialect, unless told otherwise."""
        return await self._open(Client, self.target.clients, dialect)

    async def stranger(self) -> Worker:
        """Return a worker that is connected and has said nothing yet."""
        return await self._open(Worker, self.target.workers, None)

    async def worker(self, service: str = "", *, dialect: Dialect | None = None, beats: bool = True) -> Worker:
        """Return a worker that is registered, and beats from then on unless told otherwise."""
        worker = await self._open(Worker, self.target.workers, dialect)
        worker.ready(service or self.service)
        if beats:
            self._nursery.start_soon(worker.run_beating, self.heartbeat)
        await self.moment()
        return worker

    async def call(self, *body: bytes, service: str = "") -> Client:
        """Return a client that has sent a request."""
        client = await self.client()
        client.request(service or self.service, *body)
        return client

    async def ask(self, service: str, *body: bytes) -> list[bytes]:
        """Return what a service answers to a client that comes for this question alone."""
        return await (await self.call(*body, service=service)).reply()

    def serve(self, *workers: Worker) -> None:
        """Have workers answer each request with its own body from now on."""
        for worker in workers:
            self._nursery.start_soon(worker.serve)

    async def moment(self) -> None:
        """Wait until the broker has dealt with what was sent to it."""
        await trio.sleep(MOMENT)

    async def intervals(self, count: float) -> None:
        """Wait for so many heartbeat intervals."""
        await trio.sleep(count * self.heartbeat)

    async def _open(self, kind: type[_P], endpoint: str, dialect: Dialect | None) -> _P:
        # No probes by the transport: what is tested is what the protocol itself does.
        peer = kind(endpoint, Options(heartbeat=float("inf")), dialect or self.dialect, self._notice)
        self._nursery.start_soon(peer.run)
        await peer.connected()
        return peer

    def _notice(self, heard: Heard) -> None:
        if heard.message is not None:
            self.heard_anything.set()


@asynccontextmanager
async def open_bench(target: Target, dialect: Dialect) -> AsyncIterator[Bench]:
    """Provide a bench.

    Raises:
        NotAsSpecified, Unreachable: as the block raises it, or a worker of `Bench.serve`; never in a group.
    """
    with ungrouped():
        async with trio.open_nursery() as nursery:
            yield Bench(target, dialect, nursery)
            nursery.cancel_scope.cancel()

"""Brokers: queue requests, and route them to workers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import NoReturn, Unpack

import attrs
import trio

from ._chance import chance
from ._core.broker import BrokerMachine, Counters, Service
from ._engine import BoundEngine, transport_options
from ._names import peer_name
from ._nursery import open_plain_nursery
from ._settings import Overrides, Settings, settings_with
from ._transport import Port, listen
from ._wire.protocols import dialect_names

logger = logging.getLogger("zmdp_trio.broker")


@attrs.frozen
class ServiceStatistics:
    """One service's numbers at one moment.

    received = refused + replied + failed + cancelled + expired + lost + queued + running + cancelling.
    """

    #: Workers that offer it, and the slots that they lease to this broker.
    workers: int
    slots: int
    #: Requests that wait for a slot, that a worker runs, and that one has not ended though its caller left.
    queued: int
    running: int
    cancelling: int
    received: int
    refused: int
    replied: int
    failed: int
    cancelled: int
    expired: int
    lost: int
    #: Requests beside these, which joined the execution of another one with the same key.
    joined: int


@attrs.frozen
class BrokerStatistics:
    """A broker's numbers at one moment."""

    clients: int
    workers: int
    services: Mapping[str, ServiceStatistics]
    #: Of these, of all services that nobody offers any more, and of what the broker answered itself.
    total: ServiceStatistics
    #: Bytes queued or kept for peers until they acknowledge them.
    outbox_bytes: int
    #: Replies to requests that nobody waits for any more.
    late_replies: int
    #: Messages that came twice.
    duplicates: int
    #: Commands of a later version of the protocol, which were passed over.
    skipped: int
    #: Messages and commands that were not to be expected.  A client of an older dialect goes on as though it had not
    #: sent it; everybody else was forgotten, and workers of older dialects may start over.
    protocol_errors: int
    #: Peers that were told to come again later, since `broker_sessions` were there.
    turned_away: int
    #: Bytes kept for all clients together, which `broker_memory` limits.
    memory: int
    #: Deadlines that are watched.
    timers: int


class Broker:
    """Routes requests; made by `open_broker` and `serve_broker`.

    Attributes:
        endpoints: where it listens, wildcards resolved.
    """

    def __init__(self, port: Port, name: str, settings: Settings, protocols: Collection[str] | None = None) -> None:
        self.name = name
        self.settings = settings
        self.endpoints = port.endpoints
        self._machine = BrokerMachine(name=name, epoch=chance().randbytes(8), settings=settings, protocols=protocols)
        self._engine = BoundEngine(self._machine, port, self._act, logger)
        self._idle = trio.Event()

    def __repr__(self) -> str:
        return f"<Broker {self.name} {' '.join(self.endpoints)}>"

    def statistics(self) -> BrokerStatistics:
        """Return the numbers of this moment."""
        machine = self._machine
        sessions = machine.sessions()
        workers = sum(session.is_worker for session in sessions)
        services = {service.name: _statistics_of([service]) for service in machine.services()}
        return BrokerStatistics(
            clients=len(sessions) - workers,
            workers=workers,
            services=MappingProxyType(services),
            total=_statistics_of(machine.services(), machine.forgotten),
            outbox_bytes=sum(session.link.held_bytes for session in sessions),
            late_replies=machine.late_replies,
            duplicates=machine.duplicates + sum(session.link.duplicates for session in sessions),
            skipped=machine.skipped,
            protocol_errors=machine.protocol_errors,
            turned_away=machine.turned_away,
            memory=machine.memory,
            timers=machine.timers,
        )

    async def drain(self, grace: float | None = None) -> bool:
        """Refuse new requests, and wait until those that were accepted have their outcomes.

        Args:
            grace: seconds to wait for them; by default the setting `drain_grace`.

        Returns:
            Whether all of them ended in time.
        """
        self._machine.drain()
        self._engine.wake()
        if not self._machine.busy:
            await trio.lowlevel.checkpoint()
            return True
        with trio.move_on_after(self.settings.drain_grace if grace is None else grace):
            await self._idle.wait()
        return not self._machine.busy

    def _act(self) -> None:
        if self._machine.draining and not self._machine.busy:
            self._idle.set()

    def _close(self) -> None:
        """Take leave of everybody, now."""
        self._machine.goodbye()
        self._engine.close()


def _statistics_of(services: Sequence[Service], past: Counters | None = None) -> ServiceStatistics:
    """Add up what services hold, and what became of their requests and of those in `past`."""
    counters = Counters()
    for each in (past or Counters(), *(service.counters for service in services)):
        counters.add(each)
    return ServiceStatistics(
        workers=sum(len(service.offers) for service in services),
        slots=sum(offer.lease for service in services for offer in service.offers.values()),
        queued=sum(service.queued for service in services),
        running=sum(service.running for service in services),
        cancelling=sum(service.cancelling for service in services),
        **attrs.asdict(counters),
    )


@asynccontextmanager
async def open_broker(
    *endpoints: str,
    name: str | None = None,
    protocols: Collection[str] | None = None,
    settings: Settings | None = None,
    **overrides: Unpack[Overrides],
) -> AsyncIterator[Broker]:
    """Run a broker for as long as the block runs; leaving it drains, cancelling it means now.

    Args:
        endpoints: where to listen, all at once: `tcp://127.0.0.1:5555`, `tcp://127.0.0.1:*`, `ipc:///run/zmdp`,
            `inproc://name`, `memory://name`.
        name: what peers and logs call it; by default random.
        protocols: the dialects that are understood; by default all, each peer's told by its first message: see
            `PROTOCOLS`.
        settings: limits and intervals; `overrides` replaces some, such as `heartbeat=1`.

    Raises:
        EndpointError: an endpoint can't be bound.
        ValueError: a protocol is unknown.
    """
    all_settings = settings_with(settings, **overrides)
    name = peer_name(name, "broker")
    if protocols is not None:
        protocols = dialect_names(protocols)
    broker = Broker(listen(*endpoints, options=transport_options(all_settings)), name, all_settings, protocols)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(broker._engine.run)
        try:
            yield broker
            await broker.drain()
        finally:
            broker._close()
            nursery.cancel_scope.cancel()


async def serve_broker(
    *endpoints: str,
    name: str | None = None,
    protocols: Collection[str] | None = None,
    settings: Settings | None = None,
    task_status: trio.TaskStatus[Broker] = trio.TASK_STATUS_IGNORED,
    **overrides: Unpack[Overrides],
) -> NoReturn:
    """Run a broker until cancelled; `nursery.start` returns it when it is bound.

    Args and errors are those of `open_broker`.
    """
    async with open_broker(*endpoints, name=name, protocols=protocols, settings=settings, **overrides) as broker:
        task_status.started(broker)
        await trio.sleep_forever()
    raise AssertionError("unreachable")

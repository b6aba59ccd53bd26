"""Gateways: plain REQ clients, which know nothing of brokers, call a service."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Unpack

import attrs
import trio

from ._client import Client, open_client
from ._core import bodies
from ._core.gateway import Exchange, Fate, GatewayMachine
from ._core.protocol import ZMDP1
from ._engine import BoundEngine, transport_options
from ._errors import Code, RequestError
from ._names import peer_name
from ._nursery import open_plain_nursery
from ._payload import Opaque
from ._settings import Overrides, Settings, settings_with
from ._transport import Port, listen
from ._wire.commands import Final
from ._wire.frames import Frame

logger = logging.getLogger("zmdp_trio.gateway")


@attrs.frozen
class GatewayStatistics:
    """A gateway's numbers at one moment.

    received = refused + replied + failed + cancelled + running + waiting.
    """

    #: Connections that wait for something; those that do not are not counted.
    clients: int
    #: Requests that came.
    received: int
    #: Those that were answered with an error of the gateway's own: a limit, or a drain.
    refused: int
    #: Those whose replies were sent.
    replied: int
    #: Those whose errors were sent.
    failed: int
    #: Those whose clients left before that, or were cut off.
    cancelled: int
    #: Those that the service has.
    running: int
    #: Those whose replies wait for earlier ones of the same client, or for the client to read.
    waiting: int
    #: Messages that are no requests: without the empty frame that REQ sends, or with nothing behind it.
    malformed: int
    #: Clients that were cut off, since they did not read, or let too much wait.
    cut_off: int
    #: Bytes that all requests and replies count for, which `gateway_memory` limits.
    memory: int


class Gateway:
    """Passes what plain REQ clients ask to a service; made by `open_gateway` and `serve_gateway`.

    Attributes:
        endpoints: where it listens, wildcards resolved.
        service: the service that it calls.
    """

    def __init__(
        self, port: Port, service: str, client: Client, retry: int, name: str, settings: Settings, nursery: trio.Nursery
    ) -> None:
        self.name = name
        self.settings = settings
        self.service = service
        self.endpoints = port.endpoints
        self._client = client
        self._retry = retry
        self._nursery = nursery
        self._machine = GatewayMachine(name=name, settings=settings)
        self._engine = BoundEngine(self._machine, port, self._act, logger)
        self._idle = trio.Event()

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {' '.join(self.endpoints)} to {self.service!r}>"

    def statistics(self) -> GatewayStatistics:
        """Return the numbers of this moment."""
        machine = self._machine
        running, waiting = machine.held
        return GatewayStatistics(
            clients=machine.clients,
            received=machine.received,
            refused=machine.fates[Fate.REFUSED],
            replied=machine.fates[Fate.REPLIED],
            failed=machine.fates[Fate.FAILED],
            cancelled=machine.fates[Fate.CANCELLED],
            running=running,
            waiting=waiting,
            malformed=machine.malformed,
            cut_off=machine.cut_off,
            memory=machine.memory,
        )

    async def drain(self, grace: float | None = None) -> bool:
        """Refuse new requests, and wait until those that were accepted are answered.

        Args:
            grace: seconds to wait for them; by default the setting `drain_grace`.

        Returns:
            Whether all of them were in time.
        """
        self._machine.drain()
        if not self._machine.clients:
            await trio.lowlevel.checkpoint()
            return True
        with trio.move_on_after(self.settings.drain_grace if grace is None else grace):
            await self._idle.wait()
        return not self._machine.clients

    # ---- the engine's part

    def _act(self) -> None:
        """Start and cancel requests, as the machine says."""
        for exchange in self._machine.take_started():
            self._nursery.start_soon(self._forward, exchange)
        for exchange in self._machine.take_cancelled():
            if exchange.scope is not None:
                exchange.scope.cancel()
        if self._machine.draining and not self._machine.clients:
            self._idle.set()

    async def _forward(self, exchange: Exchange) -> None:
        """Have the service answer one request."""
        if not exchange.running:
            return  # its client left as it came
        with trio.CancelScope() as exchange.scope:
            try:
                reply = await self._ask(exchange.body)
            except RequestError as error:
                self._machine.fail(exchange, error)
            else:
                self._reply(exchange, reply)
            self._engine.wake()

    async def _ask(self, body: list[Frame]) -> Final:
        """Call the service, and return its final reply as it came: it may not have to be read."""
        payload: Any = Opaque(body[0]) if len(body) == 1 else [bytes(frame) for frame in body]
        call = self._client._make_call(self.service, payload, retry=self._retry, discards=True)
        outcome = await self._client._ask(call)
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def _reply(self, exchange: Exchange, reply: Final) -> None:
        assert reply.body is not None
        try:
            frames = bodies.to_frames(reply.content, reply.body)
        except ValueError as error:
            logger.error("%s: a reply of %r is no good: %s", self.name, self.service, error)
            message = f"the reply of the service is no good: {error}"
            self._machine.fail(exchange, RequestError(message, code=Code.INTERNAL))
        else:
            self._machine.reply(exchange, frames)

    def _close(self) -> None:
        """Tell whoever still waits that it is in vain, and let go."""
        self._machine.abandon()
        self._engine.close()


@asynccontextmanager
async def open_gateway(
    *endpoints: str,
    service: str,
    brokers: str | Iterable[str],
    retry: int = 0,
    name: str | None = None,
    protocol: str = ZMDP1.name,
    settings: Settings | None = None,
    **overrides: Unpack[Overrides],
) -> AsyncIterator[Gateway]:
    """Let plain REQ clients call a service for as long as the block runs; leaving it drains, cancelling it means now.

        async with open_gateway("tcp://127.0.0.1:60401", service="files.content", brokers="tcp://127.0.0.1:5555"):
            ...

    Each message is a request.  One frame is a payload of bytes, which the handler gets as they are, or read as JSON if
    its annotation asks for another type; several frames are a list of bytes.  The final reply comes back: bytes as they
    are, a list of bytes as frames, anything else as JSON; partial replies are dropped.  An error comes back as the JSON
    object `{"error": {"code": ..., "message": ...}}`, with `details` if there are any.

    All requests that have come run at once, as far as the workers have slots.  One client's replies come in the order
    of its requests.  A client that goes away has its requests cancelled.

    Args:
        endpoints: where REQ clients connect to, all at once: `tcp://127.0.0.1:60401`, `ipc:///run/files`.
        service: the name of the service that gets everything.
        brokers: the endpoint of a broker, or several, as for `open_client`.
        retry: how often a request may run again when its worker or broker is lost.
        name: what handlers see as `request.peer`; by default random.
        protocol: what the brokers speak, as for `open_client`.
        settings: limits and intervals; `overrides` replaces some, such as `timeout=5`.

    Raises:
        EndpointError: an endpoint is malformed or can't be bound.
        ValueError: `service` or `retry` is out of range, or there is no such protocol.
    """
    all_settings = settings_with(settings, **overrides)
    name = peer_name(name, "gateway")
    several = (brokers,) if isinstance(brokers, str) else tuple(brokers)
    async with open_client(*several, name=name, protocol=protocol, settings=all_settings) as client:
        _check(client, service, retry)
        port = listen(*endpoints, options=transport_options(all_settings))
        async with open_plain_nursery() as nursery:
            gateway = Gateway(port, service, client, retry, name, all_settings, nursery)
            nursery.start_soon(gateway._engine.run)
            try:
                yield gateway
                await gateway.drain()
            finally:
                gateway._close()
                nursery.cancel_scope.cancel()


def _check(client: Client, service: str, retry: int) -> None:
    """Refuse what no request could be sent with.

    Raises:
        ValueError: as `open_gateway`.
    """
    try:
        client._make_call(service, b"", retry=retry)
    except RequestError as error:
        raise ValueError(error.message) from error


async def serve_gateway(
    *endpoints: str,
    service: str,
    brokers: str | Iterable[str],
    retry: int = 0,
    name: str | None = None,
    protocol: str = ZMDP1.name,
    settings: Settings | None = None,
    task_status: trio.TaskStatus[Gateway] = trio.TASK_STATUS_IGNORED,
    **overrides: Unpack[Overrides],
) -> NoReturn:
    """Let plain REQ clients call a service until cancelled; `nursery.start` returns the gateway when it is bound.

    It does not wait for a broker.  Args and errors are those of `open_gateway`.
    """
    async with open_gateway(
        *endpoints,
        service=service,
        brokers=brokers,
        retry=retry,
        name=name,
        protocol=protocol,
        settings=settings,
        **overrides,
    ) as gateway:
        task_status.started(gateway)
        await trio.sleep_forever()
    raise AssertionError("unreachable")

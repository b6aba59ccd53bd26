"""The engine of clients and workers: a port per broker, dialled again when it is lost, by numbers or by name."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import Final

import attrs
import trio

from .._chance import Backoff
from .._core.dialler import Dialler
from .._core.uplink import Lane, Uplink
from .._log import plain
from .._resolve import Resolver, host_name
from .._settings import Settings
from .._transport import DIALLED, Connected, EndpointError, Lost, PeerGone, Port, dial
from .._wire.frames import Frames
from .post import Post
from .pump import Engine, Outbox, clock, transport_options

logger = logging.getLogger("zmdp_trio.engine")

#: Seconds before a lost broker is dialled again, at first and at most.  The workers of a broker that is back must be
#: there before it gives up the wait for a service to appear, a second.
FIRST_DELAY: Final = 0.05
LAST_DELAY: Final = 0.6


class _Connection:
    """A dialled port, its post, and the scope that its keeper lives in."""

    def __init__(self, lane: Lane, port: Port) -> None:
        self.lane = lane
        self.port = port
        self.post = Post(port)
        self.scope = trio.CancelScope()


class DialEngine(Engine):
    """One dialled port per broker, dialled again when it is lost; a host name stands for all its addresses."""

    def __init__(
        self,
        machine: Dialler,
        act: Callable[[], None],
        settings: Settings,
        brokers: tuple[str, ...],
        *,
        log_level: int,
    ) -> None:
        """Make an engine.

        Args:
            machine: what is driven; it gets an uplink per address.
            act: the shell's part of a turn.
            settings: intervals and limits.
            brokers: endpoints.
            log_level: for the news that a broker can't be had that never was there, or was not back in time.
        """
        super().__init__(machine, act)
        self._log_level = log_level
        self._dialler = machine
        self._resume = settings.resume
        self._options = transport_options(settings)
        self._context = contextvars.copy_context()
        self._nursery: trio.Nursery
        self._connections: dict[str, _Connection] = {}
        #: The scopes of the tasks that keep lanes connected.
        self._keepers: dict[str, trio.CancelScope] = {}
        #: Lanes that were dialled before there were tasks.
        self._first: list[Lane] = []
        #: Lanes that are closed for good, as soon as what they have to say was sent.
        self._leaving: list[Lane] = []
        names = {broker: name for broker in brokers if (name := host_name(broker))}
        self._numbers = [broker for broker in brokers if broker not in names]
        self._resolvers = [Resolver(*each, settings.resolve, self._note_addresses) for each in names.items()]
        #: What was last logged of each endpoint and name.
        self._logged: dict[str, str] = {}
        #: When brokers were lost whose being away is not yet worth a warning.
        self._lost_at: dict[str, float] = {}

    def open(self) -> None:
        """Dial every broker; `run` must follow.

        Raises:
            EndpointError: an endpoint is malformed.
        """
        self._dialler.unresolved.update(dict.fromkeys(resolver.broker for resolver in self._resolvers))
        try:
            for endpoint in self._numbers:
                self._dialler.add(endpoint)
            self._first = self._dialler.take_opened()
            for lane in self._first:
                self._connect(lane)
        except EndpointError:
            for connection in self._connections.values():
                connection.port.close()
            raise

    def _run_ports(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        for lane in self._first:
            self._keep(lane)
        for resolver in self._resolvers:
            nursery.start_soon(resolver.run)

    # ---- names

    def _note_addresses(self, resolver: Resolver, failure: str | None) -> None:
        """A name was looked up: what stands behind it may have changed, or it failed."""
        broker = resolver.broker
        if failure is None:
            self._update_uplinks()
            if self._logged.pop(broker, None) is not None:
                logger.log(logging.INFO, "%s: %s is resolved", self._dialler.identity.name, broker)
        elif broker not in self._logged:
            # Once, however often it is tried.
            self._logged[broker] = failure
            level = logging.INFO if resolver.endpoints else self._log_level
            logger.log(level, "%s: %s can't be resolved: %s", self._dialler.identity.name, broker, failure)
        reason = None if failure is None else f"can't be resolved: {failure}"
        self._dialler.looked_up(broker, reason, now=clock())
        self.wake()

    def _update_uplinks(self) -> None:
        """Have an uplink for each endpoint that is ours, and for no other for long."""
        wanted = set(self._numbers).union(*(resolver.endpoints for resolver in self._resolvers))
        for endpoint in sorted(wanted - self._dialler.uplinks.keys() - self._keepers.keys()):
            self._dialler.add(endpoint)
        self._keep_opened()
        for uplink in self._dialler.uplinks.values():
            if uplink.endpoint in wanted:
                self._dialler.keep(uplink)
            else:
                self._dialler.retire(uplink)

    # ---- connections

    def _connect(self, lane: Lane) -> None:
        options = attrs.evolve(self._options, routing_id=lane.routing_id())
        self._connections[lane.name] = _Connection(lane, dial(lane.endpoint, options))
        self._note_post()

    def _note_post(self) -> None:
        """Let others stand in where there is one connection: with several, news may come by any."""
        posts = [connection.post for connection in self._connections.values()]
        self.post = posts[0] if len(posts) == 1 else None

    def _keep_opened(self) -> None:
        for lane in self._dialler.take_opened():
            self._keep(lane)

    def _keep(self, lane: Lane) -> None:
        self._keepers[lane.name] = trio.CancelScope()
        # Whoever takes the turn in which this happens may be in another context.
        self._context.run(self._nursery.start_soon, self._keep_connected, lane, self._keepers[lane.name])

    async def _keep_connected(self, lane: Lane, scope: trio.CancelScope) -> None:
        with scope:
            await self._dial_again_and_again(lane)
        del self._keepers[lane.name]
        # It may have been added again while it was closed.
        self._update_uplinks()

    async def _dial_again_and_again(self, lane: Lane) -> None:
        backoff = Backoff(FIRST_DELAY, LAST_DELAY)
        while True:
            try:
                if lane.name not in self._connections:
                    self._connect(lane)
            except EndpointError as error:
                lane.reason = str(error)
            else:
                since = clock()
                await self._serve_connection(self._connections[lane.name])
                if clock() - since > LAST_DELAY:
                    backoff.reset()
            await backoff.pause()

    def _ports(self) -> list[Port]:
        return [connection.port for connection in self._connections.values()]

    async def _serve_connection(self, connection: _Connection) -> None:
        """Take turns at the news of one connection until it is lost."""
        try:
            with connection.scope:
                await self._serve(connection.post)
        finally:
            del self._connections[connection.lane.name]
            self._note_post()
            connection.port.close()

    def _receive(self, now: float) -> None:
        dialler = self._dialler
        if self._leaving or dialler.retiring or dialler.lanes_changed:
            self._retire()
        for connection in list(self._connections.values()):
            lane = connection.lane
            if lane in self._leaving:
                continue
            for _, what in connection.port.receive():
                if type(what) is list:
                    dialler.receive(lane, what, now=now)
                elif isinstance(what, Connected):
                    dialler.connected(lane, now=now)
                elif isinstance(what, Lost):
                    self._drop(connection, what.reason, now)
                    continue
                if self._logged:
                    self._log_return(lane.uplink)
        if dialler.lanes_changed:
            for lane in dialler.take_unusable():
                if lane.name in self._connections:
                    self._drop(self._connections[lane.name], lane.reason, now)
        for uplink in dialler.take_unanswered():
            self._log_loss(uplink, uplink.reason, now)

    def _settled(self) -> bool:
        if self._leaving or self._dialler.lanes_changed:
            return False
        for connection in self._connections.values():  # `all` would be a generator more for each message
            if not connection.port.settled():
                return False
        return True

    def _retire(self) -> None:
        """Close the lanes that have nothing left to do, and dial those that are new."""
        for lane in self._leaving:
            self._keepers[lane.name].cancel()
        self._keep_opened()
        self._leaving = self._dialler.take_closed()
        if self._dialler.retiring:
            for uplink in self._dialler.take_retired():
                self._leaving += uplink.lanes

    def _drop(self, connection: _Connection, reason: str, now: float) -> None:
        lane, uplink = connection.lane, connection.lane.uplink
        if connection.scope.cancel_called:
            return
        connection.scope.cancel()
        if self._dialler.uplinks.get(uplink.endpoint) is uplink:
            self._dialler.cut(lane, reason, now=now)
            if not uplink.up:
                self._log_loss(uplink, reason, now)
                for resolver in self._resolvers:
                    if uplink.endpoint in resolver.endpoints:
                        resolver.doubt()

    def _log_loss(self, uplink: Uplink, reason: str, now: float) -> None:
        """Log why a broker can't be had: once, however often it is dialled; and again when it is not back in time."""
        name, endpoint = self._dialler.identity.name, uplink.endpoint
        if uplink.broker and endpoint not in self._logged:
            self._lost_at[endpoint] = now
        if self._logged.get(endpoint) != reason:
            self._logged[endpoint] = reason
            vain = uplink.unwelcome or uplink.unanswered
            level = logging.WARNING if vain else logging.INFO if uplink.broker else self._log_level
            logger.log(level, "%s at %s: %s", name, endpoint, plain(reason))
        if now - self._lost_at.get(endpoint, now) > self._resume:
            del self._lost_at[endpoint]
            logger.log(self._log_level, "%s at %s: away for %g s: %s", name, endpoint, self._resume, plain(reason))

    def _log_return(self, uplink: Uplink) -> None:
        """Log that a broker which could not be had is there again."""
        if uplink.up and self._logged.pop(uplink.endpoint, None) is not None:
            self._lost_at.pop(uplink.endpoint, None)
            logger.log(logging.INFO, "%s at %s: connected", self._dialler.identity.name, uplink.endpoint)

    def _send(self, link: Outbox, frames: Frames) -> bool:
        connection = self._connections.get(link.peer)
        if connection is None:
            raise PeerGone(link.peer)
        return connection.port.send(DIALLED, frames)

    def _gone(self, link: Outbox, now: float) -> None:
        connection = self._connections.get(link.peer)
        if connection is not None:
            self._drop(connection, "the broker can't be reached", now)
        else:
            link.close()

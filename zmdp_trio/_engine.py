"""Drives a machine over ports: the one pump, and the only reader of Trio's clock.

A turn is synchronous: take what has come, let the machine and its shell act, do what is due, send what is ready, until
there is nothing left.  Two kinds of tasks take turns: each port's `run`, when there is news from the network, and
`Engine.run`, at the machine's deadline or when somebody called `wake` because the machine has something to send.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

import trio

from ._chance import chance
from ._core.broker import BrokerMachine
from ._core.dialler import Dialler
from ._core.link import Link
from ._core.uplink import Uplink
from ._log import LimitedLog, plain
from ._resolve import Resolver, host_name
from ._settings import Settings
from ._transport import DIALLED, Connected, EndpointError, Lost, Options, PeerGone, Port, dial
from ._wire.frames import Frames

logger = logging.getLogger("zmdp_trio.engine")
broker_logger = logging.getLogger("zmdp_trio.broker")

#: Rounds of receiving and sending in one turn, after which other tasks get theirs.
ROUNDS: Final = 16
#: Seconds before a lost broker is dialled again, at first and at most; each is drawn from 0.5 to 1.5 times this.  The
#: workers of a broker that is back must be there before it gives up the wait for a service to appear, a second.
FIRST_DELAY: Final = 0.05
LAST_DELAY: Final = 0.6


def clock() -> float:
    """Return the time on Trio's clock, in seconds."""
    return trio.current_time()


class Pace:
    """Tells a loop that never has to wait when to let others run: often, but not at each step.

    A checkpoint costs some 3 microseconds, more than all else that happens to a partial reply.
    """

    __slots__ = ("_rested", "_steps")

    #: Steps, and seconds, after which a checkpoint is due.
    STEPS: Final = 64
    SECONDS: Final = 0.0005

    def __init__(self) -> None:
        self._steps = 0
        self._rested = -math.inf

    @property
    def due(self) -> bool:
        """Whether to rest now; asked once in each step."""
        self._steps += 1
        return self._steps >= self.STEPS or trio.current_time() - self._rested > self.SECONDS

    async def rest(self) -> None:
        """Let others run."""
        await trio.lowlevel.checkpoint()
        self._steps = 0
        self._rested = trio.current_time()


def transport_options(settings: Settings) -> Options:
    """Return what a port must know of the settings."""
    # The commands' frame and ZMDP/1's own overhead come on top of the largest body.
    return Options(
        heartbeat=settings.heartbeat, misses=settings.misses, max_frame=max(settings.max_message, 2**20) + 2**16
    )


class Machine(Protocol):
    """What the engine asks of every machine."""

    @property
    def deadline(self) -> float: ...
    def handle_timer(self, *, now: float) -> None: ...
    def take_dirty(self) -> list[Link]: ...


class Engine(ABC):
    """The pump; subclasses know where messages come from and go to."""

    def __init__(self, machine: Machine, act: Callable[[], None]) -> None:
        """Make an engine.

        Args:
            machine: what is driven.
            act: the shell's part of a turn: do what the machine has found out.
        """
        self._machine = machine
        self._act = act
        self._blocked: list[Link] = []
        self._sleeper: trio.lowlevel.Task | None = None
        #: Somebody called `wake` while nobody slept.
        self._woken = False
        self._life = trio.CancelScope()
        self._closed = False
        self._scope = trio.CancelScope()

    @abstractmethod
    def _receive(self, now: float) -> bool:
        """Feed the machine what has come; tell whether there was anything."""

    @abstractmethod
    def _send(self, link: Link, frames: Frames) -> bool:
        """Offer a message to the link's port.  Raises PeerGone."""

    @abstractmethod
    def _gone(self, link: Link, now: float) -> None:
        """The link's peer can't be reached."""

    def turn(self) -> None:
        """Do all there is to do now, and return."""
        if self._closed:
            return
        self._woken = False
        now = trio.current_time()
        machine = self._machine
        self._offer_again()
        for _ in range(ROUNDS):
            busy = self._receive(now)
            if now >= machine.deadline:
                machine.handle_timer(now=now)
                busy = True
            self._act()
            if not self._flush(now) and not busy:
                break
        else:
            self.wake()
        if machine.deadline < self._scope.deadline:
            self._scope.deadline = machine.deadline

    def _offer_again(self) -> None:
        """Schedule the links whose last message was refused."""
        blocked, self._blocked = self._blocked, []
        for link in blocked:
            link.schedule()

    def _flush(self, now: float) -> bool:
        sent = False
        for link in self._machine.take_dirty():
            link.scheduled = False
            while link.peer is not None and (frames := link.next_batch()) is not None:
                try:
                    taken = self._send(link, frames)
                except PeerGone:
                    self._gone(link, now)
                    break
                if not taken:
                    self._blocked.append(link)
                    break
                link.batch_sent()
                sent = True
        return sent

    def wake(self) -> None:
        """Have a turn taken soon."""
        if self._sleeper is None:
            self._woken = True
        else:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def watch(self) -> None:
        """Mind that the machine's deadline may have come nearer; a turn that is due anyway sees to that itself."""
        if self._sleeper is not None and self._machine.deadline < self._scope.deadline:
            self._scope.deadline = self._machine.deadline

    async def run(self) -> None:
        """Take turns until closed or cancelled."""
        with self._life:
            async with trio.open_nursery() as nursery:
                self._run_ports(nursery)
                await self._take_turns()

    def close(self) -> None:
        """Send what is ready, end `run`, and let go of every port."""
        if not self._closed:
            # Nothing is received any more: a peer that was about to be greeted would never hear our farewell.
            self._act()
            self._offer_again()
            self._flush(trio.current_time())
            self._closed = True
            self._life.cancel()
            for port in self._ports():
                port.close()

    async def _serve(self, port: Port) -> None:
        """Take turns at the news of a port."""
        try:
            await port.run(self.turn)
        except trio.ClosedResourceError:
            if not self._closed:
                raise

    @abstractmethod
    def _run_ports(self, nursery: trio.Nursery) -> None:
        """Start the tasks that take turns at the network's news."""

    @abstractmethod
    def _ports(self) -> list[Port]:
        """The ports that are open."""

    async def _take_turns(self) -> None:
        """Take turns when woken or when something is due."""
        while True:
            with trio.CancelScope() as self._scope:
                while True:
                    self._scope.deadline = self._machine.deadline
                    await self._sleep()
                    self.turn()
            await trio.lowlevel.checkpoint_if_cancelled()
            self.turn()

    async def _sleep(self) -> None:
        """Wait for `wake`, or for the scope's deadline."""
        if self._woken:
            await trio.lowlevel.checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


class BrokerEngine(Engine):
    """One bound port, many peers."""

    def __init__(self, machine: BrokerMachine, port: Port, act: Callable[[], None]) -> None:
        super().__init__(machine, act)
        self._broker = machine
        self._port = port
        self._log = LimitedLog(broker_logger, logging.WARNING)

    def close(self) -> None:
        super().close()
        self._log.summarize()

    def _run_ports(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._serve, self._port)
        nursery.start_soon(self._log.run)

    def _ports(self) -> list[Port]:
        return [self._port]

    def _receive(self, now: float) -> bool:
        received = self._port.receive()
        for peer, what in received:
            if type(what) is list:
                self._broker.receive(peer, what, now=now)
            elif isinstance(what, Lost):
                self._broker.lost(peer, now=now)
        for who, why in self._broker.take_dropped():
            self._log.log(f"{self._broker.name} dropped {plain(who)}: {plain(why)}", now=now)
        return bool(received)

    def _send(self, link: Link, frames: Frames) -> bool:
        return self._port.send(link.peer, frames)

    def _gone(self, link: Link, now: float) -> None:
        self._broker.unreachable(link.peer, now=now)


class _Connection:
    """A dialled port, and the scope that its task lives in."""

    def __init__(self, uplink: Uplink, port: Port) -> None:
        self.uplink = uplink
        self.port = port
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
            log_level: for the news that a broker can't be had that never was there.
        """
        super().__init__(machine, act)
        self._log_level = log_level
        self._dialler = machine
        self._options = transport_options(settings)
        self._nursery: trio.Nursery
        self._connections: dict[str, _Connection] = {}
        #: The scopes of the tasks that keep uplinks connected.
        self._keepers: dict[str, trio.CancelScope] = {}
        #: Uplinks that have taken their leave; they are closed when that was sent.
        self._retired: list[Uplink] = []
        names = {broker: name for broker in brokers if (name := host_name(broker))}
        self._numbers = [broker for broker in brokers if broker not in names]
        self._resolvers = [Resolver(*each, settings.resolve, self._note_addresses) for each in names.items()]
        #: What was last logged of each endpoint and name.
        self._logged: dict[str, str] = {}

    def open(self) -> None:
        """Dial every broker; `run` must follow.

        Raises:
            EndpointError: an endpoint is malformed.
        """
        self._dialler.unresolved.update(dict.fromkeys(resolver.broker for resolver in self._resolvers))
        try:
            for endpoint in self._numbers:
                self._connect(self._dialler.add(endpoint))
        except EndpointError:
            for connection in self._connections.values():
                connection.port.close()
            raise

    def _run_ports(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        for uplink in self._dialler.uplinks.values():
            self._keep(uplink)
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
            self._keep(self._dialler.add(endpoint))
        for uplink in self._dialler.uplinks.values():
            if uplink.endpoint in wanted:
                self._dialler.keep(uplink)
            else:
                self._dialler.retire(uplink)

    # ---- connections

    def _connect(self, uplink: Uplink) -> None:
        self._connections[uplink.endpoint] = _Connection(uplink, dial(uplink.endpoint, self._options))

    def _keep(self, uplink: Uplink) -> None:
        self._keepers[uplink.endpoint] = trio.CancelScope()
        self._nursery.start_soon(self._keep_connected, uplink, self._keepers[uplink.endpoint])

    async def _keep_connected(self, uplink: Uplink, scope: trio.CancelScope) -> None:
        with scope:
            await self._dial_again_and_again(uplink)
        del self._keepers[uplink.endpoint]
        # It may have been added again while it was closed.
        self._update_uplinks()

    async def _dial_again_and_again(self, uplink: Uplink) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                if uplink.endpoint not in self._connections:
                    self._connect(uplink)
            except EndpointError as error:
                uplink.reason = str(error)
            else:
                since = clock()
                await self._serve_connection(self._connections[uplink.endpoint])
                if clock() - since > LAST_DELAY:
                    delay = FIRST_DELAY
            # Jitter, so that the peers of a restarted broker don't all come at once.
            await trio.sleep(delay * chance().uniform(0.5, 1.5))
            delay = min(2 * delay, LAST_DELAY)

    def _ports(self) -> list[Port]:
        return [connection.port for connection in self._connections.values()]

    async def _serve_connection(self, connection: _Connection) -> None:
        """Take turns at the news of one connection until it is lost."""
        try:
            with connection.scope:
                await self._serve(connection.port)
        finally:
            del self._connections[connection.uplink.endpoint]
            connection.port.close()

    def _receive(self, now: float) -> bool:
        anything = self._retire()
        for connection in list(self._connections.values()):
            if connection.uplink in self._retired:
                continue
            for _, what in connection.port.receive():
                anything = True
                if type(what) is list:
                    self._dialler.receive(connection.uplink, what, now=now)
                    if self._logged:
                        self._log_return(connection.uplink)
                elif isinstance(what, Connected):
                    self._dialler.connected(connection.uplink, now=now)
                elif isinstance(what, Lost):
                    self._drop(connection, what.reason, now)
        for uplink in self._dialler.take_unusable():
            if uplink.endpoint in self._connections:
                self._drop(self._connections[uplink.endpoint], uplink.reason, now)
        return anything

    def _retire(self) -> bool:
        """Close the uplinks that are no longer ours and have nothing left to do; tell whether there were any."""
        for uplink in self._retired:
            self._keepers[uplink.endpoint].cancel()
        self._retired = self._dialler.take_retired() if self._dialler.retiring else []
        return bool(self._retired)

    def _drop(self, connection: _Connection, reason: str, now: float) -> None:
        uplink = connection.uplink
        if connection.scope.cancel_called:
            return
        connection.scope.cancel()
        if self._dialler.uplinks.get(uplink.endpoint) is uplink:
            self._log_loss(uplink, reason)
            self._dialler.lost(uplink, reason, now=now)
            for resolver in self._resolvers:
                if uplink.endpoint in resolver.endpoints:
                    resolver.doubt()

    def _log_loss(self, uplink: Uplink, reason: str) -> None:
        """Log why a broker can't be had: once, however often it is dialled; loudly if it never was there."""
        if self._logged.get(uplink.endpoint) != reason:
            self._logged[uplink.endpoint] = reason
            level = logging.WARNING if uplink.unwelcome else logging.INFO if uplink.broker else self._log_level
            logger.log(level, "%s at %s: %s", self._dialler.identity.name, uplink.endpoint, plain(reason))

    def _log_return(self, uplink: Uplink) -> None:
        """Log that a broker which could not be had is there again."""
        if uplink.up and self._logged.pop(uplink.endpoint, None) is not None:
            logger.log(logging.INFO, "%s at %s: connected", self._dialler.identity.name, uplink.endpoint)

    def _send(self, link: Link, frames: Frames) -> bool:
        connection = self._connections.get(link.peer)
        if connection is None:
            raise PeerGone(link.peer)
        return connection.port.send(DIALLED, frames)

    def _gone(self, link: Link, now: float) -> None:
        connection = self._connections.get(link.peer)
        if connection is not None:
            self._drop(connection, "the broker can't be reached", now)
        else:
            link.close()

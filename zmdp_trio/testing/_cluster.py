"""Brokers, workers, and clients in one process, as many as a test wants, and what can befall them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, TypeAlias, TypeVar, Unpack

import attrs
import trio
import trio.testing

from .._broker import Broker, open_broker
from .._client import Client, open_client
from .._service import Service
from .._settings import Overrides, Settings, settings_with
from .._transport.memory import MemoryPort, Network, current_network, host
from .._worker import Worker, open_worker
from ._leftovers import leftovers

Peer: TypeAlias = Broker | Worker | Client
PeerT = TypeVar("PeerT", Broker, Worker, Client)
#: Where the brokers of a cluster listen.
Transport: TypeAlias = Literal["memory", "tcp"]

#: What a broker binds on each transport.
ENDPOINTS: Final[dict[Transport, str]] = {"memory": "memory://*", "tcp": "tcp://127.0.0.1:*"}


@attrs.define(eq=False)
class _Node:
    """A peer, and the task that it lives in."""

    peer: Peer
    scope: trio.CancelScope
    #: Set to have it take its leave, and when it has gone.
    leave: trio.Event = attrs.Factory(trio.Event)
    gone: trio.Event = attrs.Factory(trio.Event)


class Cluster:
    """Brokers, workers, and clients, each with a host of its own; made by `open_cluster`.

    They are called `broker`, `broker-2`, `worker`, `worker-2`, `client`, and so on.  These are their names, the names
    of their hosts on the network, and what the methods here take in place of the peer itself.

    Attributes:
        services: what the workers serve.
        settings: those of everybody, unless `add_worker` or `add_client` was told otherwise.
        endpoints: where the brokers listen, also those that are down, in order.
    """

    def __init__(
        self,
        services: Sequence[Service[..., Any]],
        nursery: trio.Nursery,
        transport: Transport,
        settle_within: float | None,
        settings: Settings,
    ) -> None:
        self.services = tuple(services)
        self.settings = settings
        self.endpoints: tuple[str, ...] = ()
        self._transport: Transport = transport
        self._settle_within = settings.silence + settings.resume if settle_within is None else settle_within
        self._nursery = nursery
        self._nodes: dict[str, _Node] = {}
        #: The names of all that are up or were.
        self._known: dict[str, None] = {}
        self._scopes: dict[trio.CancelScope, None] = {}
        self._endpoint_of: dict[str, str] = {}
        self._serial = {kind: itertools.count(1) for kind in ("broker", "worker", "client")}

    def __repr__(self) -> str:
        return f"<Cluster of {', '.join(self._nodes) or 'nobody'}>"

    # ---- who is there

    @property
    def peers(self) -> list[Peer]:
        """All that are up, oldest first."""
        return [node.peer for node in self._nodes.values()]

    @property
    def brokers(self) -> list[Broker]:
        """The brokers that are up, oldest first."""
        return self._peers(Broker)

    @property
    def workers(self) -> list[Worker]:
        """The workers that are up, oldest first."""
        return self._peers(Worker)

    @property
    def clients(self) -> list[Client]:
        """The clients that are open, oldest first."""
        return self._peers(Client)

    @property
    def broker(self) -> Broker:
        """The first of `brokers`; LookupError if there is none."""
        return self._first(self.brokers, "broker")

    @property
    def worker(self) -> Worker:
        """The first of `workers`; LookupError if there is none."""
        return self._first(self.workers, "worker")

    @property
    def client(self) -> Client:
        """The first of `clients`; LookupError if there is none."""
        return self._first(self.clients, "client")

    @property
    def endpoint(self) -> str:
        """Where the first broker listens."""
        return self.endpoints[0]

    def _peers(self, kind: type[PeerT]) -> list[PeerT]:
        return [node.peer for node in self._nodes.values() if isinstance(node.peer, kind)]

    def _first(self, peers: list[PeerT], kind: str) -> PeerT:
        if not peers:
            raise LookupError(f"the cluster has no {kind} at the moment: {self!r}")
        return peers[0]

    def _node(self, which: Peer | str) -> _Node:
        node = self._nodes.get(which if isinstance(which, str) else which.name)
        if node is None or not (isinstance(which, str) or node.peer is which):
            raise LookupError(f"{which!r} is not up: {self!r}")
        return node

    # ---- faults

    @property
    def network(self) -> Network:
        """The network, for its `hook`.

        Raises:
            RuntimeError: the cluster runs over tcp, where nobody can be made to misbehave.
        """
        if self._transport != "memory":
            raise RuntimeError(f"faults need transport='memory', this cluster runs over {self._transport}")
        return current_network()

    def partition(self, *groups: Iterable[Peer | str]) -> None:
        """Let nothing through between peers of different groups; peers in no group reach all.

        Both sides learn of it after their silence.  A later call replaces an earlier one.  Peers that are down count,
        too: they are on that side if they come back.  What a test opened by itself is for `Network.partition`.

        Args:
            groups: two or more, each with one peer or more.

        Raises:
            LookupError: there never was such a peer.
            RuntimeError: the cluster runs over tcp.
            TypeError: a group is no list of peers.
            ValueError: there are fewer than two groups, one is empty, or a peer is in two.
        """
        network = self.network
        named = [self._names_of(group) for group in groups]
        if len(named) < 2 or not all(named):
            raise ValueError(f"a partition takes two groups or more, each with one peer or more, not {named!r}")
        network.partition(*named)

    def _names_of(self, group: Iterable[Peer | str]) -> list[str]:
        if isinstance(group, str) or not isinstance(group, Iterable):
            raise TypeError(f"a group is a list of peers or names, not {group!r}")
        names = []
        for each in group:
            if not isinstance(each, Peer | str):
                raise TypeError(f"a peer or its name is wanted, not {each!r}")
            names.append(each if isinstance(each, str) else each.name)
            if names[-1] not in self._known:
                raise LookupError(f"{each!r} was never up: {self!r}")
        return names

    def heal(self) -> None:
        """End the partition.  Connections that were not lost yet live on; what was sent meanwhile is gone."""
        self.network.heal()

    def kill(self, which: Peer | str) -> None:
        """End a peer as `kill -9` would: it says nothing any more, and the others see its connections break.

        Its tasks are cancelled.  What a handler does in a `finally` block, or in a thread, still happens: nothing can
        take that from a task; but nobody hears of it.

        Raises:
            LookupError: it is not up.
            RuntimeError: the cluster runs over tcp.
        """
        network, node = self.network, self._node(which)
        for port in _ports(node.peer):
            network.kill(port)
        del self._nodes[node.peer.name]
        node.scope.cancel()

    async def restart_broker(self, which: Broker | str | None = None) -> Broker:
        """Start a broker again at the endpoint that it had, with a new epoch; one that is up is killed first.

        Args:
            which: by default the only broker of the cluster.

        Raises:
            LookupError: there never was such a broker, or there are several and none was named.
            RuntimeError: it is up, and the cluster runs over tcp, where nobody can be killed.
        """
        name = which.name if isinstance(which, Broker) else which
        if name is None and len(self._endpoint_of) == 1:
            (name,) = self._endpoint_of
        if name not in self._endpoint_of:
            raise LookupError(f"which broker? there are {', '.join(self._endpoint_of)}, not {name!r}")
        if name in self._nodes:
            self.kill(name)
        broker: Broker = await self._start(
            name, open_broker(self._endpoint_of[name], name=name, settings=self.settings)
        )
        return broker

    # ---- more of them, and fewer

    async def add_broker(self) -> Broker:
        """Start one more broker.  Only workers and clients that are added later know of it."""
        name = self._new_name("broker")
        opened = open_broker(ENDPOINTS[self._transport], name=name, settings=self.settings)
        broker: Broker = await self._start(name, opened)
        self._endpoint_of[name] = broker.endpoints[0]
        self.endpoints = tuple(self._endpoint_of.values())
        return broker

    async def add_worker(
        self, *services: Service[..., Any], name: str | None = None, wait: bool = True, **overrides: Unpack[Overrides]
    ) -> Worker:
        """Start one more worker, which serves all brokers.

        Args:
            services: by default those of the cluster.
            name: by default `worker-N`; that of one that was killed may be taken again.
            wait: return when the first broker has taken it on, rather than at once.
            overrides: settings that differ from the cluster's.
        """
        name = self._new_name("worker", name)
        settings = settings_with(self.settings, **overrides)
        opened = open_worker(services or self.services, *self.endpoints, name=name, settings=settings)
        worker: Worker = await self._start(name, opened)
        if wait:
            await worker.wait_welcomed()
        return worker

    async def add_client(self, *, name: str | None = None, **overrides: Unpack[Overrides]) -> Client:
        """Open one more client of all brokers; `overrides` are settings that differ from the cluster's."""
        name = self._new_name("client", name)
        settings = settings_with(self.settings, **overrides)
        client: Client = await self._start(name, open_client(*self.endpoints, name=name, settings=settings))
        return client

    async def stop(self, which: Peer | str) -> None:
        """Have a peer take its leave in good order: it drains, then says goodbye."""
        node = self._node(which)
        node.leave.set()
        await node.gone.wait()

    def _new_name(self, kind: str, name: str | None = None) -> str:
        if name is None:
            number = next(self._serial[kind])
            name = kind if number == 1 else f"{kind}-{number}"
        if name in self._nodes:
            raise ValueError(f"there is a {name!r} already: {self!r}")
        return name

    async def _start(self, name: str, opened: AbstractAsyncContextManager[Peer]) -> Any:
        node: _Node = await self._nursery.start(self._run, name, opened, name=name)
        return node.peer

    async def _run(
        self, name: str, opened: AbstractAsyncContextManager[Peer], *, task_status: trio.TaskStatus[_Node]
    ) -> None:
        """Be the host of one peer."""
        host.set(name)
        # Whatever cancels the block ends the block first: its requests see that, rather than a client that was closed.
        with trio.CancelScope(shield=True) as scope:
            self._scopes[scope] = None
            async with opened as peer:
                node = self._nodes[name] = _Node(peer, scope)
                self._known[name] = None
                task_status.started(node)
                try:
                    await node.leave.wait()
                finally:
                    if self._nodes.get(name) is node:
                        del self._nodes[name]
        del self._scopes[scope]
        node.gone.set()

    # ---- the end

    async def settle(self) -> None:
        """Wait until nothing is left of any request, anywhere: in no queue, slot, table, or timer.

        Raises:
            AssertionError: something is left, or counters don't add up; says what, and who holds it.
        """
        within = self._settle_within
        with trio.move_on_after(within):
            while self.leftovers():  # noqa: ASYNC110  nobody signals it
                await trio.sleep(min(within / 30, self.settings.heartbeat / 10))
        held = self.leftovers()
        if held:
            lines = (f"  {name}: {value}" for name, value in held.items())
            raise AssertionError("\n".join((f"after {within:g} s something is left of requests:", *lines)))

    def leftovers(self) -> dict[str, Any]:
        """Return what peers still hold of requests, by who and what; empty when all is over."""
        return {
            f"{name}: {what}": value
            for name, node in self._nodes.items()
            for what, value in leftovers(node.peer).items()
        }

    async def _wait_connected(self) -> None:
        """Wait until everybody was welcomed by every broker."""
        # In memory this takes no time at all, so that a test begins at 0.
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(self.settings.connect + self.settings.silence):
            while not all(uplink.up for uplink in self._uplinks()):  # noqa: ASYNC110  nobody signals it
                await trio.sleep(0.001)

    def _uplinks(self) -> Iterator[Any]:
        for machine in (*(each._machine for each in self.workers), *(each._machine for each in self.clients)):
            yield from machine.uplinks.values()

    def _cancel_all(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    async def _stop_all(self) -> None:
        for kind in (Client, Worker, Broker):
            for peer in [node.peer for node in self._nodes.values() if isinstance(node.peer, kind)]:
                await self.stop(peer)


def _ports(peer: Peer) -> list[MemoryPort]:
    """Return all ports that a peer has open, also those for its handlers' own requests."""
    engines = [peer._engine]
    if isinstance(peer, Worker) and peer._callers is not None:
        engines.append(peer._callers._engine)
    return [port for engine in engines for port in engine._ports() if isinstance(port, MemoryPort)]

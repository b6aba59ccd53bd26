"""A network in memory, with faults on demand: for tests, and for programs that fit in one process.

It keeps the seam's contract as ZeroMQ does: whole messages, in order, through bounded queues, handed over after the
receiver's `wait` and never from inside `send`.  It knows no clock but Trio's and no chance, so under a virtual clock a
run repeats exactly.  What can go wrong is the test's to say:

    network = current_network()
    network.hook = lambda source, target, frames: ()        # every message is dropped
    network.partition(["memory://broker"], ["north"])       # both sides learn of it after their silence
    network.kill("north")                                   # the others learn of it at once

Ports are named by themselves, by the endpoint that they are bound to, or by the host that they stand on: whatever a
task and its children open after `host.set("north")`, now or later, does.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Final, TypeAlias

import trio

from .._wire.frames import Frame, Frames
from ._seam import DIALLED, Connected, EndpointError, Lost, Options, PeerGone, Received

#: Messages that may be under way in one direction of a connection.
CAPACITY: Final = 64
#: Messages that one `receive` takes at most.
BATCH: Final = 256
_PREFIX: Final = "memory://"


class Late(float):
    """Seconds until a copy of a message arrives, in a hook's answer: what is sent behind it may overtake it."""

    __slots__ = ()


#: Decides a message's fate, from (source, target, frames): the seconds until each copy of it arrives.  `(0,)` delivers
#: it, `()` drops it, `(0, 0)` doubles it, `(1.5,)` delays it and whatever is sent behind it, as a slow connection does,
#: and `(Late(1.5),)` delays it alone.  A hook that fails is taken away, and ends the peer that was about to send.
Hook: TypeAlias = "Callable[[MemoryPort, MemoryPort, Frames], Iterable[float]]"

#: The host on which this task opens ports; the empty one can't be parted from anything.
host: Final[ContextVar[str]] = ContextVar("zmdp_memory_host", default="")

_current: trio.lowlevel.RunVar[Network] = trio.lowlevel.RunVar("zmdp_memory_network")


def current_network() -> Network:
    """The network of this Trio run."""
    try:
        return _current.get()
    except LookupError:
        network = Network()
        _current.set(network)
        return network


def listen(*endpoints: str, options: Options) -> MemoryPort:
    """Bind a port on the current network."""
    return current_network().listen(*endpoints, options=options)


def dial(endpoint: str, options: Options) -> MemoryPort:
    """Dial an endpoint on the current network."""
    return current_network().dial(endpoint, options)


class Network:
    """Who listens where, and which faults are in force.

    Attributes:
        hook: decides what becomes of each message, see `Hook`; None delivers all.
        hook_error: what the last hook that failed has raised, or what was wrong with its answer; else None.
    """

    def __init__(self) -> None:
        self.hook: Hook | None = None
        self.hook_error: Exception | None = None
        self._listeners: dict[str, MemoryPort] = {}
        self._links: dict[_Link, None] = {}
        self._ports: dict[MemoryPort, None] = {}
        self._groups: dict[MemoryPort | str, int] = {}
        self._serial = itertools.count(1)

    def listen(self, *endpoints: str, options: Options) -> MemoryPort:
        """Bind a port to the endpoints; `memory://*` gets a name that is free.

        Raises:
            EndpointError: an endpoint is in use.
        """
        names = [f"{_PREFIX}{next(self._serial)}" if each == f"{_PREFIX}*" else each for each in endpoints]
        for name in names:
            if name in self._listeners:
                raise EndpointError(f"{name}: Address already in use")
        port = MemoryPort(self, tuple(names), options, frozenset(names))
        self._listeners.update(dict.fromkeys(names, port))
        return port

    def dial(self, endpoint: str, options: Options) -> MemoryPort:
        """Connect a port to whoever listens at the endpoint now."""
        port = MemoryPort(self, (endpoint,), options, frozenset())
        listener = self._listeners.get(endpoint)
        if listener is None:
            port._lost = Lost("connection refused")
            port._arrive(trio.current_time(), None, port._lost)
        else:
            link = _Link(self, port, listener)
            self._links[link] = None
            link.weigh(self._parted(port, listener))
        return port

    def kill(self, which: MemoryPort | str) -> None:
        """End a port, or all ports of that name, as `kill -9` would: the others learn of it, it goes mute itself."""
        for port in list(self._ports):
            if port is which or which in port._names:
                port._mute = True
                port._leave()

    def partition(self, *groups: Iterable[MemoryPort | str]) -> None:
        """Let nothing through between ports of different groups; ports in no group reach all.

        Raises:
            TypeError: a group is a string.
            ValueError: something is in two groups.
        """
        group_of: dict[MemoryPort | str, int] = {}
        for number, group in enumerate(groups):
            if isinstance(group, str):
                raise TypeError(f"a group is a list of ports or names, not {group!r}")
            for each in group:
                if group_of.setdefault(each, number) != number:
                    raise ValueError(f"{each!r} is in two groups of the partition")
        self._groups = group_of
        for link in self._links:
            link.weigh(self._parted(link.dialler, link.listener))

    def heal(self) -> None:
        """End the partition.  Connections that were not lost yet live on; what was sent meanwhile is gone."""
        self.partition()

    def _ask(self, hook: Hook, source: MemoryPort, target: MemoryPort, frames: Frames) -> Sequence[float]:
        """Return the hook's answer; one that fails is not asked again, so that the peers can end in good order."""
        try:
            return _delays(hook, hook(source, target, frames))
        except Exception as error:
            self.hook, self.hook_error = None, error
            raise

    def _parted(self, one: MemoryPort, other: MemoryPort) -> bool:
        here, there = self._group(one), self._group(other)
        return here is not None and there is not None and here != there

    def _group(self, port: MemoryPort) -> int | None:
        return next((self._groups[each] for each in (port, *port._names) if each in self._groups), None)

    def _routing_id(self) -> bytes:
        # As ZeroMQ's: five bytes that start with zero.  The odd factor scatters the counter, and repeats none.
        return b"\0" + (next(self._serial) * 0x9E3779B1 % 2**32).to_bytes(4, "big")

    def _forget(self, port: MemoryPort) -> None:
        self._ports.pop(port, None)
        self._groups.pop(port, None)
        for name in port.endpoints:
            if self._listeners.get(name) is port:
                del self._listeners[name]


def _delays(hook: Hook, answer: Iterable[float]) -> Sequence[float]:
    """Return what a hook has answered, if it is seconds."""
    name = getattr(hook, "__qualname__", hook)
    if not isinstance(answer, Iterable):
        raise TypeError(f"the hook {name} returns the seconds until each copy arrives, such as (0,), not {answer!r}")
    delays = tuple(answer)
    for delay in delays:
        if not (isinstance(delay, int | float) and delay >= 0):
            raise ValueError(f"the hook {name} returns seconds from 0 up, not {delay!r}")
    return delays


class _Way:
    """One direction of a connection."""

    __slots__ = ("heard", "last", "latest", "link", "name", "pending", "refused", "silent", "source", "target")

    def __init__(self, link: _Link, source: MemoryPort, target: MemoryPort, name: bytes) -> None:
        self.link = link
        self.source = source
        self.target = target
        #: What the target calls the source.
        self.name = name
        #: Messages under way, and whether one was refused because of them.
        self.pending = 0
        self.refused = False
        #: When the last of them arrives that none overtakes, and when the very last.
        self.latest = self.last = -math.inf
        #: Whether the target knows of the connection, and so must be told of its end.
        self.heard = name == DIALLED
        #: What the target is to be told if the silence that now reigns goes on.
        self.silent: Lost | None = None

    def deliver(self, what: Frames | Connected | Lost, delay: float = 0) -> None:
        """Let it arrive: behind all that was sent before, but for what is late."""
        due = max(self.latest, trio.current_time() + delay)
        if isinstance(what, Lost):
            due = max(due, self.last)
        if type(delay) is not Late:
            self.latest = due
        self.last = max(self.last, due)
        self.pending += 1
        self.target._arrive(due, self, what)

    def fall_silent(self) -> None:
        self.silent = Lost("connection lost: the other side went silent")
        self.target._arrive(trio.current_time() + self.target._options.silence, self, self.silent)
        self.pending += 1

    def recover(self) -> None:
        if self.silent is not None:
            self.pending -= 1
            self.target._unarrive(self.silent)
            self.silent = None

    def taken(self, what: Frames | Connected | Lost) -> bool:
        """Count out what the target takes; tell whether it is meant for its ears."""
        if self.name not in self.target._ways:
            # It is late: a silence has ended the connection meanwhile.
            return False
        self.pending -= 1
        if self.refused:
            self.refused = False
            self.source._news.set()
        if not isinstance(what, Lost):
            self.heard = True
            return True
        self.link.sever()
        self.target._ways.pop(self.name, None)
        self.target._lost = what
        return self.heard


class _Link:
    """A connection between two ports."""

    __slots__ = ("alive", "dialler", "greeted", "listener", "network", "ways")

    def __init__(self, network: Network, dialler: MemoryPort, listener: MemoryPort) -> None:
        self.network = network
        self.dialler = dialler
        self.listener = listener
        self.alive = True
        self.greeted = False
        name = dialler._options.routing_id or network._routing_id()
        out, back = _Way(self, dialler, listener, name), _Way(self, listener, dialler, DIALLED)
        self.ways = (out, back)
        dialler._ways[DIALLED] = out
        listener._ways[name] = back

    def weigh(self, parted: bool) -> None:
        """Adjust to a partition that begins or ends."""
        silent = self.ways[1].silent is not None
        for way in self.ways:
            if parted and not silent and (self.greeted or way.target is self.dialler):
                way.fall_silent()
            elif not parted:
                way.recover()
        if not parted and not self.greeted:
            self.greeted = True
            self.ways[1].deliver(Connected())

    def sever(self) -> None:
        self.alive = False
        self.network._links.pop(self, None)

    def end(self, reason: str) -> None:
        """Tell both sides, each after all that was sent to it."""
        self.sever()
        for way in self.ways:
            if not way.silent:
                way.deliver(Lost(reason))


class MemoryPort:
    """One side of the network; see `Port`."""

    def __init__(self, network: Network, endpoints: tuple[str, ...], options: Options, names: frozenset[str]) -> None:
        self._network = network
        network._ports[self] = None
        self._host = host.get()
        #: What this port is called besides itself.
        self._names = names | {self._host} - {""}
        self._endpoints = endpoints
        self._options = options
        #: The way to each peer.
        self._ways: dict[bytes, _Way] = {}
        #: What comes, by the time when it arrives.
        self._inbox: list[tuple[float, int, _Way | None, Frames | Connected | Lost]] = []
        self._lost: Lost | None = None
        #: Set at first: who waits for the first time is to look.
        self._news = trio.Event()
        self._news.set()
        self._recalled = False
        self._mute = False
        self._closed = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it is bound, or what it has dialled."""
        return self._endpoints

    @property
    def name(self) -> str:
        """The host that it stands on; without one, its first endpoint."""
        return self._host or self._endpoints[0]

    def receive(self) -> Sequence[Received]:
        """Take what has come; see `Port.receive`."""
        self._check()
        received: list[Received] = []
        inbox = self._inbox
        now = trio.current_time()
        while inbox and inbox[0][0] <= now and len(received) < BATCH:
            _, _, way, what = heapq.heappop(inbox)
            if way is None or way.taken(what):
                received.append((way.name if way else DIALLED, what))
        return received

    def settled(self) -> bool:
        """Tell whether nothing is left to receive; see `Port.settled`."""
        self._check()
        return not self._inbox or self._inbox[0][0] > trio.current_time()

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Hand a message over; see `Port.send`."""
        self._check()
        if not frames:
            raise ValueError("a message has at least one frame")
        if self._mute:
            return True
        way = self._ways.get(peer)
        if way is None or not way.link.alive:
            raise PeerGone(self._lost.reason if self._lost and peer == DIALLED else f"no peer {peer.hex()!r}")
        if way.pending >= CAPACITY or not way.link.greeted:
            way.refused = True
            return False
        self._dispatch(way, [frame if isinstance(frame, bytes) else bytes(frame) for frame in frames])
        return True

    def _dispatch(self, way: _Way, frames: Frames) -> None:
        if max(map(len, frames)) > way.target._options.max_frame:
            way.link.end("connection lost: a frame was too large")
        elif way.silent is None:
            network = self._network
            hook = network.hook
            for delay in network._ask(hook, self, way.target, frames) if hook else (0,):
                way.deliver(list(frames), delay)

    async def wait(self) -> bool:
        """Wait until there may be news; see `Port.wait`."""
        while True:
            with trio.CancelScope(deadline=self._inbox[0][0] if self._inbox else math.inf):
                await self._news.wait()
            self._check()
            self._news = trio.Event()
            recalled, self._recalled = self._recalled, False
            if not self._mute:
                return True
            if recalled:
                return False

    def recall(self) -> None:
        """Have a `wait` return; see `Port.recall`."""
        self._recalled = True
        self._news.set()

    def close(self) -> None:
        """Let go of everything; see `Port.close`."""
        if not self._closed:
            self._closed = True
            self._leave()

    def _arrive(self, due: float, way: _Way | None, what: Frames | Connected | Lost) -> None:
        if not (self._mute or self._closed):
            heapq.heappush(self._inbox, (due, next(self._network._serial), way, what))
            self._news.set()

    def _unarrive(self, what: Lost) -> None:
        self._inbox = [each for each in self._inbox if each[3] is not what]
        heapq.heapify(self._inbox)

    def _leave(self) -> None:
        self._inbox.clear()
        self._network._forget(self)
        for way in list(self._ways.values()):
            way.link.end("connection lost")
        self._ways.clear()
        self._news.set()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this port was closed")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "killed" if self._mute else "open"
        return f"<MemoryPort {' '.join(self._endpoints)} {state}>"

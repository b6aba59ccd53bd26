"""A port with somebody at it, for the checks of transports: an engine without a protocol."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import attrs
import trio

from ..._nursery import open_plain_nursery, raise_plain
from ..._transport import DIALLED, Connected, Frame, Lost, Options, PeerGone, Port, Received, attend

OPTIONS = Options()


class End:
    """Drives a port as the engine does, keeps what came, and offers again what was refused."""

    def __init__(self, port: Port) -> None:
        self.port = port
        #: What came and was not asked for yet.
        self.received: deque[Received] = deque()
        #: How often a peer's queue was full, and how often `turn` was called.
        self.refusals = 0
        self.turns = 0
        #: Those that were gone when something was to be sent to them.
        self.gone: list[bytes] = []
        #: Whether messages are sent back rather than kept.
        self.echo = False
        #: Whether the port is read at all.
        self.reading = True
        self._queues: defaultdict[bytes, deque[Sequence[Frame]]] = defaultdict(deque)
        self._news = trio.Event()

    def post(self, peer: bytes, *frames: Frame) -> None:
        """Queue a message, send what can be sent."""
        self._queues[peer].append(frames)
        self.turn()

    def turn(self) -> None:
        """Receive, process, send, until there is nothing to receive after the last send."""
        self.turns += 1
        while True:
            if self.reading:
                self._take(self.port.receive())
            self._flush()
            if not self.reading or self.port.settled():
                break

    def read(self) -> None:
        """Read again, after `reading` was false."""
        self.reading = True
        self.turn()

    def _take(self, batch: Sequence[Received]) -> None:
        for peer, what in batch:
            if self.echo and isinstance(what, list):
                self._queues[peer].append(what)
            else:
                self.received.append((peer, what))
                self._news.set()

    def _flush(self) -> None:
        for peer, queue in self._queues.items():
            try:
                while queue and self.port.send(peer, queue[0]):
                    queue.popleft()
            except PeerGone:
                self.gone.append(peer)
                queue.clear()
            self.refusals += bool(queue)

    @property
    def unsent(self) -> int:
        """Messages that wait because a peer's queue is full."""
        return sum(map(len, self._queues.values()))

    async def run(self) -> None:
        """Take turns at the port's news until it is closed."""
        with suppress(trio.ClosedResourceError):
            await attend(self.port, self.turn)

    async def arrival(self) -> None:
        """Wait until something is there that has come."""
        while not self.received:
            self._news = trio.Event()
            await self._news.wait()

    async def get(self) -> Received:
        """Wait for the next thing that comes."""
        await self.arrival()
        return self.received.popleft()

    async def get_message(self) -> tuple[bytes, list[bytes]]:
        """Wait for the next thing, which is a message; return whose, and its frames as bytes."""
        peer, what = await self.get()
        assert isinstance(what, list), what
        return peer, [bytes(frame) for frame in what]

    async def get_frames(self) -> list[bytes]:
        """Wait for the next thing, which is a message; return its frames as bytes."""
        _, frames = await self.get_message()
        return frames

    async def get_lost(self) -> bytes:
        """Wait for the next thing, which is a loss; return whose."""
        peer, what = await self.get()
        assert isinstance(what, Lost), what
        return peer

    async def get_connected(self) -> None:
        """Wait for the next thing, which is that the connection stands."""
        assert await self.get() == (DIALLED, Connected())


@asynccontextmanager
async def open_check_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery of which one plain exception comes out, though several tasks fail before they are cancelled.

    What a check says of a port goes before what the port itself raises; the others become notes.
    """
    try:
        async with open_plain_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        _, failures = group.split(trio.Cancelled)
        if not isinstance(failures, ExceptionGroup):
            # Nobody failed, or somebody wants the program to end.
            raise
        first, *others = sorted(_leaves(failures), key=lambda error: not isinstance(error, AssertionError))
        for other in others:
            first.add_note(f"At the same time: {other!r}")
        raise_plain(first)


def _leaves(error: Exception) -> Iterator[Exception]:
    """Give what is in a group and the groups in it, in order."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


@asynccontextmanager
async def running(*ends: End) -> AsyncIterator[trio.Nursery]:
    """Run the ends' ports; close them afterwards."""
    try:
        async with open_check_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.run)
            yield nursery
            nursery.cancel_scope.cancel()
    finally:
        for end in ends:
            end.port.close()


class Listen(Protocol):
    """Bind one port to all the endpoints.  Raises EndpointError."""

    def __call__(self, *endpoints: str, options: Options) -> Port: ...


@attrs.frozen(kw_only=True)
class Transport:
    """What the checks must know of a transport.

        Transport(listen=listen, dial=dial, endpoint=lambda: "tcp://127.0.0.1:*", nobody="tcp://127.0.0.1:1")

    Attributes:
        listen: binds a port: `listen(*endpoints, options=Options(...))`.
        dial: opens a port to one endpoint: `dial(endpoint, Options(...))`.
        endpoint: gives an endpoint that can be bound, each time another one; the same one if it has a wildcard, for
            which the transport finds an address that is free.
        nobody: an endpoint where nobody listens; None if the transport waits until somebody does.
        limits_frames: whether `Options.max_frame` is held.
    """

    listen: Listen
    dial: Callable[[str, Options], Port]
    endpoint: Callable[[], str]
    nobody: str | None = None
    limits_frames: bool = True

    def bind(self, *, endpoints: int = 1, options: Options = OPTIONS) -> End:
        """Bind an end to so many endpoints."""
        return End(self.listen(*(self.endpoint() for _ in range(endpoints)), options=options))

    def call(self, endpoint: str, options: Options = OPTIONS) -> End:
        """Dial an endpoint."""
        return End(self.dial(endpoint, options))

    @asynccontextmanager
    async def pair(self, options: Options = OPTIONS) -> AsyncIterator[tuple[End, End, bytes]]:
        """Run a bound and a dialled end that know each other; the third is what the dialled one is called."""
        bound = self.bind(options=options)
        dialled = self.call(bound.port.endpoints[0], options)
        async with running(bound, dialled):
            yield bound, dialled, await greet(bound, dialled)


async def greet(bound: End, dialled: End) -> bytes:
    """Let a bound end hear of a dialled one; return what the dialled one is called there."""
    await dialled.get_connected()
    dialled.post(DIALLED, b"hello")
    peer, frames = await bound.get_message()
    assert frames == [b"hello"]
    return peer

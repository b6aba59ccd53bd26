"""A port with somebody at it, for the tests of transports: an engine without a protocol."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from zmdp_trio._transport import DIALLED, Connected, Frame, Lost, Options, PeerGone, Port, Received, dial, listen

OPTIONS = Options()


class End:
    """Drives a port as the engine does, keeps what came, and offers again what was refused."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.received: deque[Received] = deque()
        self.refusals = 0
        self.turns = 0
        self.gone: list[bytes] = []
        self.echo = False
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
            self._flush()
            batch = self.port.receive() if self.reading else ()
            if not batch:
                break
            self._take(batch)

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
        return sum(map(len, self._queues.values()))

    async def run(self) -> None:
        with suppress(trio.ClosedResourceError):  # some tests close a port under its task
            await self.port.run(self.turn)

    async def get(self) -> Received:
        """The next thing that came."""
        while not self.received:
            self._news = trio.Event()
            await self._news.wait()
        return self.received.popleft()

    async def get_frames(self) -> list[bytes]:
        """The next thing, which is a message; its frames as bytes."""
        _, what = await self.get()
        assert isinstance(what, list), what
        return [bytes(frame) for frame in what]

    async def get_lost(self) -> bytes:
        """The next thing, which is a loss; whose."""
        peer, what = await self.get()
        assert isinstance(what, Lost), what
        return peer


@asynccontextmanager
async def running(*ends: End) -> AsyncIterator[trio.Nursery]:
    """Run the ends' ports; close them afterwards."""
    try:
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.run)
            yield nursery
            nursery.cancel_scope.cancel()
    finally:
        for end in ends:
            end.port.close()


def bind(*endpoints: str, options: Options = OPTIONS) -> End:
    """A listening end."""
    return End(listen(*endpoints, options=options))


def call(endpoint: str, options: Options = OPTIONS) -> End:
    """A dialling end."""
    return End(dial(endpoint, options))


async def connected(end: End) -> None:
    """Wait until a dialled end is."""
    assert await end.get() == (DIALLED, Connected())

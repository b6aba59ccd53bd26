"""Peers that speak no protocol of ours: frames over a port of the in-memory network."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from zmdp_trio._transport import DIALLED, Connected, Lost, Options, Port, attend, dial, listen
from zmdp_trio._wire.frames import Frames


class RawPeer:
    """One port; what has come waits in `received`, and of whom nothing comes any more in `lost`."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.endpoint = port.endpoints[0]
        self.connected = trio.Event()
        self.received: deque[tuple[bytes, Frames]] = deque()
        self.lost: list[bytes] = []
        self.reading = True
        self._news = trio.Event()

    async def run(self) -> None:
        await attend(self.port, self._take_news)

    def _take_news(self) -> None:
        while self.reading and (received := self.port.receive()):
            for peer, what in received:
                if isinstance(what, Connected):
                    self.connected.set()
                elif isinstance(what, Lost):
                    self.lost.append(peer)
                else:
                    self.received.append((peer, what))
        self._news.set()
        self._news = trio.Event()

    async def next(self) -> tuple[bytes, list[bytes]]:
        """Wait for a message; return whose it is, and the frames."""
        with trio.fail_after(600):
            while not self.received:
                await self._news.wait()
        peer, frames = self.received.popleft()
        return peer, [bytes(frame) for frame in frames]

    async def read(self) -> list[bytes]:
        return (await self.next())[1]

    def send(self, *frames: bytes, to: bytes = DIALLED) -> None:
        assert self.port.send(to, frames)

    def close(self) -> None:
        self.port.close()


@asynccontextmanager
async def _running(port: Port) -> AsyncIterator[RawPeer]:
    peer = RawPeer(port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_closed, peer.run)
        yield peer
        nursery.cancel_scope.cancel()
    peer.close()


async def _until_closed(run: Callable[[], object]) -> None:
    try:
        await run()  # type: ignore[misc]
    except trio.ClosedResourceError:
        pass


@asynccontextmanager
async def connect(endpoint: str, options: Options | None = None) -> AsyncIterator[RawPeer]:
    """Dial an endpoint, as a REQ or a DEALER socket does."""
    async with _running(dial(endpoint, options or Options())) as peer:
        await peer.connected.wait()
        yield peer


@asynccontextmanager
async def bind(endpoint: str = "memory://*") -> AsyncIterator[RawPeer]:
    """Bind an endpoint, as a REP or a ROUTER socket does."""
    async with _running(listen(endpoint, options=Options())) as peer:
        yield peer


def req(*body: bytes, names: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Return the frames of a REQ socket's message, as they are on the wire."""
    return (*names, b"", *body)

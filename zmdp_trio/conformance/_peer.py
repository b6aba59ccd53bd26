"""Raw peers of a broker: they say what they are told to, right or wrong, and note all that they hear."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from .._transport import DIALLED, Connected, Lost, Options, PeerGone, attend, dial
from .._wire.frames import Frames
from .._wire.majordomo import Dialect, Route
from .._wire.majordomo.messages import Disconnect, Heartbeat, Message, Partial, Ready, Request
from .._wire.majordomo.messages import Final as FinalReply
from ._frames import describe, understand
from ._verdict import NotAsSpecified, Unreachable

#: Seconds in which a broker answers what it can answer at once.
PATIENCE: Final = 5.0


@attrs.frozen
class Heard:
    """A message that came: when, its frames, and what they mean, None if that is not clear."""

    at: float
    frames: list[bytes]
    message: Message | None


class Peer:
    """One DEALER socket.

    Attributes:
        says: what the broker is told.
        hears: what the broker tells.
        dialect: how both are written.
        heard: all that came.
        said_at: when something was last sent.
    """

    says: Route
    hears: Route

    def __init__(self, endpoint: str, options: Options, dialect: Dialect, noticed: Callable[[Heard], None]) -> None:
        self._port = dial(endpoint, options)
        self.dialect = dialect
        self.heard: list[Heard] = []
        self.said_at = trio.current_time()
        self._noticed = noticed
        self._outbox: deque[Frames] = deque()
        self._inbox: deque[Heard] = deque()
        self._news = trio.Event()
        self._connected = trio.Event()
        self._lost: str | None = None

    async def run(self) -> None:
        """Move messages until cancelled; then let go of the socket."""
        try:
            await attend(self._port, self._turn)
        finally:
            self._port.close()

    async def connected(self) -> None:
        """Wait until the connection stands.

        Raises:
            Unreachable: it can't be had.
        """
        await self._connected.wait()
        if self._lost is not None:
            raise Unreachable(self._lost)

    # ---- speaking

    def say(self, message: Message) -> None:
        """Send a message as its dialect has it."""
        self.send(self.dialect.encode(self.says, message))

    def send(self, frames: Frames) -> None:
        """Send frames as they are."""
        self.said_at = trio.current_time()
        self._outbox.append(frames)
        self._turn()

    # ---- hearing

    async def hear(self, within: float = PATIENCE) -> Heard | None:
        """Wait for the next message; None if there was none in that time."""
        with trio.move_on_after(within):
            while not self._inbox:
                self._news = trio.Event()
                await self._news.wait()
        return self._inbox.popleft() if self._inbox else None

    async def expect(self, wanted: str, *kinds: type[Message]) -> Heard:
        """Wait for the next message, which has to be of one of these kinds.

        Args:
            wanted: what the message is called in the report.
            kinds: types of messages; none for any at all.

        Raises:
            NotAsSpecified: it is something else, or there is none.
        """
        heard = await self.hear()
        if heard is None:
            raise NotAsSpecified(f"nothing within {PATIENCE:g} s instead of {wanted}{self._why()}")
        if kinds and not isinstance(heard.message, kinds):
            raise NotAsSpecified(f"{describe(heard.frames)} instead of {wanted}")
        return heard

    async def hear_nothing(self, seconds: float, when: str) -> None:
        """Wait, and take offence at any message.

        Raises:
            NotAsSpecified: one came, or the connection was lost.
        """
        heard = await self.hear(within=seconds)
        if heard is not None:
            raise NotAsSpecified(f"{describe(heard.frames)} {when}")
        if self._lost:
            raise NotAsSpecified(self._lost)

    def forget(self) -> None:
        """Pass over what has come so far."""
        self._inbox.clear()

    def _why(self) -> str:
        return f": {self._lost}" if self._lost else ""

    # ---- the socket

    def _turn(self) -> None:
        busy = True
        while busy:
            received = self._port.receive()
            for _, what in received:
                self._take(what)
            busy = self._flush() or bool(received)

    def _take(self, what: Frames | Connected | Lost) -> None:
        if isinstance(what, list):
            frames = [bytes(frame) for frame in what]
            heard = Heard(trio.current_time(), frames, understand(self.dialect, self.hears, frames))
            self.heard.append(heard)
            self._note(heard)
            self._noticed(heard)
            return
        if isinstance(what, Lost):
            self._lost = what.reason
        self._connected.set()

    def _note(self, heard: Heard) -> None:
        self._inbox.append(heard)
        self._news.set()

    def _flush(self) -> bool:
        sent = False
        try:
            while self._outbox and self._port.send(DIALLED, self._outbox[0]):
                self._outbox.popleft()
                sent = True
        except PeerGone:
            self._outbox.clear()
        return sent


class Client(Peer):
    """A client of a service."""

    says = Route.CLIENT_TO_BROKER
    hears = Route.BROKER_TO_CLIENT

    def request(self, service: str, *body: bytes) -> None:
        """Send a request."""
        self.say(Request(service=service, body=list(body)))

    async def reply(self) -> list[bytes]:
        """Return the body of the final reply, which has to be the next message."""
        return _body(await self.expect("the final reply", FinalReply))

    async def partial(self) -> list[bytes]:
        """Return the body of the partial reply, which has to be the next message."""
        return _body(await self.expect("a partial reply", Partial))


class Worker(Peer):
    """A worker.

    Attributes:
        beats: the HEARTBEATs that came; `hear` passes over them.
        silent: whether it has stopped to send its own.
        left: whether either side has sent DISCONNECT.
    """

    says = Route.WORKER_TO_BROKER
    hears = Route.BROKER_TO_WORKER

    def __init__(self, endpoint: str, options: Options, dialect: Dialect, noticed: Callable[[Heard], None]) -> None:
        super().__init__(endpoint, options, dialect, noticed)
        self.beats: list[Heard] = []
        self.silent = False
        self.left = False

    async def run_beating(self, interval: float) -> None:
        """Send a HEARTBEAT wherever nothing else was sent for an interval."""
        while not (self.left or self.silent):
            if trio.current_time() >= self.said_at + interval:
                self.say(Heartbeat())
            await trio.sleep_until(self.said_at + interval)

    def ready(self, service: str) -> None:
        """Register."""
        self.say(Ready(service))

    def leave(self) -> None:
        """Send DISCONNECT."""
        self.say(Disconnect())
        self.left = True

    async def request(self) -> Request:
        """Return the request, which has to be the next message but for heartbeats."""
        message = (await self.expect("a REQUEST", Request)).message
        assert isinstance(message, Request)
        return message

    def reply(self, request: Request, *body: bytes) -> None:
        """Send the final reply."""
        self.say(FinalReply(client=request.client, body=list(body)))

    def reply_partly(self, request: Request, *body: bytes) -> None:
        """Send a partial reply."""
        self.say(Partial(client=request.client, body=list(body)))

    async def serve(self) -> None:
        """Answer each request with its own body."""
        while True:
            request = await self.request()
            self.reply(request, *map(bytes, request.body))

    async def hear_nothing_at_all(self, seconds: float, when: str) -> None:
        """Wait, and take offence at any message, also at HEARTBEATs since the DISCONNECT or the last `forget`.

        Raises:
            NotAsSpecified: one came.
        """
        await self.hear_nothing(seconds, when)
        if self.beats:
            raise NotAsSpecified(f"{describe(self.beats[0].frames)} {when}")

    def forget(self) -> None:
        super().forget()
        self.beats.clear()

    def _note(self, heard: Heard) -> None:
        if isinstance(heard.message, Heartbeat):
            self.beats.append(heard)
            return
        if isinstance(heard.message, Disconnect):
            self.left = True
            self.beats.clear()
        super()._note(heard)


def _body(heard: Heard) -> list[bytes]:
    message = heard.message
    assert isinstance(message, Partial | FinalReply)
    return [bytes(frame) for frame in message.body]


def body_of(request: Request) -> Sequence[bytes]:
    """Return the body of a request as bytes."""
    return [bytes(frame) for frame in request.body]

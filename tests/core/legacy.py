"""Peers of older dialects on a stage: they say what the test has them say, in frames of their dialect."""

from __future__ import annotations

from typing import Any

from stage import BROKER, Stage

from zmdp_trio._wire.majordomo import Dialect, Route
from zmdp_trio._wire.majordomo import messages as m

#: As PIGATO makes them.
UUIDS = [f"00000000-0000-4000-8000-{i:012d}".encode() for i in range(100)]


class Legacy:
    """A client or a worker of an older dialect."""

    def __init__(self, stage: Stage, dialect: Dialect, *, is_worker: bool, identity: bytes = b"") -> None:
        self._stage = stage
        self.dialect = dialect
        self._to = Route.WORKER_TO_BROKER if is_worker else Route.CLIENT_TO_BROKER
        self._from = Route.BROKER_TO_WORKER if is_worker else Route.BROKER_TO_CLIENT
        self._inbox: list[m.Message] = []
        self.peer = stage.attach(self)  # type: ignore[arg-type]
        if identity:
            stage.ends[identity] = stage.ends.pop(self.peer)
            stage.endpoints[identity] = stage.endpoints.pop(self.peer)
            self.peer = identity

    def say(self, *messages: m.Message) -> None:
        """Send messages, and let everybody do what follows from them."""
        for message in messages:
            self.say_frames(*self.dialect.encode(self._to, message))

    def say_frames(self, *frames: Any) -> None:
        """Send one message of these frames."""
        self._stage.brokers[BROKER].receive(self.peer, list(frames), now=self._stage.now)
        self._stage.flush()

    def deliver(self, frames: list[Any]) -> None:
        """Take a message; it must be one of the dialect."""
        self._inbox.append(self.dialect.decode(self._from, frames))

    def take(self, kind: type[m.Message] | tuple[type[m.Message], ...] = m.Message) -> list[Any]:
        """Return the messages of a kind that have come, and forget all that have; plain heartbeats don't count."""
        inbox, self._inbox = self._inbox, []
        return [each for each in inbox if isinstance(each, kind) and each != m.Heartbeat()]

    def vanish(self) -> None:
        """Lose the connection."""
        self._stage.cut(self.peer)

    # ---- shorthands

    def ask(self, service: str = "echo", *body: bytes, id: bytes = b"", options: bytes = b"") -> None:
        """Send a request."""
        if self.dialect.name == "pigato":
            id = id or UUIDS[0]
        self.say(m.Request(body or (b'"?"',), service=service, id=id or b"r1", options=options))

    def ready(self, service: str = "echo", *, concurrency: int = 1) -> None:
        """Offer a service, as a worker of the dialect does."""
        self.say(m.Ready(service))
        if self.dialect.concurrent:
            self.say(m.Heartbeat(options=b'{"concurrency":%d}' % concurrency))
        elif self.dialect.json:
            self.say(m.Heartbeat())

    def reply(self, request: m.Request, *body: bytes) -> None:
        """Send the final reply."""
        self.say(m.Final(body, id=request.id, client=request.client))

    def partial(self, request: m.Request, *body: bytes) -> None:
        """Send a partial reply."""
        self.say(m.Partial(body, id=request.id, client=request.client))

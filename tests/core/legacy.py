"""Peers of older dialects on a stage: they say what the test has them say, in frames of their dialect."""

from __future__ import annotations

from typing import Any

import msgspec
from stage import BROKER, Stage, check_counters

from zmdp_trio._core.broker.legacy import LegacyClient, LegacyWorker
from zmdp_trio._wire.majordomo import DIALECTS, OMDP, PIGATO, Dialect, Route
from zmdp_trio._wire.majordomo import messages as m

NUMBERED = [OMDP, PIGATO]
MDP = [each for each in DIALECTS.values() if each not in NUMBERED]
ALL = [*MDP, *NUMBERED]

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
        #: Plain heartbeats among what was taken.
        self.beats = 0
        #: It does not care what it is told.
        self.deaf = False
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
        if not self.deaf:
            self._inbox.append(self.dialect.decode(self._from, frames))

    def take(self, kind: type[m.Message] | tuple[type[m.Message], ...] = m.Message) -> list[Any]:
        """Return the messages of a kind that have come, and forget all that have; plain heartbeats don't count."""
        inbox, self._inbox = self._inbox, []
        self.beats += inbox.count(m.Heartbeat())
        return [each for each in inbox if isinstance(each, kind) and each != m.Heartbeat()]

    def vanish(self) -> None:
        """Lose the connection."""
        self._stage.cut(self.peer)

    def come_back(self) -> None:
        """Have a connection again, under the name that this peer chose."""
        self._stage.ends[self.peer] = self  # type: ignore[assignment]

    def beat(self) -> None:
        """Give the sign of life that peers of the dialect give."""
        self.say(m.Heartbeat())

    def stall(self) -> None:
        """Read nothing from now on."""
        self._stage.stall(self.peer)

    def unstall(self) -> None:
        """Read again."""
        self._stage.unstall(self.peer)

    @property
    def session(self) -> Any:
        """What the broker knows of it; None if it is nobody there."""
        return self._stage.broker._peers.get(self.peer)

    # ---- shorthands

    def ask(self, service: str = "echo", *body: bytes, id: bytes = b"", options: bytes = b"") -> None:
        """Send a request."""
        self.say(m.Request(body or (b'"?"',), service=service, id=id or self.id(0), options=options))

    def id(self, n: int) -> bytes:
        """An id of a request, as the dialect's clients choose it."""
        return UUIDS[n] if self.dialect is PIGATO else b"r%d" % n

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

    def fail(self, request: m.Request, error: bytes) -> None:
        """Send an error."""
        self.say(m.Failure(error, id=request.id, client=request.client))

    def partial(self, request: m.Request, *body: bytes) -> None:
        """Send a partial reply."""
        self.say(m.Partial(body, id=request.id, client=request.client))


def live(stage: Stage, seconds: float, *peers: Legacy) -> None:
    """Let time pass in which these peers, and nobody else, give signs of life."""
    until = stage.now + seconds
    while stage.now < until:
        stage.advance(min(2.0, until - stage.now))
        for peer in peers:
            peer.beat()


def error_of(reply: Any) -> Any:
    """The error that a client of any dialect got."""
    if isinstance(reply, m.Failure):
        return msgspec.json.decode(reply.error)
    assert isinstance(reply, m.Final)
    [body] = reply.body
    return msgspec.json.decode(body)["error"]


def code_of(reply: Any) -> str:
    """Its code."""
    code: str = error_of(reply)["code"]
    return code


def is_at_rest(stage: Stage) -> None:
    """Make sure that nobody's request is anywhere, and that what is kept for requests is gone."""
    for speaker in stage.speakers:
        speaker.link.acknowledge()
    stage.flush()
    check_counters(stage.broker)
    assert all(held == (0, 0, 0) for held in stage.held().values())
    assert stage.broker.memory == 0
    for session in stage.broker.sessions():
        link = session.link
        assert not session.requests
        assert not session.held
        assert link.held_bytes == 0
        if isinstance(link, LegacyClient):
            assert not any((link._calls, link._ids, link._found, link.outbox, link._joined_bytes))
        elif isinstance(link, LegacyWorker):
            assert not any((link._held, link._found, link.outbox, link._waiting_bytes))

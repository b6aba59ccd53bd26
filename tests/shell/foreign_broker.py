"""A broker of another kind, as simple as they are in the field, and as trusting; on the in-memory network.

async with open_foreign("mdp/0.2") as broker:
    async with open_client(broker.endpoint, protocol="mdp/0.2") as client:
        await broker.until(m.Request)
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import trio

from zmdp_trio._transport import Lost, Options, PeerGone, attend, listen
from zmdp_trio._wire.majordomo import DIALECTS, Route, is_worker
from zmdp_trio._wire.majordomo import messages as m

HEARTBEAT = 2.5


@attrs.define(eq=False)
class Hand:
    """A worker, as the broker knows it."""

    peer: bytes
    service: str
    concurrency: int
    #: Of whom and what it works on.
    busy: dict[tuple[bytes, bytes], m.Request] = attrs.field(factory=dict)


class ForeignBroker:
    """Queues requests, hands them to the workers that have waited longest, and passes replies back.

    Attributes:
        heard: what came, and from whom.
        deaf: it answers nothing, and passes nothing on.
        answers: what it does with a client's request by itself, instead of having a worker.
    """

    def __init__(self, protocol: str, endpoint: str = "memory://foreign") -> None:
        self.dialect = DIALECTS[protocol]
        self.endpoint = endpoint
        self.heard: list[tuple[bytes, m.Message]] = []
        self.deaf = False
        self.answers: Any = None
        self.port: Any = None
        self.hands: dict[bytes, Hand] = {}
        self.queues: dict[str, deque[tuple[bytes, m.Request]]] = {}
        self.clients: dict[bytes, None] = {}
        self._news = trio.Event()
        self._scope = trio.CancelScope()

    # ---- for tests

    def stop(self) -> None:
        """Be gone, without a word."""
        self._scope.cancel()
        self.port.close()

    def said(self, *kinds: type[m.Message]) -> list[tuple[bytes, Any]]:
        """Return who said what of some kinds."""
        return [each for each in self.heard if isinstance(each[1], kinds)]

    async def until(self, kind: type[m.Message], number: int = 1) -> list[tuple[bytes, Any]]:
        """Wait until so many messages of a kind have come."""
        with trio.fail_after(60):
            while len(self.said(kind)) < number:
                await self._news.wait()
        return self.said(kind)

    def to_client(self, peer: bytes, message: m.Message) -> None:
        self._send(peer, Route.BROKER_TO_CLIENT, message)

    def to_worker(self, peer: bytes, message: m.Message) -> None:
        self._send(peer, Route.BROKER_TO_WORKER, message)

    def reply(self, to: tuple[bytes, m.Request], body: bytes, kind: Any = m.Final) -> None:
        """Answer a client's request."""
        peer, request = to
        self.to_client(peer, kind([body], service=request.service, id=request.id))

    # ---- how it works

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.port = listen(self.endpoint, options=Options(heartbeat=HEARTBEAT))
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat)
                nursery.start_soon(self._serve)
                task_status.started()

    async def _serve(self) -> None:
        with suppress(trio.ClosedResourceError):  # it is stopped between two turns
            await attend(self.port, self._turn)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT)
            for hand in list(self.hands.values()):
                # As the Guide's broker: those that work hear nothing; of OMDP all do.
                if not self.deaf and (self.dialect.numbered or not hand.busy):
                    self.to_worker(hand.peer, m.Heartbeat())

    def _turn(self) -> None:
        while received := self.port.receive():
            for peer, what in received:
                if isinstance(what, Lost):
                    self.hands.pop(peer, None)
                    self.clients.pop(peer, None)
                elif isinstance(what, list):
                    self._read(peer, what)
        self._news.set()
        self._news = trio.Event()

    def _read(self, peer: bytes, frames: list[Any]) -> None:
        from_worker = is_worker(frames)
        message = self.dialect.decode(Route.WORKER_TO_BROKER if from_worker else Route.CLIENT_TO_BROKER, frames)
        self.heard.append((peer, message))
        if self.deaf:
            return
        if from_worker:
            self._from_worker(peer, message)
        else:
            self._from_client(peer, message)

    def _from_client(self, peer: bytes, message: Any) -> None:
        self.clients[peer] = None
        if isinstance(message, m.Request):
            if self.answers is not None:
                self.answers(peer, message)
                return
            self.queues.setdefault(message.service, deque()).append((peer, message))
            self._dispatch(message.service)
        elif message.id:
            for hand in self.hands.values():
                if (peer, message.id) in hand.busy and not self.dialect.acknowledged:
                    self.to_worker(hand.peer, m.Heartbeat(id=message.id, client=peer))
        elif self.dialect.acknowledged:
            self.to_client(peer, m.Heartbeat())

    def _from_worker(self, peer: bytes, message: Any) -> None:
        hand = self.hands.get(peer)
        if isinstance(message, m.Ready):
            assert hand is None, "READY twice"
            hand = self.hands[peer] = Hand(peer, message.service, 100 if self.dialect.concurrent else 1)
            if self.dialect.acknowledged:
                self.to_worker(peer, m.Ready())
        elif hand is None:
            self.to_worker(peer, m.Disconnect())
            return
        elif isinstance(message, m.Disconnect):
            del self.hands[peer]
        elif isinstance(message, m.Heartbeat):
            if self.dialect.acknowledged:
                hand.concurrency = json.loads(bytes(message.options))["concurrency"]
                self.to_worker(peer, m.Heartbeat())
        else:
            self._from_hand(hand, message)
        self._dispatch(hand.service)

    def _from_hand(self, hand: Hand, message: Any) -> None:
        key = message.client, message.id
        if key not in hand.busy:
            # PIGATO's broker takes such a worker for a broken one.
            del self.hands[hand.peer]
            self.to_worker(hand.peer, m.Disconnect())
            return
        request = hand.busy[key]
        if not isinstance(message, m.Partial):
            del hand.busy[key]
        if isinstance(message, m.Reject):
            self.queues[hand.service].append((message.client, request))
            return
        # Behind those that have waited already.
        self.hands[hand.peer] = self.hands.pop(hand.peer)
        if isinstance(message, m.Failure):
            self.to_client(message.client, m.Failure(message.error, id=message.id))
        else:
            self.to_client(message.client, type(message)(message.body, service=request.service, id=message.id))

    def _dispatch(self, service: str) -> None:
        queue = self.queues.get(service)
        while queue:
            free = [
                hand
                for hand in self.hands.values()
                if hand.service == service and (hand.concurrency < 0 or len(hand.busy) < hand.concurrency)
            ]
            if not free:
                return
            client, request = queue.popleft()
            free[0].busy[client, request.id] = request
            self.to_worker(
                free[0].peer,
                m.Request(request.body, service=service, client=client, id=request.id, options=request.options),
            )

    def _send(self, peer: bytes, route: Route, message: m.Message) -> None:
        try:
            self.port.send(peer, self.dialect.encode(route, message))
        except PeerGone:
            pass


@asynccontextmanager
async def open_foreign(protocol: str, endpoint: str = "memory://foreign") -> AsyncIterator[ForeignBroker]:
    """Run a broker for as long as the block runs; cancelled, it is gone without a word."""
    broker = ForeignBroker(protocol, endpoint)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        yield broker
        broker.stop()

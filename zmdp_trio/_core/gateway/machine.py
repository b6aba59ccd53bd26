"""The gateway's machine: what plain REQ clients ask, and the replies, each client's in the order of its requests.

A message becomes an `Exchange`.  The shell is told to start it, or that nobody waits for it any more; it says what the
reply is, and that waits until all earlier ones of its client are there.  A gateway remembers only clients that wait for
something: who is idle costs nothing.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final

from ..._errors import Overloaded, ProtocolError, RequestError, Unavailable
from ..._settings import MIB, Settings
from ..._wire import commands as c
from ..._wire import reqrep
from ..._wire.frames import Frame, Frames
from .. import bodies
from .exchange import Exchange, Fate, ReqClient

#: What an exchange, and a frame of it, count for beside the bytes in them.
EXCHANGE_BYTES: Final = 1024
FRAME_BYTES: Final = 64
#: Connections that are remembered as cut off.
MAX_SHUNNED: Final = 10_000
#: A client with more than this many times the requests that it may have outstanding, all but the first of them refused,
#: is cut off.
PATIENCE: Final = 2
#: Bytes that refusals may take beyond the limit for all that is kept.
REFUSALS: Final = 8 * MIB


class GatewayMachine:
    """All the clients of a gateway."""

    #: Nothing here is a matter of time: the calls' own limits are their client's.
    deadline: Final = math.inf

    def __init__(self, *, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        #: received = those of every fate + those that are held.
        self.received = 0
        self.fates: Counter[Fate] = Counter()
        self.draining = False
        #: Messages that are no requests.
        self.malformed = 0
        #: Clients that were cut off.
        self.cut_off = 0
        #: Bytes that all exchanges count for, and those without a reply.
        self.memory = 0
        self.asked = 0
        self._clients: dict[bytes, ReqClient] = {}
        self._dirty: list[ReqClient] = []
        self._started: list[Exchange] = []
        self._cancelled: list[Exchange] = []
        self._dropped: list[tuple[str, str]] = []
        self._shunned: OrderedDict[bytes, None] = OrderedDict()

    # ---- what the engine tells and asks

    def receive(self, peer: bytes, frames: Frames, *, now: float) -> None:
        """Take a message from a peer."""
        if peer in self._shunned:
            return
        try:
            envelope, body = reqrep.split(frames)
        except ProtocolError as error:
            self.malformed += 1
            self._dropped.append((f"a message of client {peer.hex()}", str(error)))
            return
        client = self._clients.get(peer)
        if client is None:
            client = self._clients[peer] = ReqClient(peer, self._dirty, self._note_sent)
        self._begin(Exchange(client, envelope, body))

    def lost(self, peer: bytes, *, now: float) -> None:
        """A peer's connection is gone: nobody waits for its replies."""
        self._shunned.pop(peer, None)
        client = self._clients.get(peer)
        if client is not None:
            self._forget(client)

    def unreachable(self, peer: bytes, *, now: float) -> None:
        """Nothing can be sent to a peer: it is gone."""
        self.lost(peer, now=now)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due, which nothing ever is."""

    def take_dirty(self) -> list[ReqClient]:
        """Return the clients that there are replies for, and forget them."""
        dirty, self._dirty[:] = self._dirty[:], []
        return dirty

    def take_dropped(self) -> list[tuple[str, str]]:
        """Return who or what was dropped, and why, for a log; and forget it."""
        dropped, self._dropped = self._dropped, []
        return dropped

    # ---- what the shell tells and asks

    @property
    def clients(self) -> int:
        """Connections that wait for something."""
        return len(self._clients)

    @property
    def held(self) -> tuple[int, int]:
        """How many exchanges have no reply, and how many have one that was not sent."""
        running = sum(exchange.running for client in self._clients.values() for exchange in client.held)
        return running, sum(len(client.held) for client in self._clients.values()) - running

    def take_started(self) -> list[Exchange]:
        """Return the exchanges to start, and forget them."""
        started, self._started = self._started, []
        return started

    def take_cancelled(self) -> list[Exchange]:
        """Return the exchanges that nobody waits for any more, and forget them."""
        cancelled, self._cancelled = self._cancelled, []
        return cancelled

    def reply(self, exchange: Exchange, frames: Sequence[Frame]) -> None:
        """The service has replied."""
        self._end(exchange, frames, Fate.REPLIED)

    def fail(self, exchange: Exchange, error: RequestError) -> None:
        """The request has ended without a reply."""
        self._end(exchange, _say(error), Fate.FAILED)

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self.draining = True

    def abandon(self) -> None:
        """Tell every client that waits that it waits in vain."""
        self.drain()
        for client in list(self._clients.values()):
            for exchange in list(client.held):
                self.fail(exchange, Unavailable("the gateway was stopped"))

    # ---- how it works

    def _begin(self, exchange: Exchange) -> None:
        client = exchange.client
        self.received += 1
        self._charge(exchange, EXCHANGE_BYTES + _size(exchange.envelope) + _size(exchange.body))
        self.asked += exchange.cost
        client.add(exchange)
        self._make_room(0)
        if not exchange.running:
            return
        refusal = self._refusal(exchange)
        if refusal is None:
            self._started.append(exchange)
            return
        self._end(exchange, _say(refusal), Fate.REFUSED)
        if len(client.held) > PATIENCE * self.settings.gateway_requests:
            self._cut_off(client, f"{len(client.held):,} requests are outstanding")
        while self.memory > self.settings.gateway_memory + REFUSALS:
            self._cut_off(max(self._clients.values(), key=_bytes_of), "its requests take too much memory")

    def _refusal(self, exchange: Exchange) -> RequestError | None:
        if self.draining:
            return Unavailable("the gateway is stopping")
        if len(exchange.client.held) > self.settings.gateway_requests:
            return Overloaded(f"{self.settings.gateway_requests:,} requests are outstanding")
        if self.asked > self.settings.gateway_memory // 2 or self.memory > self.settings.gateway_memory:
            return Overloaded("too much is outstanding at the gateway")
        return None

    def _end(self, exchange: Exchange, frames: Sequence[Frame], fate: Fate) -> None:
        """Give an exchange its reply, unless it has one, or nobody wants any."""
        if not exchange.running:
            return
        growth = _size(frames) - _size(exchange.body)
        self._make_room(growth)
        if not exchange.running:
            return
        if fate is Fate.REPLIED and growth > 0 and self.memory + growth > self.settings.gateway_memory:
            no_room = Overloaded("the gateway has no room for the reply")
            frames, fate = _say(no_room), Fate.FAILED
        exchange.fate = fate
        exchange.reply = [*exchange.envelope, *frames]
        exchange.body = []
        self.asked -= exchange.cost
        self._charge(exchange, EXCHANGE_BYTES + _size(exchange.reply))
        exchange.client.release(exchange.sender)

    def _make_room(self, size: int) -> None:
        """Cut off clients that do not read, those that let most wait first, until there is room."""
        while self.memory + size > self.settings.gateway_memory:
            blocked = [client for client in self._clients.values() if client.blocked]
            if not blocked:
                return
            self._cut_off(max(blocked, key=_bytes_of), "it does not read its replies")

    def _cut_off(self, client: ReqClient, reason: str) -> None:
        """Forget a client, and ignore its connection from now on."""
        assert client.peer is not None
        self.cut_off += 1
        self._dropped.append((f"client {client.peer.hex()}", reason))
        self._shunned[client.peer] = None
        if len(self._shunned) > MAX_SHUNNED:
            self._shunned.popitem(last=False)
        self._forget(client)

    def _forget(self, client: ReqClient) -> None:
        """Nobody waits for a client's replies any more."""
        assert client.peer is not None
        del self._clients[client.peer]
        for exchange in client.held:
            if exchange.running:
                self.asked -= exchange.cost
                self._cancelled.append(exchange)
            exchange.fate = Fate.CANCELLED
            self._count(exchange)
        client.close()

    def _note_sent(self, exchange: Exchange) -> None:
        """A reply was handed over."""
        client = exchange.client
        del client.held[exchange]
        self._count(exchange)
        if not client.held and client.peer is not None:
            del self._clients[client.peer]

    def _count(self, exchange: Exchange) -> None:
        """An exchange is over."""
        assert exchange.fate is not None
        self.fates[exchange.fate] += 1
        self._charge(exchange, 0)

    def _charge(self, exchange: Exchange, cost: int) -> None:
        """Let an exchange count for so many bytes."""
        self.memory += cost - exchange.cost
        exchange.client.bytes += cost - exchange.cost
        exchange.cost = cost


def _size(frames: Sequence[Frame]) -> int:
    return FRAME_BYTES * len(frames) + sum(map(len, frames))


def _bytes_of(client: ReqClient) -> int:
    return client.bytes


def _say(error: RequestError) -> Frames:
    """Return the reply that stands for an error: REQ has no ids, and no other form for one."""
    return [bodies.error_to_frame(c.Error.of(0, error))]

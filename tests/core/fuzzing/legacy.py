"""The broker's machine, and peers of older dialects beside its own."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import attrs
from golden import MALFORMED, VECTORS, Vector

from zmdp_trio._core.broker.legacy import LegacyClient, LegacyWorker
from zmdp_trio._core.link import Link
from zmdp_trio._wire.majordomo import DIALECTS, PIGATO, Dialect, Route
from zmdp_trio._wire.majordomo import messages as m

from .broker import BrokerTarget
from .target import SERVICES, SETTINGS

ROUTES = (Route.CLIENT_TO_BROKER, Route.WORKER_TO_BROKER)
BODIES = (b"1", b"null", b"undefined", b"", b'{"a":[1,2]}', b"\xff", b"{", b'"' + b"x" * 5000 + b'"', b"[" * 5000)
OPTIONS = (
    *(b"", b"{}", b"null", b"[]", b"{", b'{"timeout":-1}', b'{"timeout":50}', b'{"timeout":1e308}', b'{"retry":1e308}'),
    *(b'{"timeout":%b}' % (b"9" * 400), b'{"retry":%b}' % (b"9" * 400), b'{"retry":true,"timeout":2000}'),
    *(b'{"workerId":"peer-10"}', b'{"workerId":{"a":[]}}', b'{"workerId":"%b"}' % (b"w" * 300), b'{"persist":1}'),
    *(b'{"mine":"%b"}' % (b"x" * 5000), b'{"mine":"%b"}' % (b"x" * 50_000)),
    *(b'{"concurrency":%b}' % each for each in (b"0", b"1", b"5", b"-1", b"1.5", b"9" * 400, b"[]", b"null")),
)
ERRORS = (
    *BODIES,
    *(b'{"code":"NOT_FOUND","message":"gone"}', b'{"code":[],"message":{}}', b'{"code":"INTERNAL","message":null}'),
    *(b'{"code":"INTERNAL","message":"m","details":%b}' % (b"9" * 400), b"9" * 400, b'"%b"' % (b"x" * 200_000)),
)


@attrs.define
class LegacyOne:
    """A peer of an older dialect."""

    dialect: Dialect
    route: Route
    #: Its connection; None while it has none.
    id: bytes | None = None


class LegacyTarget(BrokerTarget):
    """Twenty-four peers of older dialects, and sixteen of our own."""

    name = "legacy"

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._legacy = [LegacyOne(dialect, route) for dialect in DIALECTS.values() for route in ROUTES * 2]
        self._vectors: dict[tuple[Dialect, Route], list[Vector]] = {}
        for vector in (*VECTORS, *MALFORMED):
            self._vectors.setdefault((vector.dialect, vector.route), []).append(vector)
        #: Links whose peers do not read for the time being.
        self._slow: list[Link] = []

    @property
    def tables(self) -> dict[str, int]:
        links = [session.link for session in self._broker.sessions()]
        clients = [link for link in links if isinstance(link, LegacyClient)]
        workers = [link for link in links if isinstance(link, LegacyWorker)]
        return super().tables | {
            "calls": sum(len(client._calls) + len(client._ids) + len(client._found) for client in clients),
            "held": sum(len(worker._held) + len(worker._found) for worker in workers),
            "waiting": sum(len(held.waiting or ()) for worker in workers for held in worker._held.values()),
            "outboxes": sum(len(link.outbox) for link in (*clients, *workers)),
            "farewells": len(self._broker._farewells),
            "refused": len(self._broker._refused),
        }

    def check(self) -> None:
        super().check()
        tables = self.tables
        requests = SETTINGS.broker_sessions * SETTINGS.client_requests
        assert tables["calls"] <= 2 * requests
        assert tables["held"] <= requests
        assert tables["waiting"] * 64 <= SETTINGS.broker_memory
        assert tables["outboxes"] <= 3 * requests
        assert tables["farewells"] <= len(self._legacy)
        assert tables["refused"] <= len(self._legacy)

    def _send(self) -> None:
        if self.random.random() < 0.2:
            super()._send()
            return
        peer = self.random.choice(self._legacy)
        if peer.id is not None and self.random.random() < 0.02:
            self._lose(peer)
        if peer.id is None or peer.id in self._broker._shunned:
            if peer.id is not None:
                self._lose(peer)
            self._connections += 1
            peer.id = self.random.choice((b"\0%d", b"peer-%d")) % self._connections
        self._broker.receive(peer.id, self._frames(peer), now=self.now)

    def _lose(self, peer: LegacyOne) -> None:
        assert peer.id is not None
        self._broker.lost(peer.id, now=self.now)
        peer.id = None

    def _frames(self, peer: LegacyOne) -> list[Any]:
        frames: list[Any]
        kind = self.random.random()
        if kind < 0.1:
            frames = list(self.random.choice(self._vectors[peer.dialect, self.random.choice(list(Route))]).frames)
        elif kind < 0.13:
            frames = list(self.random.choice((*VECTORS, *MALFORMED)).frames)
        else:
            frames = peer.dialect.encode(peer.route, self._message(peer))
        return self.mutator.plain_frames(frames, honest=self.honest)

    def _message(self, peer: LegacyOne) -> m.Message:
        """Return something that the peer may say, about a request that it has, or about none."""
        random = self.random
        session = self._broker._peers.get(peer.id or b"")
        link = session.link if session is not None else None
        if peer.route is Route.CLIENT_TO_BROKER:
            ids = list(link._ids) if isinstance(link, LegacyClient) else []
            if peer.dialect.client_beats and random.random() < 0.3:
                return m.Heartbeat(id=random.choice([b"", *ids]))
            return self._request(peer)
        if not isinstance(link, LegacyWorker) or not link._service:
            return m.Ready(random.choice((*SERVICES, f"s{random.randrange(10**9)}")))
        if random.random() < 0.2:
            return random.choice((m.Heartbeat(options=random.choice(OPTIONS)), m.Disconnect(), m.Ready("a")))
        id = b"%d" % self._id(link._held)
        body = [random.choice(BODIES)] * (1 if peer.dialect.json else random.choice((1, 1, 3)))
        kinds: list[m.Message] = [m.Partial(body, id=id, client=id), m.Final(body, id=id, client=id)]
        kinds += [m.Failure(random.choice(ERRORS), id=id, client=id), m.Reject(id=id, client=id)]
        return random.choice([each for each in kinds if peer.dialect.can_say(peer.route, type(each))])

    def _request(self, peer: LegacyOne) -> m.Request:
        random = self.random
        self._asked += 1
        id = b"00000000-0000-4000-8000-%012d" if peer.dialect is PIGATO else b"%d"
        body = [random.choice(BODIES)] * (1 if peer.dialect.json else random.choice((1, 1, 3)))
        service = random.choice((*SERVICES, *SERVICES, f"s{random.randrange(10**9)}"))
        number = self._asked if random.random() < 0.9 else 7
        return m.Request(body, service=service, id=id % number, options=random.choice(OPTIONS))

    def _flush(self, links: Iterable[Link]) -> None:
        """Send what is ready, but to those who do not read."""
        links = [*links]
        if self._slow and self.random.random() < 0.1:
            slow, self._slow = self._slow, []
            links += slow
        for link in links:
            if len(self._slow) < 20 and self.random.random() < 0.05:
                # It keeps its mark, as with an engine that offers it again.
                self._slow.append(link)
            else:
                super()._flush([link])

    def finish(self) -> None:
        slow, self._slow = self._slow, []
        super()._flush(slow)
        for peer in self._legacy:
            if peer.id is not None:
                self._lose(peer)
        super().finish()

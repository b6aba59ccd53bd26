"""The broker's machine, and its peers."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
from stage import check_counters, session_id

from zmdp_trio._core.broker import BrokerMachine
from zmdp_trio._core.link import Link

from .mistakes import Commands
from .target import EPOCH, LIMITS, SERVICES, SETTINGS, Target


@attrs.define
class Peer:
    """One of the broker's peers."""

    name: str
    is_worker: bool
    #: Its connection; None while it has none.
    id: bytes | None = None


class BrokerTarget(Target):
    """Ten clients and six workers, at one broker."""

    name = "broker"

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._broker = BrokerMachine(name="fuzzed", epoch=EPOCH, settings=SETTINGS)
        self._peers = [Peer(f"peer-{n}", n >= 10) for n in range(16)]
        self._connections = self._asked = 0

    @property
    def machine(self) -> BrokerMachine:
        return self._broker

    @property
    def tables(self) -> dict[str, int]:
        broker = self._broker
        return {
            "sessions": len(broker.sessions()),
            "services": len(broker.services()),
            "jobs": sum(each.queued + each.running + each.cancelling for each in broker.services()),
            "keys": len(broker._keys),
            "memory": broker.memory,
            "claims": len(broker._claims),
            "holdings": len(broker._holdings),
            "awaited": len(broker._awaited),
            "timers": broker.timers,
            "heap": len(broker._timers._heap) + len(broker._timers._old),
        }

    def _send(self) -> None:
        peer = self.random.choice(self._peers)
        if peer.id is not None and self.random.random() < 0.01:
            self._broker.lost(peer.id, now=self.now)
            peer.id = None
        if peer.id is None or (peer.id not in self._broker._peers and self.random.random() < 0.5):
            self._connections += 1
            peer.id = b"connection-%d" % self._connections
        session = self._broker._peers.get(peer.id)
        bodies: list[bytes] = []
        if session is None:
            commands = self._greeting(peer)
        else:
            assert isinstance(session.link, Link)
            commands = [self._batch(session.link)]
            for _ in range(self.random.choice((1, 1, 2, 5))):
                commands.append(self._from_worker(session, bodies) if peer.is_worker else self._from_client(session))
        self._broker.receive(peer.id, self.mutator.frames(commands, bodies, honest=self.honest), now=self.now)

    def _work(self) -> None:
        self._broker.take_dropped()

    def _greeting(self, peer: Peer) -> Commands:
        random = self.random
        session = session_id(peer.name) if random.random() < 0.9 else random.randbytes(16)
        known = self._broker._sessions.get(session)
        received = known.link.sent if known is not None and isinstance(known.link, Link) else 0
        epoch = random.choice((EPOCH, EPOCH, b"", b"other"))
        offers = [[name, random.randint(0, 4)] for name in SERVICES] if peer.is_worker else None
        return [[0, 0, received], [1, 1, session, peer.name, epoch, LIMITS, 2.5, [], offers]]

    def _from_client(self, session: Any) -> list[Any]:
        random = self.random
        kind = random.random()
        if kind < 0.6:
            self._asked += 1
            service = random.choice((*SERVICES, *SERVICES, f"s{random.randrange(10**9)}"))
            body = random.choice((b"", b"hello", b"large" * 500))
            key = random.choice((None, None, "k", f"k{random.randrange(30)}"))
            worker = random.choice((None, None, "peer-10", f"w{random.randrange(10**9)}"))
            retry, headers = random.choice((0, 1, 5)), random.choice((None, {"a": "b"}))
            credit = random.choice((0, 1, 64, 2**48))
            left = self._left()
            return [
                4,
                self._asked,
                service,
                0,
                body,
                credit,
                1000 * credit,
                left,
                left,
                headers,
                retry,
                key,
                worker,
                "",
            ]
        id = self._id(session.requests)
        if kind < 0.75:
            return [8, id]
        if kind < 0.85:
            return [9, id, random.choice((0, 1, 2**48)), random.choice((0, 100, 2**48)), self._left()]
        if kind < 0.95:
            self._asked += 1
            claimed = random.choice(
                [call for caller, call in self._broker._holdings if caller == session.digest] or [7]
            )
            key = random.choice((None, None, "k"))
            return [15, claimed, random.choice(SERVICES), random.choice((None, 0, 3)), 5, 500, self._left(), key]
        return [11, [[id, self._left()], [self._id(session.requests), None]]]

    def _from_worker(self, session: Any, bodies: list[bytes]) -> list[Any]:
        random = self.random
        id = self._id(session.held)
        kind = random.random()
        if kind < 0.3:
            bodies.append(bytes(9000))
            return [5, id, 1, None]
        if kind < 0.65:
            return [6, id, 1, random.choice((b"", b"reply", bytes(5000)))]
        if kind < 0.75:
            return [7, id, "INTERNAL", "", "no", b""]
        if kind < 0.85:
            return [10, id]
        if kind < 0.95:
            name = random.choice((*SERVICES, f"s{random.randrange(10**9)}"))
            return [3, name, random.choice((0, 1, 4, 2**48))]
        if kind < 0.98:
            return [16, [self._holding() for _ in range(random.choice((1, 20)))]]
        return random.choice(([11, [[id]]], [11, []], [12]))

    def _holding(self) -> list[Any]:
        random = self.random
        clients = [session for session in self._broker.sessions() if not session.is_worker]
        caller = random.choice(clients).digest if clients and random.random() < 0.9 else random.randbytes(16)
        call = self._asked + random.randint(-5, 5) if random.random() < 0.5 else 7
        key = random.choice((None, None, "k", f"k{random.randrange(10**9)}"))
        return [caller, max(call, 0), random.choice(SERVICES), key, [0, 5, 1], random.choice((None, 0.0, 1e300))]

    def check(self) -> None:
        check_counters(self._broker)
        tables = self.tables
        assert tables["sessions"] <= SETTINGS.broker_sessions
        assert tables["services"] <= SETTINGS.broker_services + tables["jobs"]
        assert tables["jobs"] <= 1000 + SETTINGS.broker_sessions * SETTINGS.client_requests
        assert tables["memory"] <= SETTINGS.broker_memory

    def finish(self) -> None:
        for peer in self._peers:
            if peer.id is not None:
                self._broker.lost(peer.id, now=self.now)
        for id in list(self._broker._peers):
            self._broker.lost(id, now=self.now)
        self._pass_time(10_000.0)
        self.check()
        self._check_empty()

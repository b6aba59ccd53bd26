"""A crowd of peers around a broker's machine: clients and workers that come, go, do their work, and now and then lie.

crowd = Crowd(random)                   # its choices are all the randomness there is
for _ in range(steps):
    crowd.step()
    crowd.check()
crowd.finish()                          # everybody leaves: nothing is left of them
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final, TypeAlias

import attrs
from books import check_books, check_empty
from crowd_machine import run_crowd
from lies import CLIENT_LIES as CLIENT_LIES
from lies import FORGED, TIMES
from lies import LIES as LIES
from lies import WORKER_LIES as WORKER_LIES
from stage import Speaker, Stage, ask

from zmdp_trio._core.shared import fingerprint
from zmdp_trio._wire import commands as c

CLIENTS: Final = ("anna", "otto", "ute")
WORKERS: Final = ("w1", "w2", "w3")
SERVICES: Final = ("a", "b")
#: What workers offer, and clients ask for, beside them.
WILDCARDS: Final = ("c*", "d@1.0.0", "d@1.1.0")
MATCHED: Final = ("c-1", "c-2", "d@^1")
OFFERS: Final = (*SERVICES, *WILDCARDS)
KEYS: Final = ("k", "l")


@attrs.define
class Held:
    """A request that a worker holds, and the credit for it."""

    service: str
    body: bytes
    messages: int
    bytes: int
    partials: int = 0


class Crowd:
    """The broker, its peers, and what each of them has to expect."""

    def __init__(self, random: Random, **settings: Any) -> None:
        self.random = random
        self.steps = 0
        chosen = {
            "queue_requests": random.choice((3, 100)),
            "client_queue": random.choice((2, 100)),
            "client_requests": random.choice((5, 1000)),
            "resume": random.choice((0.0, 10.0)),
            "broker_sessions": random.choice((5, 100)),
            "broker_services": random.choice((6, 100)),
            "broker_memory": random.choice((20_000, 2**30)),
            "key_limit": 2,
            "outbox": 100_000,
        }
        self.stage = Stage(**chosen | settings)
        #: Ids of requests are never used again, but by who lies.
        self.asked = 100
        #: What each client has asked for and has no outcome of, with the body that its replies must have.
        self.open: dict[tuple[str, int], bytes] = {}
        self.held: dict[str, dict[int, Held]] = {name: {} for name in WORKERS}
        self.leases: dict[str, dict[str, int]] = {name: {} for name in WORKERS}
        #: What workers say that they have of the last broker's requests: its service, and what its replies say.
        self.kept: dict[str, dict[tuple[bytes, int], tuple[str, bytes]]] = {name: {} for name in WORKERS}
        self.clients: dict[str, Speaker] = {}
        self.workers: dict[str, Speaker] = {}
        #: What was done, and what came of it: for those who ask whether a run was worth its time.
        self.seen: Counter[str] = Counter()
        for name in CLIENTS:
            self.client_comes(name)
        for name in WORKERS:
            self.worker_comes(name)

    def step(self, action: Action | None = None) -> None:
        """Let somebody do something."""
        self.steps += 1
        action = action or self.random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        self.seen[action.__name__] += 1
        action(self)
        self.look()

    # ---- who is there

    def somebody_comes(self) -> None:
        if self.random.random() < 0.5:
            self.client_comes(self.random.choice(CLIENTS))
        else:
            self.worker_comes(self.random.choice(WORKERS))

    def client_comes(self, name: str) -> None:
        client = self.clients.get(name)
        if client is None:
            client = self.clients[name] = self.stage.client(name)
        else:
            client.come_back()
        if client.welcome is None or not client.welcome.resumed:
            self.forget(name)

    def worker_comes(self, name: str) -> None:
        self.forget(name)
        offers = [c.Offer(service, self.random.randint(0, 4)) for service in OFFERS if self.random.random() < 0.8]
        if name in self.workers:
            self.workers[name].greeting.offers = offers
            self.workers[name].come_back()
        else:
            self.workers[name] = self.stage.worker(name=name, offers=offers)
        self.leases[name] = {offer.service: offer.slots for offer in offers}

    def somebody_goes(self) -> None:
        name = self.random.choice(CLIENTS + WORKERS)
        peer = self.peer(name)
        if peer is None:
            return
        if self.random.random() < 0.5:
            peer.send(c.Goodbye())
            self.forget(name)
        peer.vanish()
        if name in WORKERS:
            self.forget(name)

    def peer(self, name: str) -> Speaker | None:
        """Return a peer that is connected."""
        peer = self.clients.get(name) or self.workers.get(name)
        return peer if peer is not None and peer.link.opened and not peer.dropped else None

    def forget(self, name: str) -> None:
        """A session is over: nothing more will come of what it had."""
        if name in WORKERS:
            self.held[name] = {}
            self.leases[name] = {}
            self.kept[name] = {}
        else:
            self.open = {key: body for key, body in self.open.items() if key[0] != name}

    # ---- what clients do

    def client_asks(self) -> None:
        random = self.random
        name = random.choice(CLIENTS)
        if self.peer(name) is None:
            return
        key = random.choice((None, None, None, *KEYS))
        fields: dict[str, Any] = {
            "key": key,
            "retry": random.choice((0, 0, 1, 2, c.MAX_RETRY)),
            "worker": random.choice((None, None, None, "w1", "w2")),
            "left": random.choice(TIMES),
            "timeout": random.choice(TIMES),
            "messages": random.randint(0, 3),
            "bytes": random.choice((0, 100, 300, c.MAX_AMOUNT)),
        }
        service = random.choice((*SERVICES, *SERVICES, *MATCHED, "nobody's", f"nobody's-{random.randrange(10**6)}"))
        ids = range(self.asked + 1, self.asked + 1 + random.choice((1, 1, 1, 2, 4)))
        self.asked = ids[-1]
        self.ask(name, *(ask(id, service, self.body(name, id, key), **fields) for id in ids))

    def body(self, name: str, id: int, key: str | None) -> bytes:
        """What a request says, and its replies."""
        return f"{name}:{id}".encode() if key is None else f"key:{key}".encode()

    def ask(self, name: str, *requests: c.Request) -> None:
        for request in requests:
            assert request.body is not None
            self.open.setdefault((name, request.id), bytes(request.body))
        self.clients[name].send(*requests)

    def client_says(self) -> None:
        """Cancel a request, give it credit, or move its deadline."""
        random = self.random
        name = random.choice(CLIENTS)
        client = self.peer(name)
        ids = [id for who, id in self.open if who == name]
        if client is None or not ids:
            return
        id = random.choice(ids)
        left = random.choice(TIMES)
        command = random.choice(
            (
                c.Cancel(id),
                c.Credit(id, 2, 200, left),
                c.Credit(id, c.MAX_AMOUNT, c.MAX_AMOUNT, left),
                c.Heartbeat([c.Held(each, left) for each in ids]),
            )
        )
        if type(command) is c.Cancel:
            del self.open[name, id]
        client.send(command)

    def client_claims(self) -> None:
        """Ask for what was asked of the last broker; mostly a worker has it, or says so."""
        random = self.random
        name = random.choice(CLIENTS)
        if self.peer(name) is None:
            return
        self.asked += 1
        id, service, key = self.asked, random.choice(SERVICES), random.choice((None, None, None, *KEYS))
        body = self.body(name, id, key)
        holder = random.choice(WORKERS)
        announced = random.random() < 0.5
        if announced:
            self.hold(holder, name, id, service, key, body)
        self.open[name, id] = body
        received = random.choice((None, 0, 2))
        self.clients[name].send(c.Claim(id, service, received, 3, 300, random.choice(TIMES), key))
        self.look()
        if not announced and random.random() < 0.8:
            self.hold(holder, name, id, service, key, body)

    def hold(self, holder: str, caller: str, id: int, service: str, key: str | None, body: bytes) -> None:
        """Let a worker say that it has a request of the last broker."""
        worker, digests = (
            self.peer(holder),
            [each.digest for each in self.stage.broker.sessions() if each.name == caller],
        )
        if worker is None or not digests or service not in self.leases[holder]:
            return
        self.kept[holder][digests[0], id] = service, body
        payload = None if key is None else fingerprint(ask(id, service, body))
        ended = self.random.choice((None, None, 0.0, 5.0, math.inf))
        worker.send(c.Holdings([c.Holding(digests[0], id, service, key, payload, ended)]))

    # ---- what workers do

    def worker_replies(self) -> None:
        holding = [name for name in WORKERS if self.held[name] and self.peer(name)]
        if not holding:
            return
        name = self.random.choice(holding)
        self.reply(name, self.random.choice(list(self.held[name])), self.random.randrange(8))

    def reply(self, name: str, id: int, what: int) -> None:
        held, worker = self.held[name][id], self.workers[name]
        if what < 3 and held.messages > 0 and held.bytes > 0:
            held.messages -= 1
            held.bytes -= len(held.body)
            held.partials += 1
            worker.send(c.Partial(id, 0, held.body))
            return
        if what == 3:
            worker.send(c.Heartbeat([c.Held(id)]))
            return
        del self.held[name][id]
        if what == 4 and not held.partials:
            worker.send(c.Reject(id))
        elif what == 5:
            worker.send(c.Error(id, self.random.choice(("INTERNAL", "DEADLINE_EXCEEDED", "nonsense")), "", "no"))
        else:
            worker.send(c.Final(id, 0, held.body))

    def worker_leases(self) -> None:
        name = self.random.choice(WORKERS)
        worker = self.peer(name)
        if worker is not None:
            service, slots = self.random.choice(OFFERS), self.random.randint(0, 4)
            if not self.drained(name):
                self.leases[name][service] = slots
            worker.send(c.Slots(service, slots))

    def drained(self, name: str) -> bool:
        """A worker asked for no more work."""
        [session] = [each for each in self.stage.broker.sessions() if each.name == name]
        return session.draining

    def worker_drains(self) -> None:
        name = self.random.choice(WORKERS)
        worker = self.peer(name)
        if worker is not None:
            self.leases[name] = {}
            worker.send(c.Drain())

    # ---- lies, and time

    def somebody_lies(self) -> None:
        name = self.random.choice(CLIENTS + WORKERS)
        if self.peer(name) is not None:
            lie = self.random.choice((*LIES, *(CLIENT_LIES if name in CLIENTS else WORKER_LIES)))
            self.seen[lie.__name__] += 1
            lie(self, name)

    def speaker(self, name: str) -> Speaker:
        return self.clients.get(name) or self.workers[name]

    def hand_over(self, name: str, frames: list[Any]) -> None:
        """Give the broker a message past all rules."""
        self.stage.broker.receive(self.speaker(name).peer, frames, now=self.stage.now)
        self.stage.flush()

    def time_passes(self) -> None:
        self.stage.advance(self.random.choice((0.0, 0.4, 0.4, 1.0, 5.0)))

    # ---- what comes of it

    def look(self) -> None:
        """Note what has come, and hold it against what may come."""
        for name, worker in self.workers.items():
            for command in worker.take():
                self.worker_gets(name, command)
            if worker.dropped:
                self.forget(name)
                worker.link.close()
        for name, client in self.clients.items():
            for command in client.take((c.Partial, c.Final, c.Error)):
                self.client_gets(name, command)
            if client.dropped:
                self.forget(name)
                client.link.close()
        self.seen["dropped"] += len(self.stage.broker.take_dropped())

    def worker_gets(self, name: str, command: c.Command) -> None:
        held = self.held[name]
        if isinstance(command, c.Request):
            assert command.left is None or command.left > 0, "expired work is not dispatched"
            assert command.id not in held, "sent twice"
            assert command.body is not None
            held[command.id] = Held(command.service, bytes(command.body), command.messages, command.bytes)
            running = sum(each.service == command.service for each in held.values())
            assert running <= self.leases[name].get(command.service, 0), "more than the slots"
        elif isinstance(command, c.Resume):
            assert command.id not in held, "sent twice"
            service, body = self.kept[name].pop((command.caller, command.call))
            held[command.id] = Held(service, body, command.messages, command.bytes, command.received or 0)
            self.seen["Resume"] += 1
        elif isinstance(command, c.Credit) and command.id in held:
            held[command.id].messages += command.messages
            held[command.id].bytes += command.bytes

    def client_gets(self, name: str, command: c.Partial | c.Final | c.Error) -> None:
        self.seen[type(command).__name__] += 1
        body = self.open[name, command.id]  # a KeyError: told twice, or told what another asked
        if isinstance(command, c.Error):
            assert command.message != FORGED.decode()
        else:
            assert command.body is not None
            assert bytes(command.body) == body, "another's reply"
        if not isinstance(command, c.Partial):
            del self.open[name, command.id]

    def check(self) -> None:
        """Hold the broker's books against each other."""
        check_books(self.stage.broker, self.stage.settings)

    # ---- the end

    def finish(self) -> None:
        """When everybody has done their work and left, nothing is left of them."""
        self._finish_work()
        for worker in self.workers.values():
            if worker.link.opened:
                worker.vanish()
        self.stage.advance(3000.0)  # longer than any `retry` can make a request wait for a worker
        for name, client in self.clients.items():
            if not client.link.opened and not client.dropped:
                self.client_comes(name)
        self.look()
        self.check()
        assert not self.open, "a request without an outcome"
        for client in self.clients.values():
            if client.link.opened:
                client.vanish()
        self.stage.advance(60.0)
        check_empty(self.stage.broker)

    def _finish_work(self) -> None:
        for _ in range(10_000):
            working = [name for name in WORKERS if self.held[name] and self.peer(name)]
            if not working:
                return
            for name in working:
                for id in list(self.held[name]):
                    if id in self.held[name] and self.peer(name):
                        self.reply(name, id, 7)
                        self.look()
        raise AssertionError("work without end")


Action: TypeAlias = Callable[[Crowd], None]

#: What can happen, and how often in comparison.
ACTIONS: Final[dict[Action, int]] = {
    Crowd.client_asks: 20,
    Crowd.client_says: 10,
    Crowd.client_claims: 3,
    Crowd.worker_replies: 35,
    Crowd.worker_leases: 5,
    Crowd.worker_drains: 1,
    Crowd.somebody_comes: 6,
    Crowd.somebody_goes: 1,
    Crowd.somebody_lies: 5,
    Crowd.time_passes: 5,
}


def run(seed: int, steps: int, **settings: Any) -> Crowd:
    """Drive a crowd to its end."""
    crowd: Crowd = run_crowd(Crowd(Random(seed), **settings), steps, f"crowd.run({seed}, {steps})")
    return crowd

"""Peers of all dialects around a broker's machine: they come, go, stall, do their work, and now and then lie.

crowd = LegacyCrowd(random)             # its choices are all the randomness there is
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
import msgspec
from books import check_books, check_empty
from crowd_machine import run_crowd
from golden import MALFORMED, VECTORS
from legacy import ALL, Legacy, is_anothers
from stage import Speaker, Stage, ask

from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import PIGATO
from zmdp_trio._wire.majordomo import messages as m

SERVICES: Final = ("a", "b")
#: Peers of older dialects at one time: more would all be turned away, for the most part.
MAX_PEERS: Final = 12
FORGED: Final = b'"forged"'
#: Milliseconds that clients wait; -1 for ever.
TIMEOUTS: Final = (-1, 100, 1_000, 5_000)
OPTIONS: Final = ("retry", "workerId", "persist", "else")


@attrs.define
class Asked:
    """A request of a legacy client, as it sees it."""

    body: bytes
    #: Seconds between replies after which it gives up.
    timeout: float
    heard: float


class Client(Legacy):
    """It knows what it has asked, and takes nothing else."""

    def __init__(self, crowd: LegacyCrowd, *args: Any, **options: Any) -> None:
        super().__init__(*args, is_worker=False, **options)
        self.crowd = crowd
        self.open: dict[bytes, Asked] = {}

    def deliver(self, frames: list[Any]) -> None:
        message = self.dialect.decode(self._from, frames)
        if not isinstance(message, m.Heartbeat):
            self.take_reply(message)

    def take_reply(self, message: Any) -> None:
        assert isinstance(message, m.Partial | m.Final | m.Failure)
        self.crowd.seen[f"client gets {type(message).__name__}"] += 1
        if not self.dialect.numbered:
            self.take_unnumbered(message)
            return
        asked = self.open[message.id]
        now = self._stage.now
        assert now < asked.heard + asked.timeout, "a reply after the time-out kills a Node client"
        asked.heard = now
        if isinstance(message, m.Failure):
            assert msgspec.json.decode(message.error)["code"]
        else:
            assert list(message.body) == [asked.body]
        if not isinstance(message, m.Partial):
            del self.open[message.id]

    def take_unnumbered(self, message: m.Partial | m.Final) -> None:
        """Replies come in any order: the body tells whose it is; an error could be anybody's."""
        bodies = {bytes(frame) for frame in message.body}
        assert len(bodies) == 1
        body = bodies.pop()
        if body.startswith(b'{"error"'):
            self.crowd.seen["client gets an error for a reply"] += 1
            return
        [id] = [id for id, asked in self.open.items() if asked.body == body]
        if not isinstance(message, m.Partial):
            del self.open[id]


class Worker(Legacy):
    """It keeps what it was given until it has replied, or started over."""

    def __init__(self, crowd: LegacyCrowd, *args: Any, **options: Any) -> None:
        super().__init__(*args, is_worker=True, **options)
        self.crowd = crowd
        self.held: list[m.Request] = []
        self.is_ready = False

    def deliver(self, frames: list[Any]) -> None:
        message = self.dialect.decode(self._from, frames)
        if isinstance(message, m.Request):
            self.held.append(message)
            assert self.dialect.concurrent or len(self.held) == 1
        elif isinstance(message, m.Disconnect):
            self.held.clear()
            self.is_ready = False


class LegacyCrowd:
    """The broker, its peers, and what each of them has to expect."""

    def __init__(self, random: Random, **settings: Any) -> None:
        self.random = random
        self.steps = self.asked = self.names = 0
        chosen = {
            "queue_requests": random.choice((3, 100)),
            "client_requests": random.choice((5, 1000)),
            "resume": random.choice((0.0, 10.0)),
            "broker_sessions": random.choice((10, 100)),
            "broker_memory": random.choice((30_000, 2**30)),
            "outbox": random.choice((2_000, 100_000)),
            "legacy_buffer": random.choice((300, 10_000)),
            "legacy_busy": random.choice((0.0, 60.0)),
            "legacy_wait": random.choice((1.0, 60.0)),
            "credit_messages": random.choice((1, 4, 64)),
            "mdp_errors": random.choice((True, False)),
            "max_message": random.choice((500, 100_000)),
        }
        self.stage = Stage(**chosen | settings)
        self.seen: Counter[str] = Counter()
        self.clients: list[Client] = []
        self.workers: list[Worker] = []
        self.ours: list[Speaker] = []
        self.our_worker: Speaker | None = None
        for _ in range(6):
            self.somebody_comes()

    def step(self, action: Action | None = None) -> None:
        """Let somebody do something."""
        self.steps += 1
        action = action or self.random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        self.seen[action.__name__] += 1
        action(self)

    def check(self) -> None:
        """Hold what always holds."""
        check_books(self.stage.broker, self.stage.settings)

    # ---- who is there

    def somebody_comes(self) -> None:
        random = self.random
        if len(self.clients) + len(self.workers) >= MAX_PEERS:
            self.somebody_goes()
        self.names += 1
        dialect = random.choice(ALL)
        side = random.choice((Client, Worker))
        peer = side(self, self.stage, dialect, identity=self.name() if random.random() < 0.5 else self.anonymous())
        if isinstance(peer, Worker):
            self.workers.append(peer)
            self.worker_gets_ready(peer)
        else:
            self.clients.append(peer)

    def name(self) -> bytes:
        return b"peer-%d" % self.names

    def anonymous(self) -> bytes:
        return b"\0%d" % self.names

    def worker_gets_ready(self, worker: Worker) -> None:
        worker.held.clear()
        worker.is_ready = True
        worker.ready(self.random.choice(SERVICES), concurrency=self.random.choice((0, 1, 3, -1)))

    def our_own_come(self) -> None:
        self.names += 1
        if len(self.ours) >= 3:
            self.our_own_go()
        if self.our_worker is None and self.random.random() < 0.5:
            self.our_worker = self.stage.worker(*SERVICES, name=f"ours-{self.names}", slots=2)
        else:
            self.ours.append(self.stage.client(f"ours-{self.names}"))

    def somebody_goes(self) -> None:
        peers: list[Legacy] = [*self.clients, *self.workers]
        if not peers:
            return
        peer = self.random.choice(peers)
        if isinstance(peer, Worker) and self.random.random() < 0.3:
            peer.say(m.Disconnect())
        peer.vanish()
        self.stage.stalled.pop(peer.peer, None)
        if isinstance(peer, Client) and self.random.random() < 0.5:
            if not (peer.dialect.numbered and peer.peer[:1] != b"\0"):
                peer.open.clear()
            self.somebody_returns(peer)
        elif isinstance(peer, Client):
            self.clients.remove(peer)
        else:
            self.workers.remove(peer)  # type: ignore[arg-type]

    def somebody_returns(self, client: Client) -> None:
        self.seen["returns"] += 1
        client.come_back()
        if client.dialect.numbered:
            self.client_asks(client)

    def our_own_go(self) -> None:
        if self.our_worker is not None and self.random.random() < 0.5:
            self.our_worker.vanish()
            self.our_worker = None
        elif self.ours:
            self.ours.pop().vanish()

    def somebody_stalls(self) -> None:
        peers: list[Legacy] = [*self.clients, *self.workers]
        if peers:
            peer = self.random.choice(peers)
            if peer.peer in self.stage.stalled:
                peer.unstall()
            else:
                peer.stall()

    # ---- what clients do

    def client_asks(self, client: Client | None = None) -> None:
        random = self.random
        client = client or (random.choice(self.clients) if self.clients else None)
        if client is None:
            return
        self.asked += 1
        id = b"00000000-0000-4000-8000-%012d" % self.asked if client.dialect is PIGATO else b"%d" % self.asked
        timeout = random.choice(TIMEOUTS) if client.dialect.numbered else -1
        body = b'"%d%b"' % (self.asked, b"x" * random.choice((0, 0, 500)))
        client.open[id] = Asked(body, math.inf if timeout < 0 else timeout / 1000, self.stage.now)
        options: dict[str, Any] = {"timeout": timeout}
        if random.random() < 0.3:
            options[random.choice(OPTIONS)] = random.choice((1, 1, "peer-3"))
        service = random.choice((*SERVICES, *SERVICES, "nobody's"))
        client.ask(service, body, id=id, options=msgspec.json.encode(options))

    def client_beats(self) -> None:
        clients = [client for client in self.clients if client.dialect.client_beats and client.session is not None]
        if clients:
            client = self.random.choice(clients)
            id = self.random.choice([b"", *client.open])
            client.say(m.Heartbeat(id=id))

    def ours_ask(self) -> None:
        random = self.random
        if self.ours:
            self.asked += 1
            credit = {"messages": random.choice((0, 1, 64)), "bytes": random.choice((0, 100, 2**20))}
            fields: dict[str, Any] = {"retry": random.choice((0, 1)), "key": random.choice((None, None, "k"))}
            body = b'"k"' if fields["key"] else b'"%d"' % self.asked
            random.choice(self.ours).send(ask(self.asked, random.choice(SERVICES), body, **credit, **fields))

    def ours_say(self) -> None:
        if self.ours:
            client = self.random.choice(self.ours)
            id = self.random.randint(max(1, self.asked - 20), self.asked + 1)
            client.send(self.random.choice((c.Cancel(id), c.Credit(id, 2, 500), c.Credit(id, 100, 2**20))))

    # ---- what workers do

    def worker_replies(self) -> None:
        workers = [worker for worker in self.workers if worker.held]
        if not workers:
            return
        worker = self.random.choice(workers)
        request = self.random.choice(worker.held)
        body, what = bytes(request.body[0]), self.random.random()
        if what < 0.5 and worker.dialect.partials:
            for _ in range(self.random.choice((1, 1, 5))):
                worker.partial(request, body)
            return
        worker.held.remove(request)
        if what < 0.6 and worker.dialect.failures:
            worker.fail(request, self.random.choice((b'"no"', b'{"code":"NOT_FOUND","message":"no"}', b"{")))
        elif what < 0.7 and worker.dialect is PIGATO:
            worker.say(m.Reject(id=request.id, client=request.client))
        else:
            worker.reply(request, body)

    def worker_beats(self) -> None:
        ready = [worker for worker in self.workers if worker.is_ready]
        if ready:
            worker = self.random.choice(ready)
            options = b'{"concurrency":%d}' % self.random.choice((0, 1, 5)) if worker.dialect is PIGATO else b""
            worker.say(m.Heartbeat(options=options))

    def worker_starts_over(self) -> None:
        if self.workers:
            self.worker_gets_ready(self.random.choice(self.workers))

    def our_worker_replies(self) -> None:
        if self.our_worker is not None:
            for request in self.our_worker.take(c.Request):
                content = self.random.choice((c.Content.JSON, c.Content.BYTES, c.Content.OPAQUE, c.Content.MSGPACK))
                if content is c.Content.MSGPACK:
                    request.body = msgspec.msgpack.encode(msgspec.json.decode(request.body))
                if request.messages and request.bytes and self.random.random() < 0.5:
                    self.our_worker.send(c.Partial(request.id, content, request.body))
                self.our_worker.send(c.Final(request.id, content, request.body))

    # ---- lies, and time

    def worker_lies(self) -> None:
        if not self.workers:
            return
        worker = self.random.choice(self.workers)
        own = {b"%d" % id for id in worker.session.held} if worker.session is not None else set()
        strange = [m.Request([b""], id=b"%d" % n, client=b"%d" % n) for n in range(1, 200)]
        others = [request for each in self.workers if each is not worker for request in each.held]
        theirs = [request for request in (*others, *strange) if not {request.id, request.client} & own]
        worker.reply(self.random.choice(theirs), FORGED)

    def somebody_talks_nonsense(self) -> None:
        peers: list[Legacy] = [*self.clients, *self.workers]
        if not peers:
            return
        peer = self.random.choice(peers)
        # What is right, of a client would be requests that it does not know of.
        vectors = [*MALFORMED, *VECTORS] if isinstance(peer, Worker) else MALFORMED
        mine = (each for each in vectors if (each.dialect, each.route) == (peer.dialect, peer._to))
        chosen = self.random.choice([*(each.frames for each in mine if not is_anothers(each)), [b"\xff"], [b""]])
        if peer.session is not None:
            peer.say_frames(*chosen)

    def time_passes(self) -> None:
        self.stage.advance(self.random.choice((0.01, 0.1, 0.3, 1.0, 3.0, 11.0)))

    def finish(self) -> None:
        """Let everybody leave, and look whether anything is left."""
        for peer in (*self.clients, *self.workers):
            self.stage.stalled.pop(peer.peer, None)
            peer.vanish()
        for speaker in (*self.ours, *([self.our_worker] if self.our_worker is not None else ())):
            speaker.vanish()
        self.stage.advance(100.0)
        self.check()
        check_empty(self.stage.broker)


Action: TypeAlias = "Callable[[LegacyCrowd], None]"

#: What may happen, and how often.
ACTIONS: Final[dict[Action, int]] = {
    LegacyCrowd.somebody_comes: 3,
    LegacyCrowd.our_own_come: 1,
    LegacyCrowd.somebody_goes: 2,
    LegacyCrowd.our_own_go: 1,
    LegacyCrowd.somebody_stalls: 3,
    LegacyCrowd.client_asks: 14,
    LegacyCrowd.client_beats: 5,
    LegacyCrowd.ours_ask: 4,
    LegacyCrowd.ours_say: 4,
    LegacyCrowd.worker_replies: 20,
    LegacyCrowd.worker_beats: 6,
    LegacyCrowd.worker_starts_over: 3,
    LegacyCrowd.our_worker_replies: 4,
    LegacyCrowd.worker_lies: 1,
    LegacyCrowd.somebody_talks_nonsense: 2,
    LegacyCrowd.time_passes: 6,
}


def run(seed: int, steps: int, **settings: Any) -> LegacyCrowd:
    """Drive a crowd to its end."""
    crowd: LegacyCrowd = run_crowd(LegacyCrowd(Random(seed), **settings), steps, f"legacy_crowd.run({seed}, {steps})")
    return crowd

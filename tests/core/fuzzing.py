"""Messages that are nearly right, for the machines: valid ones, so that they get far, then wrong in a place or several.

target = TARGETS["broker"](Random(seed))
for _ in range(messages):
    target.step()           # one message: nothing but a ProtocolError may come of it, which the machine takes care of
target.check()              # counters add up, and every table is within its limit
target.finish()             # everybody leaves: nothing is left
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ClassVar, Final

import attrs
import msgspec
from stage import check_counters, session_id

from zmdp_trio._core.broker import BrokerMachine
from zmdp_trio._core.client import Call, ClientMachine
from zmdp_trio._core.dialler import Dialler
from zmdp_trio._core.link import Link
from zmdp_trio._core.uplink import Identity, State, Uplink
from zmdp_trio._core.worker import Execution, WorkerEvent, WorkerMachine
from zmdp_trio._errors import Code, InvalidArgument, MessageTooLarge
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

EPOCH: Final = b"epoch"
LIMITS: Final = [2**20, 2**14, 255]
SERVICES: Final = ("a", "b", "c")
#: Small, so that a run reaches every limit.
SETTINGS: Final = Settings(
    queue_requests=50,
    client_queue=20,
    client_requests=100,
    outbox=100_000,
    broker_sessions=20,
    broker_services=30,
    broker_memory=100_000,
    key_limit=20,
    key_bytes=10_000,
    max_message=100_000,
    credit_messages=8,
    credit_bytes=10_000,
    connection_credit=100_000,
    resume=1.0,
    key_window=5.0,
    recent_limit=20,
    recent_bytes=20_000,
)


def nested(depth: int) -> list[Any]:
    """Return a list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: What a field may hold instead of what it should.
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, -1, 0, 1, 255, 2**31, 2**48, 2**48 + 1, 2**62, 2**62 + 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.5, 1e-320, 1e300, math.inf, -math.inf, math.nan),
    *("", "a", "x" * 300, "\x00\n", b"", b"x", b"x" * 300, "y" * 50_000, b"y" * 50_000),
    *([], {}, [[]], {"a": 1}, {1: 2}, [None] * 50, [[1, 2.0]] * 200, nested(50), msgspec.msgpack.Ext(5, b"ext")),
)
#: Bytes that begin something large: arrays, maps, texts, and extensions of 2^32-1 items, and what MessagePack forbids.
HEADS: Final = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff",
    b"\xc1",
)

Commands = list[list[Any]]


class Mutator:
    """Makes mistakes in messages."""

    def __init__(self, random: Random) -> None:
        self.random = random
        #: Messages that it made a mistake in.
        self.mistakes = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._structural: tuple[Callable[[Commands, list[bytes]], None], ...] = (
            *(self._change_field,) * 6,
            *(self._drop_field, self._add_field, self._change_tag, self._swap, self._double, self._drop, self._body),
        )
        self._bytewise = (self._flip, self._flip, self._truncate, self._insert, self._head)

    def frames(self, commands: Commands, bodies: list[bytes], *, honest: float) -> list[bytes]:
        """Return the message's frames, as they should be in so many of 1.0 cases."""
        random = self.random
        if random.random() < honest:
            return [zmdp1.MAGIC, self._encode(commands), *bodies]
        self.mistakes += 1
        if random.random() < 0.75:
            for _ in range(random.choice((1, 1, 2, 4))):
                random.choice(self._structural)(commands, bodies)
            frames = [zmdp1.MAGIC, self._encode(commands), *bodies]
            if random.random() < 0.8:
                return frames
        else:
            frames = [zmdp1.MAGIC, self._encode(commands), *bodies]
        which = random.randrange(len(frames)) if random.random() < 0.1 else 1
        frames[which] = random.choice(self._bytewise)(frames[which])
        if random.random() < 0.02:
            random.shuffle(frames)
        return frames

    def _command(self, commands: Commands) -> list[Any]:
        return self.random.choice(commands) if commands else []

    def _change_field(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        if command:
            command[self.random.randrange(len(command))] = self.random.choice(VALUES)

    def _drop_field(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        if command:
            del command[self.random.randrange(len(command))]

    def _add_field(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        command.insert(self.random.randint(0, len(command)), self.random.choice(VALUES))

    def _change_tag(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        if command:
            command[0] = self.random.randint(-1, 16)

    def _swap(self, commands: Commands, bodies: list[bytes]) -> None:
        self.random.shuffle(commands)

    def _double(self, commands: Commands, bodies: list[bytes]) -> None:
        commands.extend([self._command(commands)] * self.random.choice((1, 1, 30)))

    def _drop(self, commands: Commands, bodies: list[bytes]) -> None:
        if commands:
            del commands[self.random.randrange(len(commands))]

    def _body(self, commands: Commands, bodies: list[bytes]) -> None:
        if bodies and self.random.random() < 0.5:
            bodies.pop()
        else:
            bodies.append(self.random.choice((b"", b"z", b"z" * 120_000)))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return b"\x00"
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 3, 10))):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _truncate(self, data: bytes) -> bytes:
        return data[: self.random.randint(0, len(data))]

    def _insert(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + self.random.randbytes(self.random.randint(1, 8)) + data[at:]

    def _head(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + self.random.choice(HEADS) + data[at + 1 :]


class Target(ABC):
    """A machine, and the peers that send to it."""

    name: ClassVar[str]

    def __init__(self, random: Random) -> None:
        self.random = random
        self.mutator = Mutator(random)
        self.now = 0.0
        self.steps = 0
        #: How many of 1.0 messages are as they should be.  Few, and no session gets far; many, and little is tried.
        self.honest = 0.9
        #: Messages that the machine wanted sent.
        self.answers = 0

    def step(self) -> None:
        """Send one message, and do all that is due."""
        self.now += self.random.choice((0.0, 0.0, 0.001))
        if self.steps % 1000 == 0:
            self.honest = self.random.choice((0.2, 0.6, 0.95, 0.99))
        self.steps += 1
        self._send()
        self._work()
        if self.machine.deadline <= self.now:
            self.machine.handle_timer(now=self.now)
        self._flush(self.machine.take_dirty())

    @property
    @abstractmethod
    def machine(self) -> Any:
        """What is tested."""

    @abstractmethod
    def _send(self) -> None:
        """Hand the machine a message."""

    @abstractmethod
    def _work(self) -> None:
        """Do the shell's part."""

    @abstractmethod
    def check(self) -> None:
        """Hold what always holds."""

    @abstractmethod
    def finish(self) -> None:
        """Let everybody leave, and look whether anything is left."""

    @property
    @abstractmethod
    def tables(self) -> dict[str, int]:
        """How much the machine keeps, of each kind."""

    def _flush(self, links: Iterable[Link]) -> None:
        for link in links:
            link.scheduled = False
            while link.peer is not None and link.next_batch() is not None:
                link.batch_sent()
                self.answers += 1

    def _check_empty(self) -> None:
        """Nothing is left but what has a limit of its own, and is kept on purpose."""
        kept = ("heap", "keys", "unacknowledged", "outcomes")
        assert {name: count for name, count in self.tables.items() if count and name not in kept} == {}

    def _pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.machine.deadline <= until:
            self.now = max(self.now, self.machine.deadline)
            self.machine.handle_timer(now=self.now)
            self._flush(self.machine.take_dirty())
        self.now = until

    def _id(self, known: Iterable[int]) -> int:
        """Return the id of a request: mostly of one that there is."""
        ids = list(known)
        return self.random.choice(ids) if ids and self.random.random() < 0.9 else self.random.choice((0, 7, 2**62))

    def _batch(self, link: Link | None) -> list[Any]:
        """Return the BATCH that the machine expects next, and that acknowledges something, or nothing."""
        if link is None:
            return [0, 1, 0, False]
        acknowledged = link.sent if self.random.random() < 0.3 else link.acked
        return [0, link.received + 1, acknowledged, self.random.random() < 0.02]

    def _left(self) -> float | None:
        return self.random.choice((None, None, 0.0, 0.01, 1.0, 1e300, math.inf))


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
            "heap": len(broker._timers._heap),
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
        received = known.link.sent if known is not None else 0
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


class DialledTarget(Target):
    """Two brokers that greet and say what they like, at a worker or a client."""

    def __init__(self, random: Random, machine: Dialler) -> None:
        super().__init__(random)
        self._machine = machine
        for endpoint in ("one", "two"):
            machine.add(endpoint)
        self._ids = 0

    @property
    def machine(self) -> Any:
        return self._machine

    def _send(self) -> None:
        uplink = self.random.choice(list(self._machine.uplinks.values()))
        if uplink.link.peer is not None and self.random.random() < 0.005:
            self._machine.lost(uplink, "cut", now=self.now)
        if uplink.link.peer is None:
            self._machine.connected(uplink, now=self.now)
        bodies: list[bytes] = []
        if uplink.state is State.UP:
            length = self.random.choice((1, 1, 2, 5))
            commands = [self._batch(uplink.link), *(self._command(uplink, bodies) for _ in range(length))]
        else:
            commands = self._welcome(uplink)
        frames = self.mutator.frames(commands, bodies, honest=self.honest)
        self._machine.receive(uplink, frames, now=self.now)
        for broken in self._machine.take_unusable():
            if broken.link.peer is not None:
                self._machine.lost(broken, broken.reason, now=self.now)

    def _welcome(self, uplink: Uplink) -> Commands:
        resumed = bool(uplink.epoch) and self.random.random() < 0.7
        received = uplink.link.sent if resumed else 0
        epoch = uplink.epoch if resumed else self.random.randbytes(4)
        return [[0, 0, received], [2, 1, "broker", epoch, resumed, LIMITS, 2.5, []]]

    @abstractmethod
    def _command(self, uplink: Uplink, bodies: list[bytes]) -> list[Any]:
        """Return a command that a broker may send."""

    def _common(self) -> list[Any]:
        """Return a command that any broker may send to anybody."""
        return self.random.choice(
            ([12], [11, []], [14, "", False], [14, "go", True], [2, 1, "b", b"e", False, LIMITS, 1.0, []])
        )

    def _leave(self) -> None:
        for uplink in self._machine.uplinks.values():
            if uplink.link.peer is not None:
                self._machine.lost(uplink, "the end", now=self.now)
        self._pass_time(10_000.0)


class WorkerTarget(DialledTarget):
    """A worker whose handlers end, send, and fail by chance."""

    name = "worker"

    def __init__(self, random: Random) -> None:
        self._worker = WorkerMachine(Identity(session_id("worker"), "worker"), SETTINGS, dict.fromkeys(SERVICES, 10))
        super().__init__(random, self._worker)
        self._running: list[Execution] = []

    @property
    def tables(self) -> dict[str, int]:
        links = [uplink.link for uplink in self._worker.uplinks.values()]
        return {
            "running": self._worker.running,
            "events": len(self._worker._events),
            "outcomes": len(self._worker._outcomes),
            "outbox": sum(link.outbox_bytes for link in links),
            "unacknowledged": sum(link._unacked_bytes for link in links),
            "heap": len(self._worker._timers._heap),
        }

    def _command(self, uplink: Uplink, bodies: list[bytes]) -> list[Any]:
        random = self.random
        kind = random.random()
        if kind < 0.5:
            self._ids += 1
            service = random.choice((*SERVICES, *SERVICES, f"s{random.randrange(10**9)}"))
            credit = random.choice((0, 1, 64, 2**48))
            caller, call = random.choice((b"", b"caller", random.randbytes(16))), random.choice((7, self._ids))
            asked = [4, self._ids, service, 0, b"hello", credit, 1000 * credit, self._left()]
            return [*asked, None, None, 0, random.choice((None, "k")), None, "me", caller, call]
        id = self._id(self._worker._held[uplink])
        if kind < 0.65:
            return [8, id]
        if kind < 0.8:
            return [9, id, random.choice((0, 1, 2**48)), random.choice((0, 100, 2**48)), self._left()]
        if kind < 0.9:
            return [11, [[id, self._left()]] * random.choice((1, 100))]
        if kind < 0.98:
            return [3, random.choice(SERVICES), random.choice((0, 1, 5, 10, 2**48))]
        if kind < 0.99:
            self._ids += 1
            known = [*self._worker._unclaimed[uplink].executions, *self._worker._outcomes._recent.outcomes]
            origin = random.choice(known or [(b"caller", 7)])
            return [17, self._ids, *origin, random.choice((None, 0, 5)), 10, 1000, self._left()]
        return [13] if kind < 0.995 else self._common()

    def _work(self) -> None:
        worker = self._worker
        self._running += [each for event, each in worker.take_events() if event is WorkerEvent.START]
        if self._running and self.random.random() < 0.7:
            at = self.random.randrange(len(self._running))
            execution = self._running[at]
            kind = self.random.random()
            if kind < 0.4:
                if execution.active and execution.has_credit:
                    # A broker that takes no messages of that size is told none.
                    with contextlib.suppress(MessageTooLarge):
                        worker.partial(execution, 1, bytes(self.random.choice((1, 5000))))
                return
            self._running[at] = self._running[-1]
            self._running.pop()
            self._end(execution, kind)

    def _end(self, execution: Execution, kind: float) -> None:
        if kind < 0.8:
            self._worker.finish(execution, 1, b"done")
        elif kind < 0.9:
            self._worker.fail(execution, self.random.choice(list(Code)), "no")
        else:
            self._worker.reject(execution)

    def check(self) -> None:
        counted = self._worker.statistics()
        ended = sum(counted[name] for name in ("replied", "failed", "cancelled", "expired", "rejected"))
        assert counted["received"] == ended + counted["running"] + counted["cancelling"]
        assert self._worker.running == len(self._running)
        assert self._worker.running <= 10 * len(SERVICES)
        assert self.tables["outbox"] <= 2**20
        assert self.tables["outcomes"] <= SETTINGS.recent_limit + SETTINGS.key_limit

    def finish(self) -> None:
        self._leave()
        for execution in self._running:
            self._worker.finish(execution, 1, b"")
        self._running.clear()
        self._worker.take_events()
        self.check()
        self._check_empty()
        for leases in self._worker._leases.values():
            assert leases.running == 0


class ClientTarget(DialledTarget):
    """A client with up to fifty calls, some of which are read, and some left."""

    name = "client"

    def __init__(self, random: Random) -> None:
        self._client = ClientMachine(Identity(session_id("client"), "client"), SETTINGS)
        super().__init__(random, self._client)
        self._calls: list[Call] = []

    @property
    def tables(self) -> dict[str, int]:
        client = self._client
        return {
            "calls": len(client.calls()),
            "unread": sum(len(partial.body or b"") for call in self._calls for partial in call.inbox),
            "outbox": sum(uplink.link.outbox_bytes for uplink in client.uplinks.values()),
            "unacknowledged": sum(uplink.link._unacked_bytes for uplink in client.uplinks.values()),
            "timers": len(client._timers),
            "heap": len(client._timers._heap),
        }

    def _command(self, uplink: Uplink, bodies: list[bytes]) -> list[Any]:
        random = self.random
        id = self._id(self._client._calls[uplink])
        kind = random.random()
        if kind < 0.4:
            bodies.append(bytes(random.choice((1, 500, 9000))))
            return [5, id, 1, None]
        if kind < 0.7:
            return [6, id, 1, b"reply"]
        if kind < 0.85:
            details = random.choice((b"", b"\x91" * 1200, b"\xc1", msgspec.msgpack.encode({"a": [1, 2]})))
            return [7, id, random.choice(("INTERNAL", "NOT_FOUND", "nonsense")), "", "no", details]
        if kind < 0.98:
            return [11, [[id]] * random.choice((1, 100))]
        return self._common()

    def _work(self) -> None:
        client, random = self._client, self.random
        client.take_news()
        if len(self._calls) < 50:
            request = c.Request(0, random.choice(SERVICES), 0, b"ask", 0, 0, timeout=5.0, retry=random.choice((0, 2)))
            call = Call(request, explicit_deadline=random.choice((None, self.now + 3)), discards=random.random() < 0.3)
            self._start(call)
        if not self._calls:
            return
        at = random.randrange(len(self._calls))
        call = self._calls[at]
        if call.inbox and random.random() < 0.7:
            client.take(call)
        elif call.outcome is not None or random.random() < 0.02:
            client.cancel(call)
            self._calls[at] = self._calls[-1]
            self._calls.pop()

    def _start(self, call: Call) -> None:
        try:
            self._client.start(call, now=self.now)
        except InvalidArgument:
            return  # the broker announced limits that nothing fits into
        call.waiter = self
        self._calls.append(call)
        self._client.wait(call, now=self.now)

    def check(self) -> None:
        tables = self.tables
        assert tables["calls"] <= 50
        assert tables["unread"] == sum(call.unread for call in self._calls)
        # Each of the calls may overdraw what it has by one message.
        assert tables["unread"] <= SETTINGS.connection_credit + 50 * 120_000
        assert tables["outbox"] <= 2**20

    def finish(self) -> None:
        self._leave()
        for call in self._calls:
            assert call.outcome is not None, "a call without an outcome"
            self._client.cancel(call)
        self._calls.clear()
        self._client.take_news()
        assert self._client.credit.left == SETTINGS.connection_credit
        self._check_empty()


TARGETS: Final[dict[str, type[BrokerTarget] | type[WorkerTarget] | type[ClientTarget]]] = {
    target.name: target for target in (BrokerTarget, WorkerTarget, ClientTarget)
}

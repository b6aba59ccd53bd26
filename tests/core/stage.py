"""A stage for the machines: function calls join them in place of a network, and time is a number.

stage = Stage()                                 # a broker's machine at "broker"
worker = stage.worker("echo")                   # a peer that does as the test says
client = stage.client()
client.send(ask(1, "echo"))
[request] = worker.take()
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from zmdp_trio._core.broker import BrokerMachine
from zmdp_trio._core.client import Call, ClientMachine
from zmdp_trio._core.dialler import Dialler
from zmdp_trio._core.link import Link
from zmdp_trio._core.uplink import Identity
from zmdp_trio._core.weights import weight
from zmdp_trio._core.worker import Execution, WorkerMachine
from zmdp_trio._errors import ProtocolError
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

BROKER = "broker"
EPOCH = b"epoch-1"
LIMITS = c.Limits.of(Settings())


def session_id(name: str) -> bytes:
    """Return the session id of a peer of this name: 16 bytes or more."""
    return f"session-of-{name:*>16}".encode()


def hello(name: str = "peer", *services: str, slots: int = 1, **changes: Any) -> c.Hello:
    """Return a worker's greeting, or without services a client's."""
    offers = [c.Offer(service, slots) for service in services] or None
    command = c.Hello(1, session_id(name), name, b"", LIMITS, 2.5, [], offers)
    return msgspec.structs.replace(command, **changes)


def ask(id: int, service: str = "echo", body: bytes = b"?", **fields: Any) -> c.Request:
    """Return a client's REQUEST, with plenty of credit."""
    return c.Request(id, service, 0, body, **{"messages": 64, "bytes": 2**20, **fields})


#: What a client, and a worker, may send to a broker.
FROM_BOTH = {c.Batch, c.Hello, c.Goodbye, c.Heartbeat}
FROM_CLIENT = {*FROM_BOTH, c.Request, c.Cancel, c.Credit, c.Claim, c.Drained}
FROM_WORKER = {*FROM_BOTH, c.Partial, c.Final, c.Error, c.Reject, c.Slots, c.Drain, c.Holdings}
#: One command of each kind.
SAMPLES: dict[type[c.Command], c.Command] = {
    c.Batch: c.Batch(0, 0),
    c.Hello: hello(),
    c.Welcome: c.Welcome(1, "b", EPOCH, False, LIMITS, 1.0, []),
    c.Slots: c.Slots("echo", 1),
    c.Request: ask(1),
    c.Partial: c.Partial(1, 0, b""),
    c.Final: c.Final(1, 0, b""),
    c.Error: c.Error(1, "INTERNAL", "", ""),
    c.Cancel: c.Cancel(1),
    c.Credit: c.Credit(1, 1, 1),
    c.Reject: c.Reject(1),
    c.Heartbeat: c.Heartbeat([c.Held(1)]),
    c.Drain: c.Drain(),
    c.Drained: c.Drained(),
    c.Goodbye: c.Goodbye(),
    c.Claim: c.Claim(1, "echo", 0, 1, 1),
    c.Holdings: c.Holdings([c.Holding(b"caller", 1, "echo")]),
    c.Resume: c.Resume(1, b"caller", 1, 0, 1, 1),
    c.Wanted: c.Wanted("echo", 1),
}


def outgoing(dirty: Iterable[Link], stalled: Collection[Any] = ()) -> Iterator[tuple[Any, list[Any]]]:
    """Take the messages that links have ready: whom for, and the frames; those for peers that are stalled stay."""
    for link in dirty:
        link.scheduled = False
        while link.peer is not None and link.peer not in stalled and (frames := link.next_batch()) is not None:
            link.batch_sent()
            yield link.peer, list(frames)


class Speaker:
    """A peer of a broker that says what the test has it say, true or not."""

    def __init__(self, stage: Stage, greeting: c.Hello) -> None:
        self._stage = stage
        self._dirty: list[Link] = []
        self._inbox: list[c.Command] = []
        self.link = Link(self._dirty)
        self.greeting = greeting
        self.peer = b""
        #: It acknowledges what it received at each step, as a peer does at each heartbeat.
        self.acknowledges = True
        #: Heartbeats for the session that have come.
        self.beats = 0
        self.welcome: c.Welcome | None = None
        #: Why the broker refused this peer, or said goodbye.
        self.goodbye: c.Goodbye | None = None

    def greet(self, *, received: int | None = None, epoch: bytes | None = None) -> None:
        """Come over a new connection."""
        self.peer = self._stage.attach(self)
        self.welcome = self.goodbye = None
        self.link.close()
        greeting = self.greeting
        greeting.epoch = greeting.epoch if epoch is None else epoch
        self.say_uncounted(greeting, received=self.link.received if received is None else received)

    def come_back(self) -> None:
        """Come over a new connection, as one whom the broker knows."""
        self.greet(epoch=EPOCH)

    def say_uncounted(self, *commands: c.Command, received: int = 0) -> None:
        """Send commands outside of the numbering."""
        self._stage.brokers[BROKER].receive(
            self.peer, zmdp1.encode(c.Batch(0, received), commands), now=self._stage.now
        )
        self._stage.flush()

    def shout(self, *commands: c.Command) -> None:
        """Send a batch of commands, whatever of those before was acknowledged."""
        self.link.sent += 1
        frames = zmdp1.encode(c.Batch(self.link.sent, 0), commands)
        self._stage.brokers[BROKER].receive(self.peer, frames, now=self._stage.now)
        self._stage.flush()

    def send(self, *commands: c.Command) -> None:
        """Send commands, and let everybody do what follows from them."""
        for command in commands:
            self.link.put(command, weight(command))
        self._stage.flush()

    def take(self, kind: type[c.Command] | tuple[type[c.Command], ...] = c.Command) -> list[Any]:
        """Return the commands of a kind that have come, and forget all that have; idle heartbeats don't count."""
        inbox, self._inbox = self._inbox, []
        return [command for command in inbox if isinstance(command, kind) and command != c.Heartbeat()]

    def vanish(self) -> None:
        """Lose the connection."""
        self.link.close()
        self._stage.cut(self.peer)

    # ---- for the stage

    def outgoing(self) -> Iterator[list[Any]]:
        dirty, self._dirty[:] = self._dirty[:], []
        for _, frames in outgoing(dirty):
            yield frames

    def deliver(self, frames: list[Any]) -> None:
        commands, _ = zmdp1.decode(frames)
        answer = commands[1] if len(commands) > 1 else None
        if isinstance(answer, c.Welcome):
            if not answer.resumed and self.welcome is None:
                self.link.reset()
                self.link.drop_outbox()
            if self.welcome is None:
                self.link.open(self.peer, commands[0].received)
            self.welcome = answer
            return
        if isinstance(answer, c.Goodbye):
            self.goodbye = answer
        if self.link.opened:
            commands = self.link.receive(frames)[1:]
            self._inbox += commands
            self.beats += commands.count(c.Heartbeat())

    @property
    def dropped(self) -> bool:
        """The broker wants to hear no more from this peer."""
        return self.goodbye is not None


class FakeBroker:
    """A broker that says what the test has it say, to its one peer."""

    deadline = math.inf

    def __init__(self, *, answers: bool = True, **welcome: Any) -> None:
        self.answers = answers
        self._welcome = welcome
        self._dirty: list[Link] = []
        self._inbox: list[c.Command] = []
        self.link = Link(self._dirty)
        self.hello: c.Hello | None = None
        self.hellos = 0
        self.peer = b""
        self.received = 0
        self.errors: list[str] = []

    def receive(self, peer: bytes, frames: list[Any], *, now: float) -> None:
        commands, _ = zmdp1.decode(frames)
        if len(commands) > 1 and isinstance(commands[1], c.Hello):
            self.peer, self.hello, self.received = peer, commands[1], commands[0].received
            self.hellos += 1
            if self.answers:
                self.welcome(**self._welcome)
        elif self.link.opened:
            self._inbox += self.link.receive(frames)[1:]
        else:
            self._inbox += commands[1:]

    def welcome(self, *, resumed: bool = False, received: int | None = None, **changes: Any) -> None:
        if not resumed:
            self.link.reset()
            self.link.drop_outbox()
        self.link.open(self.peer, self.received if resumed else 0)
        answer = msgspec.structs.replace(c.Welcome(1, "fake", EPOCH, resumed, LIMITS, 2.5, []), **changes)
        self.link.put_uncounted(answer, received=self.link.received if received is None else received)

    def say_uncounted(self, *commands: c.Command) -> None:
        self.link.peer = self.peer
        for command in reversed(commands):
            self.link.put_uncounted(command)

    def send(self, *commands: c.Command) -> None:
        for command in commands:
            self.link.put(command, weight(command))

    def take(self, kind: type[c.Command] | tuple[type[c.Command], ...] = c.Command) -> list[Any]:
        inbox, self._inbox = self._inbox, []
        return [command for command in inbox if isinstance(command, kind) and command != c.Heartbeat()]

    def lost(self, peer: bytes, *, now: float) -> None:
        if peer == self.peer:
            self.link.close()

    def handle_timer(self, *, now: float) -> None:
        raise AssertionError("it has no timers")

    def take_dirty(self) -> list[Link]:
        dirty, self._dirty[:] = self._dirty[:], []
        return dirty


class Line:
    """A connection from a dialling machine to a broker."""

    def __init__(self, stage: Stage, machine: Dialler, endpoint: str) -> None:
        self.stage, self.machine, self.endpoint = stage, machine, endpoint
        self.peer = stage.attach(self, endpoint)

    @property
    def uplink(self) -> Any:
        return self.machine.uplinks[self.endpoint]

    def deliver(self, frames: list[Any]) -> None:
        self.machine.receive(self.uplink, frames, now=self.stage.now)


class Stage:
    """Brokers and their peers."""

    def __init__(self, *, fake: FakeBroker | None = None, **overrides: Any) -> None:
        self.settings = Settings(**overrides)
        self.now = 0.0
        self.brokers: dict[str, Any] = {}
        self.machines: list[Dialler] = []
        self.speakers: list[Speaker] = []
        self.ends: dict[bytes, Speaker | Line] = {}
        self.endpoints: dict[bytes, str] = {}
        self.lines: dict[tuple[Dialler, str], Line] = {}
        #: Peers that read nothing, and what the broker has for them, perhaps.
        self.stalled: dict[bytes, list[Link]] = {}
        self._connections = 0
        if fake is None:
            self.start_broker()
        else:
            self.brokers[BROKER] = fake

    # ---- who is on it

    def start_broker(self, endpoint: str = BROKER, epoch: bytes = EPOCH) -> BrokerMachine:
        """Start a broker at an endpoint, in place of any that was there."""
        machine = self.brokers[endpoint] = BrokerMachine(name=endpoint, epoch=epoch, settings=self.settings)
        return machine

    @property
    def broker(self) -> BrokerMachine:
        """The broker's machine."""
        machine: BrokerMachine = self.brokers[BROKER]
        return machine

    def client(self, name: str = "client", **changes: Any) -> Speaker:
        """Return a client that has greeted, and does as it is told."""
        return self._speaker(hello(name, **changes))

    def worker(self, *services: str, name: str = "worker", slots: int = 1, **changes: Any) -> Speaker:
        """Return a worker that has greeted, and does as it is told."""
        return self._speaker(hello(name, *services, slots=slots, **changes))

    def _speaker(self, greeting: c.Hello) -> Speaker:
        speaker = Speaker(self, greeting)
        self.speakers.append(speaker)
        speaker.greet()
        return speaker

    def client_machine(self, *endpoints: str, name: str = "client") -> ClientMachine:
        """Return a client's machine, not yet connected."""
        return self._machine(ClientMachine(Identity(session_id(name), name), self.settings), endpoints)

    def worker_machine(self, services: dict[str, int], *endpoints: str, name: str = "worker") -> WorkerMachine:
        """Return a worker's machine, not yet connected."""
        return self._machine(WorkerMachine(Identity(session_id(name), name), self.settings, services), endpoints)

    def _machine(self, machine: Any, endpoints: tuple[str, ...]) -> Any:
        for endpoint in endpoints or (BROKER,):
            machine.add(endpoint)
        self.machines.append(machine)
        return machine

    # ---- connections

    def attach(self, end: Speaker | Line, endpoint: str = BROKER) -> bytes:
        """Return the routing id of a new connection."""
        self._connections += 1
        peer = b"connection-%d" % self._connections
        self.ends[peer] = end
        self.endpoints[peer] = endpoint
        return peer

    def connect(self, machine: Dialler, endpoint: str = BROKER) -> None:
        """Join a machine to a broker."""
        self.lines[machine, endpoint] = Line(self, machine, endpoint)
        machine.connected(machine.uplinks[endpoint], now=self.now)
        self.flush()

    def disconnect(self, machine: Dialler, endpoint: str = BROKER, reason: str = "cut", *, tell: bool = True) -> None:
        """Part a machine from a broker, which is told, or not."""
        line = self.lines.pop((machine, endpoint))
        machine.lost(machine.uplinks[endpoint], reason, now=self.now)
        self.cut(line.peer, tell=tell)

    def cut(self, peer: bytes, *, tell: bool = True) -> None:
        """End a connection, seen from the broker."""
        self.ends.pop(peer, None)
        if tell:
            self.brokers[self.endpoints[peer]].lost(peer, now=self.now)
        self.flush()

    def stall(self, peer: bytes) -> None:
        """Let a peer read nothing from now on: the transport takes nothing for it."""
        self.stalled.setdefault(peer, [])

    def unstall(self, peer: bytes) -> None:
        """Let a peer read again."""
        for link in self.stalled.pop(peer):
            link.schedule()
        self.flush()

    # ---- time and messages

    def flush(self) -> None:
        """Pass messages on until nobody has one."""
        moved = True
        while moved:
            moved = False
            for broker in self.brokers.values():
                if broker.deadline == -math.inf:
                    # At once: a link has found something out by itself.
                    broker.handle_timer(now=self.now)
                    moved = True
                dirty = broker.take_dirty()
                for link in dirty:
                    if link.peer in self.stalled:
                        self.stalled[link.peer].append(link)
                for peer, frames in outgoing(dirty, self.stalled):
                    moved = True
                    if peer in self.ends:
                        self.ends[peer].deliver(frames)
            for machine in self.machines:
                moved |= self._flush_machine(machine)
            for speaker in self.speakers:
                for frames in speaker.outgoing():
                    moved = True
                    self.brokers[BROKER].receive(speaker.peer, frames, now=self.now)

    def _flush_machine(self, machine: Dialler) -> bool:
        moved = False
        for endpoint, frames in outgoing(machine.take_dirty()):
            moved = True
            line = self.lines.get((machine, endpoint))
            if line is not None:
                self.brokers[endpoint].receive(line.peer, frames, now=self.now)
        for uplink in machine.take_unusable():
            moved = True
            if (machine, uplink.endpoint) in self.lines:
                self.disconnect(machine, uplink.endpoint, uplink.reason)
        return moved

    @property
    def deadline(self) -> float:
        """When something is due next."""
        return min(end.deadline for end in (*self.brokers.values(), *self.machines))

    def step(self) -> float:
        """Go on to the next deadline, do what is due, and return the time."""
        deadline = self.deadline
        assert deadline < math.inf
        self.now = max(self.now, deadline)
        for end in (*self.brokers.values(), *self.machines):
            if end.deadline <= self.now:
                end.handle_timer(now=self.now)
        for speaker in self.speakers:
            if speaker.link.opened and speaker.acknowledges:
                speaker.link.acknowledge()
        self.flush()
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, step by step."""
        until = self.now + seconds
        while self.deadline <= until:
            self.step()
        self.now = until

    # ---- shorthands

    def held(self) -> dict[str, tuple[int, int, int]]:
        """What the broker holds per service: queued, running, cancelling."""
        return {service.name: (service.queued, service.running, service.cancelling) for service in self.services()}

    def services(self) -> list[Any]:
        """The broker's services."""
        return self.broker.services()

    def service(self, name: str) -> Any:
        """One of them."""
        [service] = [service for service in self.services() if service.name == name]
        return service


def check_counters(broker: BrokerMachine) -> None:
    """Every request that came is in exactly one place."""
    for name, n, held in (
        ("forgotten", broker.forgotten, 0),
        *(
            (service.name, service.counters, service.queued + service.running + service.cancelling)
            for service in broker.services()
        ),
    ):
        ended = n.refused + n.replied + n.failed + n.cancelled + n.expired + n.lost
        assert n.received == ended + held, (name, n)


def start(machine: ClientMachine, request: c.Request | None = None, *, now: float = 0.0, **options: Any) -> Call:
    """Start a call whose caller waits for its replies."""
    call = Call(request or c.Request(0, "echo", 0, b"?", 0, 0), **options)
    machine.start(call, now=now)
    call.waiter = "waiter"
    machine.wait(call, now=now)
    return call


def started(machine: WorkerMachine) -> list[Execution]:
    """Take a worker's events, and return the executions to start."""
    machine.take_events()
    return machine.take_started()


__all__ = [
    "BROKER",
    "EPOCH",
    "FROM_CLIENT",
    "FROM_WORKER",
    "LIMITS",
    "SAMPLES",
    "FakeBroker",
    "ProtocolError",
    "Speaker",
    "Stage",
    "ask",
    "check_counters",
    "hello",
    "session_id",
    "start",
    "started",
]

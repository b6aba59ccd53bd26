"""The worker's and the client's machine, and their brokers."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from random import Random
from typing import Any

import msgspec
from stage import session_id

from zmdp_trio._core.client import Call, ClientMachine
from zmdp_trio._core.dialler import Dialler
from zmdp_trio._core.uplink import Identity, State, Uplink
from zmdp_trio._core.worker import Execution, WorkerMachine
from zmdp_trio._errors import Code, InvalidArgument, MessageTooLarge
from zmdp_trio._wire import commands as c

from .mistakes import Commands
from .target import LIMITS, SERVICES, SETTINGS, Target


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
            "heap": len(self._worker._timers._heap) + len(self._worker._timers._old),
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
        if kind < 0.995:
            return random.choice(([13], [18, random.choice(SERVICES), random.choice((0, 3, 2**48))]))
        return self._common()

    def _work(self) -> None:
        worker = self._worker
        worker.take_events()
        self._running += worker.take_started()
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
        assert all(counters.received == counters.accounted for counters in self._worker.counters().values())
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
            "heap": len(client._timers._heap) + len(client._timers._old),
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

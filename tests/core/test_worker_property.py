"""The worker under brokers that are lost, restarted, and lie: its books balance and its slots hold at every step."""

from __future__ import annotations

import math
from random import Random

import pytest
from stage import LIMITS

from zmdp_trio._core.uplink import Identity, State, Uplink
from zmdp_trio._core.worker import Execution, WorkerMachine
from zmdp_trio._errors import Code
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

SLOTS = {"a": 3, "b": 1}


class Shift:
    """A worker, its two brokers, and its handlers."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 0.0
        settings = Settings(outbox=1_000, recent_limit=5, key_limit=5, resume=3.0, heartbeat=1.0)
        self.worker = WorkerMachine(Identity(bytes(16), "worker"), settings, SLOTS)
        self.uplinks = [self.worker.add(endpoint) for endpoint in ("one", "two")]
        self.running: list[Execution] = []
        self.asked = self.choked = 0

    # ---- the brokers

    def broker_connects(self) -> None:
        for uplink in self.uplinks:
            if uplink.link.peer is None:
                self.worker.connected(uplink, now=self.now)
            if uplink.state is State.GREETING:
                self.welcome(uplink)

    def welcome(self, uplink: Uplink) -> None:
        resumed = bool(uplink.epoch) and self.random.random() < 0.5
        epoch = uplink.epoch if resumed else self.random.randbytes(2)
        welcome = c.Welcome(1, "broker", epoch, resumed, LIMITS, 1.0, [])
        self.hand_over(uplink, c.Batch(0, uplink.link.sent if resumed else 0), welcome)

    def broker_goes(self) -> None:
        uplink = self.random.choice(self.uplinks)
        if uplink.up and self.random.random() < 0.5:
            self.say(uplink, c.Goodbye("", self.random.random() < 0.3))
        elif uplink.link.peer is not None:
            self.worker.lost(uplink, "cut", now=self.now)

    def broker_asks(self) -> None:
        """Also for what is not offered, and more than was leased."""
        random = self.random
        self.asked += 1
        caller, call = random.choice(((b"", 0), (b"caller", self.asked), (b"caller", 1)))
        key = random.choice((None, None, "k"))
        credit = random.choice((0, 2, c.MAX_AMOUNT))
        request = c.Request(self.asked, random.choice("abbc"), 0, b"?", credit, 200 * credit, key=key)
        request.caller, request.call = caller, min(call, c.MAX_AMOUNT)
        self.say(random.choice(self.uplinks), request)

    def broker_says(self) -> None:
        random = self.random
        uplink = random.choice(self.uplinks)
        id = random.choice([*self.worker._held[uplink], 0])
        left = random.choice((None, 0.0, 1.0, math.inf))
        origins = [*self.worker._unclaimed[uplink].executions, (b"caller", 1)]
        resume = c.Resume(self.asked + 1, *random.choice(origins), random.choice((None, 0, 1)), 2, 200)
        self.asked += 1
        self.say(
            uplink,
            random.choice(
                (
                    *(
                        c.Cancel(id),
                        c.Credit(id, c.MAX_AMOUNT, c.MAX_AMOUNT, left),
                        c.Heartbeat([c.Held(id, left)] * 9),
                    ),
                    *(c.Slots("a", random.choice((0, 1, 3, c.MAX_AMOUNT))), c.Slots("c", 1), resume, resume),
                )
            ),
        )

    def broker_agrees(self) -> None:
        """Hold to the leases that it was told."""
        for uplink in self.uplinks:
            for name, leases in self.worker._leases.items():
                if uplink.up:
                    self.say(uplink, c.Slots(name, leases.lease(uplink).told))

    def broker_reads(self) -> None:
        """Take what the worker has to send, and acknowledge it."""
        for link in self.worker.take_dirty():
            link.scheduled = False
            while link.peer is not None and link.next_batch() is not None:
                link.batch_sent()
        for uplink in self.uplinks:
            if uplink.up:
                self.hand_over(uplink, c.Batch(0, uplink.link.sent))

    def say(self, uplink: Uplink, command: c.Command) -> None:
        if uplink.up:
            self.hand_over(uplink, c.Batch(uplink.link.received + 1, uplink.link.acked), command)

    def hand_over(self, uplink: Uplink, *commands: c.Command) -> None:
        batch, *others = commands
        assert isinstance(batch, c.Batch)
        self.worker.receive(uplink, zmdp1.encode(batch, others), now=self.now)
        for broken in self.worker.take_unusable():
            if broken.link.peer is not None:
                self.worker.lost(broken, "broken off", now=self.now)

    # ---- the handlers

    def handler_sends(self) -> None:
        for execution in self.running:
            if execution.active and execution.has_credit:
                self.worker.partial(execution, 0, bytes(500))
            self.choked += execution.uplink.choked

    def handler_ends(self) -> None:
        if self.running:
            execution = self.running.pop(self.random.randrange(len(self.running)))
            code = self.random.choice((Code.INTERNAL, Code.DEADLINE_EXCEEDED))
            self.random.choice(
                (
                    lambda: self.worker.finish(execution, 0, b"!"),
                    lambda: self.worker.fail(execution, code, "no"),
                    lambda: self.worker.reject(execution),
                )
            )()

    def time_passes(self) -> None:
        self.now += self.random.choice((0.1, 1.0, 4.0))
        while self.worker.deadline <= self.now:
            self.worker.handle_timer(now=self.now)

    # ---- what always holds

    def step(self) -> None:
        actions = (
            *(
                *[self.broker_connects] * 4,
                self.broker_goes,
                self.broker_agrees,
                *[self.broker_asks] * 8,
                *[self.broker_says] * 4,
            ),
            *(self.broker_reads, *[self.handler_sends] * 4, *[self.handler_ends] * 4, self.time_passes),
        )
        self.random.choice(actions)()
        events = self.worker.take_events()
        assert len(events) == len(set(events)), "told twice"
        self.running += self.worker.take_started()

    def check(self) -> None:
        counted = self.worker.counters()
        assert all(counters.received == counters.accounted for counters in counted.values())
        for name, slots in SLOTS.items():
            running = sum(execution.request.service == name for execution in self.running)
            assert counted[name].running + counted[name].cancelling == running
            assert running == self.worker._leases[name].running <= slots
        assert all(uplink.link.outbox_bytes < 100_000 for uplink in self.uplinks)

    def finish(self) -> None:
        for uplink in self.uplinks:
            if uplink.link.peer is not None:
                self.worker.lost(uplink, "the end", now=self.now)
        while self.worker.deadline < math.inf and self.now < 1e6:
            self.now = self.worker.deadline + 5.0
            self.worker.handle_timer(now=self.now)
        while self.running:
            self.handler_ends()
        self.worker.take_events()
        self.check()
        assert not self.worker._strays
        assert not any(self.worker._held.values())
        assert not any(unclaimed.executions for unclaimed in self.worker._unclaimed.values())
        assert not len(self.worker._timers)


@pytest.mark.parametrize("seed", range(10))
def test_thousands_of_steps(seed: int) -> None:
    shift = Shift(Random(seed))
    for _ in range(3_000):
        shift.step()
        shift.check()
    assert sum(counters.received for counters in shift.worker.counters().values()) > 100
    assert shift.choked, "no handler ever had to wait for its broker"
    shift.finish()

"""The broker under honest and lying peers: its books balance at every step, and are empty in the end."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stage import Speaker, Stage, ask, check_counters
from test_broker_sessions import SAMPLES

from zmdp_trio._core.broker import Job, JobState
from zmdp_trio._core.broker.keys import Caller
from zmdp_trio._wire import commands as c

NAMES = ["a", "b"]
RARELY = st.sampled_from([False, False, False, False, True])
LIARS = sorted(SAMPLES, key=lambda kind: kind.__name__)


class Crowd(RuleBasedStateMachine):
    """Clients and workers that come, go, do their work, and now and then lie."""

    @initialize(
        queue=st.sampled_from([3, 100]), client_queue=st.sampled_from([2, 100]), resume=st.sampled_from([0.0, 10.0])
    )
    def prepare(self, queue: int, client_queue: int, resume: float) -> None:
        self.stage = Stage(queue_requests=queue, client_queue=client_queue, resume=resume, key_limit=2, outbox=100_000)
        self.clients: dict[str, Speaker]
        self.workers: dict[str, Speaker]
        self.asked = 0
        #: Requests that will have an outcome: of clients that stay, and not cancelled.
        self.expected: set[tuple[str, int]] = set()
        self.outcomes: Counter[tuple[str, int]] = Counter()
        #: What workers hold, as far as they know: their requests, and the credit for each.
        self.held: dict[str, dict[int, list[int]]] = {"w1": {}, "w2": {}}
        self.clients = {name: self.stage.client(name) for name in ("anna", "otto")}
        self.workers = {name: self.stage.worker(*NAMES, name=name, slots=2) for name in self.held}

    # ---- who is there

    @rule(name=st.sampled_from(["anna", "otto", "ute"]))
    def client_comes(self, name: str) -> None:
        if name in self.clients:
            self.clients[name].come_back()
            welcome = self.clients[name].welcome
            if welcome is None or not welcome.resumed:
                self.forget(name)
        else:
            self.clients[name] = self.stage.client(name)
        self.look()

    @rule(name=st.sampled_from(["w1", "w2", "w3"]), services=st.sets(st.sampled_from(NAMES)), slots=st.integers(0, 3))
    def worker_comes(self, name: str, services: set[str], slots: int) -> None:
        self.held[name] = {}
        if name in self.workers:
            self.workers[name].come_back()
        else:
            offers = [c.Offer(service, slots) for service in sorted(services)]
            self.workers[name] = self.stage.worker(name=name, offers=offers)
        self.look()

    @rule(name=st.sampled_from(["anna", "otto", "ute", "w1", "w2", "w3"]), goodbye=st.booleans(), really=RARELY)
    def peer_goes(self, name: str, goodbye: bool, really: bool) -> None:
        peer = self.peer(name)
        if peer is None or not really:
            return
        if goodbye:
            peer.send(c.Goodbye())
            self.forget(name)
        peer.vanish()
        self.held[name] = {}
        self.look()

    def peer(self, name: str) -> Speaker | None:
        peer = self.clients.get(name) or self.workers.get(name)
        return peer if peer is not None and peer.link.opened else None

    def forget(self, name: str) -> None:
        self.expected = {key for key in self.expected if key[0] != name}

    # ---- what clients do

    @rule(
        name=st.sampled_from(["anna", "otto", "ute"]),
        service=st.sampled_from([*NAMES, "nobody's"]),
        retry=st.integers(0, 2),
        worker=st.sampled_from([None, None, None, "w1", "w2"]),
        key=st.sampled_from([None, None, None, "k", "l"]),
        left=st.none() | st.sampled_from([0.0, 0.5, 3.0, math.inf]),
        messages=st.integers(0, 3),
        count=st.integers(1, 4),
    )
    def request(self, name: str, service: str, messages: int, count: int, **fields: Any) -> None:
        client = self.peer(name)
        if client is None:
            return
        ids = range(self.asked + 1, self.asked + 1 + count)
        self.asked += count
        self.expected |= {(name, id) for id in ids}
        for id in ids:
            # A lie may have had this id, and its outcome.
            self.outcomes.pop((name, id), None)
        client.send(*(ask(id, service, messages=messages, bytes=100 * messages, **fields) for id in ids))
        self.look()

    @rule(name=st.sampled_from(["anna", "otto"]), back=st.integers(0, 5), what=st.integers(0, 3))
    def say_something_of_a_request(self, name: str, back: int, what: int) -> None:
        client = self.peer(name)
        id = self.asked - back
        if client is None or id < 0:
            return
        if what == 0:
            self.expected.discard((name, id))
        client.send(
            [
                c.Cancel(id),
                c.Credit(id, 2, 200),
                c.Credit(id, 0, 0, 2.0),
                c.Heartbeat([c.Held(id, 1.0), c.Held(id)]),
            ][what]
        )
        self.look()

    # ---- what workers do

    @rule(which=st.integers(0, 9), what=st.integers(0, 6))
    def reply(self, which: int, what: int) -> None:
        held = [(name, id) for name, ids in self.held.items() for id in ids]
        if not held:
            return
        name, id = held[which % len(held)]
        worker = self.workers[name]
        credit = self.held[name][id]
        if what < 2:
            if credit[0] <= 0 or credit[1] <= 0:
                return
            credit[0] -= 1
            credit[1] -= 60
            credit[2] += 1
            worker.send(c.Partial(id, 0, bytes(60)))
        elif what == 2 and not credit[2]:
            del self.held[name][id]
            worker.send(c.Reject(id))
        else:
            del self.held[name][id]
            worker.send(c.Error(id, "INTERNAL", "", "no") if what == 3 else c.Final(id, 0, b"!"))
        self.look()

    @rule(name=st.sampled_from(["w1", "w2", "w3"]), service=st.sampled_from(NAMES), slots=st.integers(0, 3))
    def lease(self, name: str, service: str, slots: int) -> None:
        worker = self.peer(name)
        if worker is not None:
            worker.send(c.Slots(service, slots))
            self.look()

    @rule(name=st.sampled_from(["w1", "w2", "w3"]), really=RARELY)
    def worker_drains(self, name: str, really: bool) -> None:
        worker = self.peer(name)
        if worker is not None and really:
            worker.send(c.Drain())
            self.look()

    # ---- lies, and time

    @rule(
        name=st.sampled_from(["anna", "otto", "w1", "w2"]),
        kind=st.sampled_from(LIARS),
        id=st.integers(0, 12),
        really=RARELY,
    )
    def lie(self, name: str, kind: type[c.Command], id: int, really: bool) -> None:
        peer = self.peer(name)
        if peer is None or kind is c.Hello or not really:
            return
        command = SAMPLES[kind]
        fields = {"id": id} if hasattr(command, "id") else {}
        self.forget(name)
        peer.send(type(command)(**{**{f: getattr(command, f) for f in command.__struct_fields__}, **fields}))
        self.look()

    @rule(seconds=st.sampled_from([0.0, 0.4, 0.4, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.advance(seconds)
        self.look()

    def look(self) -> None:
        """Note what has come."""
        for name, worker in self.workers.items():
            for command in worker.take():
                if isinstance(command, c.Request):
                    assert command.left is None or command.left > 0
                    self.held[name][command.id] = [command.messages, command.bytes, 0]
                elif isinstance(command, c.Credit) and command.id in self.held[name]:
                    self.held[name][command.id][0] += command.messages
                    self.held[name][command.id][1] += command.bytes
            if worker.dropped:
                self.held[name] = {}
                worker.link.close()
        for name, client in self.clients.items():
            for command in client.take((c.Final, c.Error)):
                self.outcomes[name, command.id] += 1
            if client.dropped:
                self.forget(name)
                client.link.close()

    # ---- what always holds

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "stage"):
            return
        broker = self.stage.broker
        check_counters(broker)
        jobs: dict[int, Job] = {}
        for session in broker.sessions():
            assert not session.ended
            jobs.update((id(job), job) for job in session.held.values())
            for request in session.requests.values():
                job = request.entry.job if isinstance(request, Caller) else request
                assert job is not None
                jobs[id(job)] = job
        states: Counter[tuple[str, JobState]] = Counter()
        for job in jobs.values():
            states[job.service.name, job.state] += 1
            assert (job.offer is None) is (job.state is JobState.QUEUED)
        for service in broker.services():
            counted = [states[service.name, state] for state in list(JobState)[:3]]
            assert counted == [service.queued, service.running, service.cancelling]
            assert len(service.queued_jobs()) == service.queued
            assert sum(job.size for job in service.queued_jobs()) == service.queued_bytes
        assert broker.timers <= len(jobs) + len(broker.sessions()) + len(broker.services())

    @invariant()
    def no_slot_is_idle_while_work_waits(self) -> None:
        if not hasattr(self, "stage"):
            return
        for service in self.stage.broker.services():
            for offer in service.offers.values():
                assert offer.running == sum(job.offer is offer for job in offer.session.held.values())
                if offer.running < offer.slots:
                    assert not any(job.suits(offer) for job in service.queued_jobs())
            assert {offer for level in service._levels for offer in level} == {
                offer for offer in service.offers.values() if offer.running < offer.slots
            }

    @invariant()
    def nobody_is_told_twice(self) -> None:
        if hasattr(self, "stage"):
            assert all(count == 1 for count in self.outcomes.values())

    def teardown(self) -> None:
        """When everybody has done their work and left, nothing is left of them."""
        if not hasattr(self, "stage"):
            return
        for name, worker in self.workers.items():
            if not worker.link.opened or worker.dropped:
                self.held[name] = {}
        for _ in range(200):
            if not any(self.held.values()):
                break
            for name, worker in self.workers.items():
                for request in list(self.held[name]):
                    if worker.link.opened:
                        del self.held[name][request]
                        worker.send(c.Final(request, 0, b""))
                        self.look()
        for worker in self.workers.values():
            if worker.link.opened:
                worker.vanish()
        self.stage.advance(20.0)
        for client in self.clients.values():
            if not client.link.opened and not client.dropped:
                client.come_back()
                if client.welcome is None or not client.welcome.resumed:
                    self.forget(client.greeting.name)
        self.look()
        self.the_books_balance()
        assert self.expected <= set(self.outcomes)
        for client in self.clients.values():
            client.vanish()
        self.stage.advance(60.0)
        broker = self.stage.broker
        assert broker.sessions() == broker.services() == []
        assert broker.timers == 0
        assert not broker._peers
        assert not broker.busy
        assert all(entry.outcome is not None for entry in broker._keys._entries.values())
        assert broker.deadline == math.inf


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(deadline=None, max_examples=80, stateful_step_count=60)

"""What a broker's tables, counters, and sums must say of each other, at each moment, and when all is over."""

from __future__ import annotations

import math
from collections import Counter

from stage import check_counters

from zmdp_trio._core.broker import BrokerMachine, Job, JobState
from zmdp_trio._core.broker.claims import Claim
from zmdp_trio._core.broker.job import JOB_BYTES
from zmdp_trio._core.broker.keys import CALLER_BYTES, Caller
from zmdp_trio._core.broker.legacy import LegacyClient, LegacyPeer, LegacyWorker
from zmdp_trio._core.weights import COMMAND_BYTES, weight
from zmdp_trio._settings import Settings


def check_books(broker: BrokerMachine, settings: Settings) -> None:
    """Hold a broker's books against each other."""
    check_counters(broker)
    jobs = _check_jobs(broker)
    _check_slots(broker)
    _check_memory(broker, settings, jobs)


def check_empty(broker: BrokerMachine) -> None:
    """Make sure that nothing is left of anybody."""
    assert not broker.sessions()
    assert not broker.services()
    assert broker.timers == broker.memory == 0
    assert not broker._peers
    assert not broker._farewells
    assert not broker._refused
    assert not broker.busy
    assert not {*broker._claims, *broker._holdings, *broker._awaited}
    assert all(entry.outcome is not None for entry in broker._keys._entries.values())
    assert broker.deadline == math.inf


def _check_jobs(broker: BrokerMachine) -> list[Job]:
    jobs: dict[int, Job] = {}
    for session in broker.sessions():
        assert not session.ended
        jobs.update((job.id, job) for job in session.held.values())
        for request in session.requests.values():
            job = request.entry.job if isinstance(request, Caller) else request
            assert job is not None
            if not isinstance(job, Claim):
                jobs[job.id] = job
    states: Counter[tuple[str, JobState]] = Counter()
    for job in jobs.values():
        states[job.service.name, job.state] += 1
        assert (job.offer is None) is (job.state is JobState.QUEUED)
    for service in broker.services():
        counted = [states[service.name, state] for state in list(JobState)[:3]]
        assert counted == [service.queued, service.running, service.cancelling]
        assert len(service.queued_jobs()) == service.queued
        assert sum(job.size for job in service.queued_jobs()) == service.queued_bytes
    waiting = len(broker._claims) + len(broker._awaited)
    # Each service has one for the workers that share their slots, and one for when it counts as lost.
    most = len(jobs) + len(broker.sessions()) + 2 * len(broker.services()) + waiting + _legacy_timers(broker)
    assert broker.timers <= most
    return list(jobs.values())


def _legacy_timers(broker: BrokerMachine) -> int:
    """How many deadlines legacy peers may have: one of their own, and those of requests and of last replies."""
    links = [session.link for session in broker.sessions()]
    clients = [link for link in links if isinstance(link, LegacyClient)]
    for client in clients:
        assert {*client._ids.values()} == {call for call in client._calls.values() if client.dialect.numbered}
        assert sum(call.joined_bytes for call in client._calls.values()) == client._joined_bytes
        assert {*client._calls} >= {*client.session.requests}
    calls = sum(len(client._ids) + len(client.outbox) for client in clients)
    return calls + sum(isinstance(link, LegacyPeer) for link in links)


def _check_slots(broker: BrokerMachine) -> None:
    """No slot is taken twice, and none idle while work waits that may go there."""
    for service in broker.services():
        for offer in service.offers.values():
            assert offer.running == sum(job.offer is offer for job in offer.session.held.values())
            if offer.running < offer.slots:
                assert not any(job.suits(offer) for job in service.queued_jobs())
        assert {offer for level in service._levels for offer in level} == {
            offer for offer in service.offers.values() if offer.running < offer.slots
        }


def _check_memory(broker: BrokerMachine, settings: Settings, jobs: list[Job]) -> None:
    """What the broker believes that it keeps is what it keeps, and within its limits."""
    sessions = broker.sessions()
    requests = sum(JOB_BYTES + (job.size if job.request is not None else 0) for job in jobs)
    asked = [each for session in sessions for each in session.requests.values()]
    callers = sum(isinstance(each, Caller) for each in asked)
    requests += sum(JOB_BYTES + each.size for each in asked if isinstance(each, Claim))
    replies = sum(session.link.held_bytes for session in sessions if not session.is_worker)
    replies += sum(_waiting_bytes(session.link) for session in sessions if isinstance(session.link, LegacyWorker))
    assert broker.memory == requests + CALLER_BYTES * callers + replies
    assert broker.memory <= settings.broker_memory or not replies
    assert len(sessions) <= settings.broker_sessions
    # A request of the last broker that a worker still has goes on, whatever its service.
    assert len(broker.services()) <= settings.broker_services + len(jobs)


def _waiting_bytes(worker: LegacyWorker) -> int:
    """What waits for callers at a worker that can't be paused."""
    assert {*worker._held} == {*worker.session.held}
    for held in worker._held.values():
        assert held.waiting_bytes == sum(COMMAND_BYTES + weight(command) for command in held.waiting or ())
        assert held.messages == worker.session.held[held.id].messages
    return sum(held.waiting_bytes for held in worker._held.values())

"""Wildcards and versions at the broker: where a request goes, where what waits goes, and whose books it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from books import check_books, check_empty
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from stage import Speaker, Stage, ask, start, started

from zmdp_trio._core.broker import Job
from zmdp_trio._core.broker.routing import (
    MAX_RANGES,
    MAX_VERSIONS,
)
from zmdp_trio._wire import commands as c


def given_to(worker: Speaker) -> list[tuple[str, str]]:
    """The requests that a worker was given: the service, and what was asked for if that is another name."""
    return [(request.service, request.asked) for request in worker.take(c.Request)]


def numbers(stage: Stage, name: str) -> tuple[int, int, int]:
    """Requests that a service has received, that wait, and that run."""
    service = stage.service(name)
    return service.counters.received, service.queued, service.running


def names(stage: Stage) -> list[str]:
    return sorted(service.name for service in stage.services())


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    check_books(stage.broker, stage.settings)
    check_routing(stage)


def test_an_exact_name_wins_over_a_wildcard_also_when_it_is_busy(stage: Stage) -> None:
    wild, exact = stage.worker("files.*", name="wild", slots=9), stage.worker("files.read", name="exact")
    client = stage.client()
    client.send(ask(1, "files.read"), ask(2, "files.read"), ask(3, "files.list"))
    assert given_to(exact) == [("files.read", "")]
    assert given_to(wild) == [("files.*", "files.list")]
    assert numbers(stage, "files.read") == (2, 1, 1)
    assert numbers(stage, "files.*") == (1, 0, 1)
    exact.send(c.Final(1, 0, b"done"))
    assert given_to(exact) == [("files.read", "")]


def test_a_client_s_own_words_of_what_was_asked_are_ignored(stage: Stage) -> None:
    worker, client = stage.worker("echo", slots=2), stage.client()
    client.send(ask(1, "echo", asked="something else"))
    assert given_to(worker) == [("echo", "")]


def test_a_literal_wildcard_is_exact(stage: Stage) -> None:
    worker, client = stage.worker("files.*", "f*", slots=9), stage.client()
    client.send(ask(1, "files.*"), ask(2, "file*"), ask(3, "f*"))
    assert given_to(worker) == [("files.*", ""), ("f*", "")]
    assert stage.held()["file*"] == (1, 0, 0)


def test_a_range_goes_to_the_highest_version_with_a_slot(stage: Stage) -> None:
    worker, client = stage.worker("calc@1.2.0", "calc@1.3.0", "calc@2.0.0"), stage.client()
    client.send(*(ask(id, "calc@^1.2") for id in range(1, 5)))
    assert given_to(worker) == [("calc@1.3.0", "calc@^1.2"), ("calc@1.2.0", "calc@^1.2")]
    assert stage.held() == {"calc@1.2.0": (0, 1, 0), "calc@1.3.0": (2, 1, 0), "calc@2.0.0": (0, 0, 0)}
    client.send(ask(9, "calc@2.0.0"))
    assert given_to(worker) == [("calc@2.0.0", "")]


def test_an_unreadable_range_is_refused_at_once_and_no_table_hears_of_it(stage: Stage) -> None:
    stage.worker("calc@1.2.0", "*")
    client = stage.client()
    client.send(ask(1, "calc@latest"))
    [error] = client.take(c.Error)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "invalid-argument")
    assert names(stage) == ["*", "calc@1.2.0"]
    assert (stage.broker.forgotten.received, stage.broker.forgotten.refused) == (1, 1)


def test_a_plain_name_with_an_at_sign_is_exact_while_it_is_offered(stage: Stage) -> None:
    worker, client = stage.worker("mail@host"), stage.client()
    client.send(ask(1, "mail@host"), ask(2, "mail@host", retry=1))
    assert given_to(worker) == [("mail@host", "")]
    worker.vanish()
    client.send(ask(3, "mail@host"))
    stage.advance(5.0)
    assert {error.reason for error in client.take(c.Error)} == {"worker-lost", "unavailable"}


@pytest.mark.parametrize(("name", "offer"), [("files.read", "files.*"), ("calc@^1.2", "calc@1.3.0")])
def test_what_waits_goes_to_a_wildcard_or_version_that_appears(stage: Stage, name: str, offer: str) -> None:
    client = stage.client()
    client.send(ask(1, name), ask(2, name), ask(3, "other"))
    assert numbers(stage, name) == (2, 2, 0)
    worker = stage.worker(offer)
    assert given_to(worker) == [(offer, name)]
    assert names(stage) == sorted([offer, "other"])
    assert numbers(stage, offer) == (2, 1, 1)
    worker.send(c.Final(1, 0, b"one"))
    assert given_to(worker) == [(offer, name)]
    assert [final.body for final in client.take(c.Final)] == [b"one"]
    stage.advance(2.0)
    assert [error.id for error in client.take(c.Error)] == [3]


def test_it_goes_to_the_best_of_what_one_worker_brings(stage: Stage) -> None:
    client = stage.client()
    client.send(ask(1, "files.read.x"), ask(2, "calc@^1"), ask(3, "calc@^1"))
    worker = stage.worker("*", "files.*", "calc@1.0.0", "files.read.*", "calc@1.1.0")
    assert sorted(given_to(worker)) == [
        ("calc@1.0.0", "calc@^1"),
        ("calc@1.1.0", "calc@^1"),
        ("files.read.*", "files.read.x"),
    ]


def test_a_wildcard_that_is_offered_later_by_slots_is_seen_too(stage: Stage) -> None:
    worker, client = stage.worker("other"), stage.client()
    client.send(ask(1, "files.read"))
    worker.send(c.Slots("files.*", 0))
    assert numbers(stage, "files.*") == (1, 1, 0)
    stage.advance(5.0)
    assert client.take(c.Error) == [], "it is served, though no slot is free"
    worker.take()
    worker.send(c.Slots("files.*", 1))
    assert given_to(worker) == [("files.*", "files.read")]


def test_what_waits_for_a_busy_wildcard_stays_when_a_better_one_comes(stage: Stage) -> None:
    wild, client = stage.worker("files.*", name="wild"), stage.client()
    client.send(ask(1, "files.read"), ask(2, "files.read"))
    exact = stage.worker("files.read", name="exact")
    assert given_to(exact) == []
    client.send(ask(3, "files.read"))
    assert given_to(exact) == [("files.read", "")]
    assert numbers(stage, "files.*") == (2, 1, 1)
    given_to(wild)


@pytest.mark.parametrize("politely", [False, True])
def test_when_the_last_exact_worker_goes_what_waits_goes_on_at_the_wildcard(stage: Stage, politely: bool) -> None:
    exact, client = stage.worker("files.read", name="exact"), stage.client()
    client.send(*(ask(id, "files.read", retry=int(id == 1)) for id in range(1, 5)))
    [running] = exact.take(c.Request)
    wild = stage.worker("files.*", name="wild", slots=2)
    assert given_to(wild) == []
    if politely:
        exact.send(c.Drain())
        assert given_to(wild) == [("files.*", "files.read")] * 2
        exact.send(c.Final(running.id, 0, b"done"), c.Goodbye())
        assert len(client.take(c.Final)) == 1
        assert names(stage) == ["files.*"]
        assert numbers(stage, "files.*") == (3, 1, 2)
    else:
        exact.vanish()
        # What ran may run again; it comes after those that went before it, which took the slots.
        assert given_to(wild) == [("files.*", "files.read")] * 2
        assert numbers(stage, "files.*") == (4, 2, 2)
        assert numbers(stage, "files.read") == (0, 0, 0)
    assert client.take(c.Error) == []


def test_what_may_not_run_again_is_lost_where_it_was(stage: Stage) -> None:
    exact, client = stage.worker("files.read", name="exact"), stage.client()
    stage.worker("files.*", name="wild")
    client.send(ask(1, "files.read"))
    exact.vanish()
    assert [error.reason for error in client.take(c.Error)] == ["worker-lost"]
    assert stage.service("files.read").counters.lost == 1


def test_when_the_last_wildcard_goes_the_next_one_has_it_or_it_waits_under_its_own_name(stage: Stage) -> None:
    long, client = stage.worker("files.*", name="long"), stage.client()
    client.send(ask(1, "files.read", retry=1), ask(2, "files.read"), ask(3, "files.list"))
    short = stage.worker("f*", name="short", slots=9)
    assert given_to(long) == [("files.*", "files.read")]
    long.vanish()
    assert sorted(given_to(short)) == [("f*", "files.list"), ("f*", "files.read"), ("f*", "files.read")]
    client.send(ask(4, "files.read", retry=1))
    short.take()
    short.send(c.Drain())
    client.send(ask(5, "files.read"))
    assert numbers(stage, "files.read") == (1, 1, 0)
    again = stage.worker("files.*", name="again", slots=9)
    assert given_to(again) == [("files.*", "files.read")]


def test_when_no_other_comes_it_is_told_that_the_wildcard_was_lost(stage: Stage) -> None:
    wild, client = stage.worker("files.*"), stage.client()
    client.send(ask(1, "files.read"), ask(2, "files.list"))
    wild.vanish()
    client.send(ask(3, "files.write"), ask(4, "echo"), ask(5, "files.write", retry=1))
    stage.advance(1.5)
    told = {error.id: (error.code, error.reason) for error in client.take(c.Error)}
    lost = ("UNAVAILABLE", "unavailable")
    assert told == {
        1: ("UNAVAILABLE", "worker-lost"),
        2: lost,
        3: lost,
        4: ("NOT_FOUND", "service-not-found"),
    }
    stage.advance(1.0)
    assert [(error.id, error.reason) for error in client.take(c.Error)] == [(5, "unavailable")]
    stage.advance(20.0)
    assert names(stage) == []
    client.send(ask(6, "files.read"))
    stage.advance(1.5)
    assert [error.reason for error in client.take(c.Error)] == ["service-not-found"]


def test_the_same_worker_s_other_offers_go_with_it(stage: Stage) -> None:
    both, client = stage.worker("files.read", "files.*", name="both"), stage.client()
    client.send(ask(1, "files.read"), ask(2, "files.read"))
    both.send(c.Drain())
    assert stage.held() == {"files.read": (1, 1, 0)}
    stage.advance(1.5)
    assert [error.reason for error in client.take(c.Error)] == ["service-not-found"]


def test_a_rejected_request_does_not_fall_through_to_a_wildcard(stage: Stage) -> None:
    exact, wild = stage.worker("files.read", name="exact"), stage.worker("files.*", name="wild")
    client = stage.client()
    client.send(ask(1, "files.read"))
    [request] = exact.take(c.Request)
    exact.send(c.Reject(request.id))
    assert [error.reason for error in client.take(c.Error)] == ["rejected"]
    assert given_to(wild) == []
    client.send(ask(2, "files.list"))
    [request] = wild.take(c.Request)
    wild.send(c.Reject(request.id))
    assert [error.reason for error in client.take(c.Error)] == ["rejected"]
    assert names(stage) == ["files.*", "files.read"]


def test_what_the_last_exact_worker_rejects_as_it_leaves_goes_on_at_the_wildcard(stage: Stage) -> None:
    exact, client = stage.worker("files.read", name="exact"), stage.client()
    client.send(ask(1, "files.read"))
    [request] = exact.take(c.Request)
    wild = stage.worker("files.*", name="wild")
    exact.send(c.Drain(), c.Reject(request.id))
    assert given_to(wild) == [("files.*", "files.read")]
    assert names(stage) == ["files.*"]
    # ... unless the wildcard is its own.
    both = stage.worker("calc@1.0.0", "calc@1.1.0", name="both")
    client.send(ask(2, "calc@^1"))
    [request] = both.take(c.Request)
    both.send(c.Reject(request.id))
    assert [error.reason for error in client.take(c.Error)] == ["rejected"]


def test_a_rejected_request_without_a_worker_leaves_nothing_behind(stage: Stage) -> None:
    wild, client = stage.worker("files.*"), stage.client()
    client.send(ask(1, "files.read"))
    [request] = wild.take(c.Request)
    wild.send(c.Drain(), c.Reject(request.id))
    assert [error.reason for error in client.take(c.Error)] == ["rejected"]
    assert names(stage) == []


def test_a_named_worker_gets_it_by_whatever_it_offers(stage: Stage) -> None:
    exact, wild = stage.worker("files.read", name="exact"), stage.worker("files.*", name="wild")
    client = stage.client()
    client.send(ask(1, "files.read", worker="wild"), ask(2, "files.read", worker="exact"))
    assert given_to(wild) == [("files.*", "files.read")]
    assert given_to(exact) == [("files.read", "")]
    client.send(ask(3, "files.read", worker="wild"), ask(4, "files.read", worker="late"))
    assert stage.held() == {"files.read": (1, 1, 0), "files.*": (1, 1, 0)}
    late = stage.worker("f*", name="late")
    assert given_to(late) == [("f*", "files.read")]
    wild.vanish()
    again = stage.worker("files.*", name="wild")
    assert given_to(again) == [("files.*", "files.read")]
    client.take()
    client.send(ask(5, "files.read", worker="nobody"))
    stage.advance(1.5)
    [error] = client.take(c.Error)
    assert (error.reason, error.message) == ("service-not-found", "no worker 'nobody' offers 'files.read'")


def test_a_second_worker_of_a_wildcard_gets_what_waits_for_it_by_name(stage: Stage) -> None:
    stage.worker("files.*", name="a")
    client = stage.client()
    client.send(ask(1, "files.read", worker="b"))
    b = stage.worker("files.*", name="b")
    assert given_to(b) == [("files.*", "files.read")]


def test_what_moves_is_not_refused_for_want_of_room() -> None:
    stage = Stage(queue_requests=2)
    client = stage.client()
    client.send(*(ask(id, f"files.{id // 2}") for id in range(2, 8)))
    stage.worker("files.*", name="wild")
    assert stage.held() == {"files.*": (5, 1, 0)}
    client.send(ask(9, "files.new"))
    assert [error.reason for error in client.take(c.Error)] == ["overloaded"]
    check_books(stage.broker, stage.settings)


def test_an_expired_request_is_not_moved(stage: Stage) -> None:
    client = stage.client()
    client.send(ask(1, "files.read", left=0.5))
    stage.now += 0.5
    worker = stage.worker("files.*")
    assert given_to(worker) == []
    assert [error.reason for error in client.take(c.Error)] == ["deadline-exceeded"]
    assert stage.service("files.*").counters.expired == 1


def test_a_worker_with_too_many_versions_of_one_name_is_cut_off(stage: Stage) -> None:
    worker = stage.worker(*(f"calc@1.{minor}.0" for minor in range(MAX_VERSIONS)))
    assert not worker.dropped
    other = stage.worker("echo", name="other")
    other.send(c.Slots("calc@2.0.0", 1))
    assert other.goodbye == c.Goodbye(
        f"{MAX_VERSIONS} versions of 'calc@2.0.0' are known, this broker takes no more", True
    )
    assert "calc@2.0.0" not in names(stage)


def test_ranges_that_nobody_can_serve_are_limited_in_number() -> None:
    stage = Stage()
    client = stage.client()
    client.send(*(ask(id, f"calc@>{id}") for id in range(1, MAX_RANGES + 3)))
    assert [(error.id, error.reason) for error in client.take(c.Error)] == [
        (MAX_RANGES + 1, "overloaded"),
        (MAX_RANGES + 2, "overloaded"),
    ]
    client.send(ask(2_000, "other@^1"), ask(2_001, "calc@>1"))
    assert client.take(c.Error) == []
    stage.advance(2.0)
    assert len(client.take(c.Error)) == MAX_RANGES + 2
    check_books(stage.broker, stage.settings)


def test_names_that_a_wildcard_serves_take_no_room_in_the_table() -> None:
    stage = Stage(broker_services=2)
    stage.worker("files.*", slots=1)
    client = stage.client()
    client.send(*(ask(id, f"files.{id}") for id in range(1, 50)))
    assert client.take(c.Error) == []
    assert names(stage) == ["files.*"]


# ---- with keys, and with a broker that is restarted


def test_a_key_belongs_to_the_name_that_was_asked_for(stage: Stage) -> None:
    worker, client, other = stage.worker("files.*", slots=9), stage.client(), stage.client("other")
    client.send(ask(1, "files.a", key="k"), ask(2, "files.b", key="k"))
    other.send(ask(1, "files.a", key="k"))
    first, second = worker.take(c.Request)
    assert (first.asked, second.asked) == ("files.a", "files.b")
    worker.send(c.Final(first.id, 0, b"A"), c.Final(second.id, 0, b"B"))
    assert [(each.id, each.body) for each in client.take(c.Final)] == [(1, b"A"), (2, b"B")]
    assert [each.body for each in other.take(c.Final)] == [b"A"]
    other.send(ask(2, "files.b", key="k"))
    assert [each.body for each in other.take(c.Final)] == [b"B"]
    assert stage.service("files.*").counters.joined == 2


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(("name", "offer"), [("files.read", "files.*"), ("calc@^1.2", "calc@1.3.0")])
def test_a_request_of_a_wildcard_goes_on_after_a_restart(name: str, offer: str, key: str | None) -> None:
    stage = Stage()
    worker, client = stage.worker_machine({offer: 2}), stage.client_machine()
    stage.connect(worker)
    stage.connect(client)
    request = c.Request(0, name, 0, b"?", 0, 0, key=key)
    call = start_call(stage, client, request)
    [execution] = started(worker)
    assert (execution.request.service, execution.asked) == (offer, name)
    stage.disconnect(worker, tell=False)
    stage.disconnect(client, tell=False)
    stage.start_broker(epoch=b"epoch-2")
    stage.connect(client)
    stage.connect(worker)
    assert numbers(stage, offer) == (1, 0, 1)
    assert names(stage) == [offer]
    check_books(stage.broker, stage.settings)
    worker.finish(execution, 0, b"done")
    stage.flush()
    assert call.outcome.body == b"done"
    assert worker.counters()[offer].replied == 1


def test_an_outcome_of_a_wildcard_is_told_after_a_restart() -> None:
    stage = Stage()
    worker, client = stage.worker_machine({"files.*": 2}), stage.client_machine()
    stage.connect(worker)
    stage.connect(client)
    call = start_call(stage, client, c.Request(0, "files.read", 0, b"?", 0, 0, key="k"))
    [execution] = started(worker)
    stage.disconnect(worker, tell=False)
    stage.disconnect(client, tell=False)
    worker.finish(execution, 0, b"done")
    stage.start_broker(epoch=b"epoch-2")
    stage.connect(worker)
    stage.connect(client)
    assert call.outcome.body == b"done"
    assert stage.service("files.*").counters.replied == 1
    again = start_call(stage, client, c.Request(0, "files.read", 0, b"?", 0, 0, key="k"))
    assert again.outcome.body == b"done"
    assert started(worker) == []


def start_call(stage: Stage, client: Any, request: c.Request) -> Any:
    call = start(client, request, now=stage.now)
    stage.flush()
    return call


def test_a_holding_with_a_bad_name_of_its_offer_is_a_breach(stage: Stage) -> None:
    worker = stage.worker("files.*")
    worker.send(c.Holdings([c.Holding(b"caller", 1, "files.read", offered="x" * 300)]))
    assert worker.dropped


def test_demand_is_told_for_a_wildcard(stage: Stage) -> None:
    worker, client = stage.worker("files.*", slots=0), stage.client()
    client.send(ask(1, "files.read"))
    assert worker.take(c.Wanted) == [c.Wanted("files.*", 1)]


# ---- any order of events


OFFERS = ("files.read", "files.*", "files.re*", "*", "calc@1.0.0", "calc@1.1.0", "calc@2.0.0", "calc@^1", "calc")
ASKED = ("files.read", "files.list", "files.*", "calc@^1", "calc@>=1.1", "calc@1.0.0", "calc", "other")
WORKERS = ("w1", "w2", "w3")


def jobs_of(stage: Stage) -> list[Job]:
    return [job for service in stage.services() for job in service.queued_jobs()]


def check_routing(stage: Stage) -> None:
    """What waits is where it can be served; and where nobody serves it, nobody could."""
    broker = stage.broker
    for job in jobs_of(stage):
        service = job.service
        if service.name != job.asked:
            assert service in broker._routes.matching(job.asked)
            assert service.offered_by(job.wanted), "nobody is there for it, and it is not where others look for it"
        elif not service.offered_by(job.wanted):
            assert broker._find(job.asked, job.wanted) is None, "somebody would serve it elsewhere"
            assert service.name in broker._lacking
    known = {service.name for service in stage.services()}
    assert set(broker._lacking._sorted) <= known
    assert {service.name for service in broker._routes._known} <= known
    for service in stage.services():
        matchable = service.name.endswith("*") or service.name in ("calc@1.0.0", "calc@1.1.0", "calc@2.0.0")
        assert (service in broker._routes._known) or not (matchable and service.offers)


class Routing(RuleBasedStateMachine):
    """Offers come and go while requests are asked, served, rejected, and left."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(queue_requests=20)
        self.client = self.stage.client()
        self.workers: dict[str, Speaker] = {}
        self.held: dict[str, list[int]] = {}
        self.last = 0
        self.received = 0
        self.open: set[int] = set()

    @rule(name=st.sampled_from(WORKERS), offers=st.lists(st.sampled_from(OFFERS), unique=True), slots=st.integers(0, 2))
    def come(self, name: str, offers: list[str], slots: int) -> None:
        each = [c.Offer(offer, slots) for offer in offers]
        self.held[name] = []
        if name in self.workers:
            self.workers[name].vanish()
            self.workers[name].greeting.offers = each
            self.workers[name].come_back()
        else:
            self.workers[name] = self.stage.worker(name=name, offers=each)

    @rule(name=st.sampled_from(WORKERS), offer=st.sampled_from(OFFERS), slots=st.integers(0, 2))
    def lease(self, name: str, offer: str, slots: int) -> None:
        if self.here(name):
            self.workers[name].send(c.Slots(offer, slots))

    @rule(name=st.sampled_from(WORKERS), how=st.sampled_from(("vanish", "drain", "goodbye")))
    def go(self, name: str, how: str) -> None:
        if not self.here(name):
            return
        worker = self.workers[name]
        if how == "vanish":
            worker.vanish()
        else:
            worker.send(c.Drain() if how == "drain" else c.Goodbye())
        if how != "drain":
            self.held[name] = []

    def here(self, name: str) -> bool:
        worker = self.workers.get(name)
        return worker is not None and any(each.name == name for each in self.stage.broker.sessions())

    @rule(
        name=st.sampled_from(ASKED),
        wanted=st.sampled_from((None, None, None, "w1")),
        retry=st.integers(0, 2),
        key=st.sampled_from((None, None, "k")),
        times=st.integers(1, 3),
    )
    def ask(self, name: str, wanted: str | None, retry: int, key: str | None, times: int) -> None:
        for _ in range(times):
            self.last += 1
            self.open.add(self.last)
            self.client.send(ask(self.last, name, worker=wanted, retry=retry, key=key))

    @rule(name=st.sampled_from(WORKERS), what=st.sampled_from(("final", "reject", "error")))
    def answer(self, name: str, what: str) -> None:
        if self.here(name) and self.held[name]:
            id = self.held[name].pop(0)
            replies = {"final": c.Final(id, 0, b"!"), "reject": c.Reject(id), "error": c.Error(id, "INTERNAL", "", "")}
            self.workers[name].send(replies[what])

    @rule(which=st.randoms(use_true_random=False))
    def leave(self, which: Any) -> None:
        if self.open:
            id = which.choice(sorted(self.open))
            self.open.discard(id)
            self.client.send(c.Cancel(id))

    @rule(seconds=st.sampled_from((0.3, 1.1, 11.0)))
    def wait(self, seconds: float) -> None:
        self.stage.advance(seconds)

    @invariant()
    def all_is_where_it_belongs(self) -> None:
        for name, worker in self.workers.items():
            for request in worker.take(c.Request):
                served = request.asked or request.service
                assert request.service in OFFERS
                assert request.service == served or fits(request.service, served)
                self.held[name].append(request.id)
        for outcome in self.client.take((c.Final, c.Error)):
            self.open.discard(outcome.id)
        check_books(self.stage.broker, self.stage.settings)
        check_routing(self.stage)
        totals = [service.counters for service in self.stage.services()]
        assert (
            sum(each.received + each.joined for each in totals)
            + sum((self.stage.broker.forgotten.received, self.stage.broker.forgotten.joined))
            == self.last
        )

    def teardown(self) -> None:
        for worker in self.workers.values():
            if worker.link.opened:
                worker.vanish()
        self.stage.advance(60.0)
        self.all_is_where_it_belongs()
        assert not self.open, "a request without an outcome"
        self.client.vanish()
        self.stage.advance(60.0)
        check_empty(self.stage.broker)
        assert not len(self.stage.broker._routes)
        assert not len(self.stage.broker._lacking)


def fits(offer: str, asked: str) -> bool:
    """Whether an offer may serve a name."""
    satisfying = {"calc@^1": ("1.0.0", "1.1.0"), "calc@>=1.1": ("1.1.0", "2.0.0"), "calc@1.0.0": ("1.0.0",)}
    if "@" in asked:
        return offer in [f"calc@{version}" for version in satisfying[asked]]
    return offer.endswith("*") and not asked.endswith("*") and asked.startswith(offer[:-1])


TestRouting = Routing.TestCase
TestRouting.settings = settings(stateful_step_count=50)

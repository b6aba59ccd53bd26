"""The uplinks to brokers of other kinds, alone: what they say, what they make of what they hear, and what is left."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import BROKER, session_id, start, started

from zmdp_trio._core import options
from zmdp_trio._core.client import ClientMachine
from zmdp_trio._core.dialler import Dialler
from zmdp_trio._core.foreign import protocol_of
from zmdp_trio._core.foreign.lane import ForeignLane
from zmdp_trio._core.foreign.worker import MAX_REJECTED, REJECTED
from zmdp_trio._core.uplink import Identity
from zmdp_trio._core.worker import WorkerEvent, WorkerMachine
from zmdp_trio._errors import BrokerLost, RequestError
from zmdp_trio._settings import DEFAULTS
from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import DIALECTS, Route
from zmdp_trio._wire.majordomo import messages as m
from zmdp_trio._wire.protocols import PROTOCOLS

FOREIGN = [name for name in PROTOCOLS if name != "zmdp/1"]
SERVICE = "echo"


class Scene:
    """A machine, and a broker that is no more than what the test says and sees."""

    def __init__(self, protocol: str, *, worker: bool = False, slots: int = 2, brokers: tuple[str, ...] = (BROKER,)):
        self.dialect = DIALECTS[protocol]
        identity = Identity(session_id("peer"), "peer")
        self.machine: Any
        if worker:
            self.machine = WorkerMachine(identity, DEFAULTS, {SERVICE: slots}, protocol_of(protocol))
            self._in, self._out = Route.BROKER_TO_WORKER, Route.WORKER_TO_BROKER
        else:
            self.machine = ClientMachine(identity, DEFAULTS, protocol_of(protocol))
            self._in, self._out = Route.BROKER_TO_CLIENT, Route.CLIENT_TO_BROKER
        self.now = 0.0
        #: The lanes that are connected, and those that are closed.
        self.lanes: list[ForeignLane] = []
        self.closed: list[ForeignLane] = []
        self.said: list[tuple[ForeignLane, Any]] = []
        for broker in brokers:
            self.machine.add(broker)

    @property
    def dialler(self) -> Dialler:
        dialler: Dialler = self.machine
        return dialler

    def settle(self) -> list[tuple[ForeignLane, Any]]:
        """Do what the engine does until nothing is left; return what was said, heartbeats apart."""
        said: list[tuple[ForeignLane, Any]] = []
        moved = True
        while moved:
            moved = False
            if self.dialler.deadline <= self.now:
                self.dialler.handle_timer(now=self.now)
            for lane in self.dialler.take_opened():
                moved = True
                self.connect(lane)
            for sender in self.dialler.take_dirty():
                sender.scheduled = False
                while sender.peer is not None and (frames := sender.next_batch()) is not None:
                    moved = True
                    said.append((sender, self.dialect.decode(self._out, frames)))
                    sender.batch_sent()
            for lane in self.dialler.take_closed():
                moved = True
                self.closed.append(lane)
                if lane in self.lanes:
                    self.lanes.remove(lane)
            for lane in self.dialler.take_unusable():
                moved = True
                self.cut(lane)
        self.said += said
        return [each for each in said if not isinstance(each[1], m.Heartbeat)]

    def connect(self, lane: Any) -> None:
        lane.routing_id()
        self.lanes.append(lane)
        self.dialler.connected(lane, now=self.now)

    def cut(self, lane: Any, *, again: bool = True) -> None:
        """A connection is lost; the engine dials it again."""
        if lane in self.lanes:
            self.lanes.remove(lane)
            self.dialler.cut(lane, "cut", now=self.now)
            if again and not lane.closed:
                self.connect(lane)

    def hear(self, lane: Any, message: m.Message) -> None:
        self.dialler.receive(lane, self.dialect.encode(self._in, message), now=self.now)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.dialler.deadline <= until:
            self.now = max(self.now, self.dialler.deadline)
            self.settle()
        self.now = until


def ask(scene: Scene, **fields: Any) -> Any:
    return start(scene.machine, c.Request(0, SERVICE, c.Content.JSON, b"1", 0, 0, **fields), now=scene.now)


def answer(request: m.Request, body: bytes = b"2") -> m.Final:
    return m.Final([body], service=request.service, id=request.id)


def nothing_left(scene: Scene) -> None:
    """No table knows of any request."""
    numbers = scene.machine.statistics()
    assert {numbers["waiting"], numbers["outstanding"], numbers["timers"]} == {0}
    for uplink in scene.machine.uplinks.values():
        link = uplink.link
        assert (link._asks, link._by_rid, link._queue, link.outbox_bytes) == ({}, {}, {}, 0)
        assert all(lane.ask is None for lane in link._lanes)


@pytest.mark.parametrize("protocol", FOREIGN)
def test_it_is_up_when_it_is_connected_and_says_nothing_before(protocol: str) -> None:
    scene = Scene(protocol)
    call = ask(scene)
    assert scene.dialler.take_dirty() == []
    [(lane, request)] = scene.settle()
    assert scene.machine.uplinks[BROKER].up
    scene.hear(lane, answer(request))
    assert call.outcome.body == b"2"
    nothing_left(scene)


@pytest.mark.parametrize("protocol", FOREIGN)
def test_names_of_requests_and_connections_are_nobody_else_s(protocol: str) -> None:
    scene = Scene(protocol)
    lane = scene.machine.uplinks[BROKER].lanes[0]
    names = [lane.routing_id() for _ in range(100)]
    if scene.dialect.numbered:
        assert len(set(names)) == 100
        assert all(name.isascii() and 0 < len(name) < 256 for name in names)
    else:
        assert set(names) == {b""}
    for _ in range(10):
        ask(scene)
    ids = {request.id for _, request in scene.settle()}
    assert len(ids) == (10 if scene.dialect.numbered else 1)


@pytest.mark.parametrize("protocol", ["mdp/0.1", "mdp/0.2", "majortomo"])
def test_a_request_that_was_not_sent_loses_nothing_with_its_connection(protocol: str) -> None:
    scene = Scene(protocol)
    scene.settle()
    call = ask(scene)
    [lane] = scene.lanes
    scene.cut(lane)
    [(_, request)] = scene.settle()
    scene.hear(scene.lanes[0], answer(request))
    assert call.outcome.body == b"2"
    nothing_left(scene)


@pytest.mark.parametrize("protocol", FOREIGN)
def test_a_request_that_was_sent_may_run_again_as_often_as_it_says(protocol: str) -> None:
    scene = Scene(protocol)
    call = ask(scene, retry=1)
    for _ in range(2):
        [(lane, _)] = scene.settle()
        assert call.outcome is None
        scene.cut(lane)
    scene.settle()
    assert type(call.outcome) is BrokerLost
    nothing_left(scene)


@pytest.mark.parametrize("protocol", ["mdp/0.1", "mdp/0.2", "majortomo"])
def test_one_lost_connection_costs_one_request(protocol: str) -> None:
    scene = Scene(protocol)
    calls = [ask(scene) for _ in range(3)]
    said = scene.settle()
    scene.cut(said[1][0])
    scene.settle()
    assert [type(call.outcome) for call in calls] == [type(None), BrokerLost, type(None)]
    assert scene.machine.uplinks[BROKER].up
    for lane, request in (said[0], said[2]):
        scene.hear(lane, answer(request))
    scene.settle()
    nothing_left(scene)


@pytest.mark.parametrize("protocol", FOREIGN)
def test_a_client_s_uplink_that_is_not_wanted_any_more_ends_with_its_last_request(protocol: str) -> None:
    scene = Scene(protocol)
    ask(scene)
    [(lane, request)] = scene.settle()
    uplink = scene.machine.uplinks[BROKER]
    scene.machine.retire(uplink)
    assert scene.machine.take_retired() == []
    scene.hear(lane, answer(request))
    assert scene.machine.take_retired() == [uplink]
    assert uplink.lanes == [lane]


@pytest.mark.parametrize(
    ("told", "left"),
    [
        (b"", 59.75),
        (b'{"timeout":2000}', 1.8),
        (b'{"timeout":0}', 59.75),
        (b'{"timeout":-1}', None),
        (b'{"timeout":1e300}', None),
        (b'{"timeout":"soon"}', 59.75),
        (b"[]", 59.75),
        (b"{", 59.75),
    ],
)
def test_a_pigato_request_s_options_are_its_handler_s_deadline_and_header(told: bytes, left: float | None) -> None:
    scene = Scene("pigato", worker=True)
    scene.settle()
    [lane] = scene.lanes
    scene.hear(lane, m.Request([b"1"], service=SERVICE, client=b"c", id=b"r", options=told))
    [execution] = started(scene.machine)
    assert execution.request.left == (None if left is None else pytest.approx(left))
    assert execution.request.headers == ({"opts": told.decode()} if told else None)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {"timeout": -1}),
        ({"timeout": 5.0, "left": 2.5}, {"timeout": 2500}),
        ({"timeout": 1e-9}, {"timeout": 1}),
        ({"timeout": 1e12}, {"timeout": -1}),
        ({"retry": 3, "worker": "w-1"}, {"timeout": -1, "retry": 1, "workerId": "w-1"}),
        ({"headers": {"opts": '{"nocache":1,"timeout":7}'}}, {"timeout": -1, "nocache": 1}),
        ({"headers": {"opts": "no JSON"}}, {"timeout": -1}),
    ],
)
def test_what_a_pigato_broker_is_told_of_a_request(fields: dict[str, Any], told: dict[str, Any]) -> None:
    request = c.Request(1, SERVICE, c.Content.JSON, b"1", 0, 0, **fields)
    assert msgspec.json.decode(options.for_broker(request)) == told


@pytest.mark.parametrize("protocol", FOREIGN)
def test_a_worker_s_uplink_that_is_not_wanted_any_more_ends_with_its_last_handler(protocol: str) -> None:
    scene = Scene(protocol, worker=True)
    scene.settle()
    [lane] = scene.lanes
    scene.hear(lane, m.Request([b"1"], service=SERVICE, client=b"c", id=b"r"))
    [execution] = started(scene.machine)
    scene.settle()
    uplink = scene.machine.uplinks[BROKER]
    scene.machine.retire(uplink)
    scene.advance(5)
    assert scene.machine.take_retired() == []
    scene.machine.finish(execution, c.Content.JSON, b"2")
    assert [type(message) for _, message in scene.settle()] == [m.Final]
    assert scene.machine.take_retired() == []
    scene.advance(5)
    assert scene.machine.take_retired() == [uplink]
    assert m.Disconnect in {type(message) for _, message in scene.said}


def reject(scene: Scene, id: bytes, client: bytes = b"c") -> list[Any]:
    """Give a PIGATO worker a request that its handler rejects; return what it says."""
    [lane] = scene.lanes
    scene.hear(lane, m.Request([b"1"], service=SERVICE, client=client, id=id, options=b'{"timeout":-1}'))
    for execution in started(scene.machine):
        scene.machine.reject(execution)
    return [message for _, message in scene.settle()]


def test_a_rejected_request_that_a_pigato_broker_gives_again_ends_and_is_forgotten() -> None:
    scene = Scene("pigato", worker=True)
    scene.settle()
    rejected = scene.machine.uplinks[BROKER].link._rejected
    for _ in range(2):
        assert [type(each) for each in reject(scene, b"r")] == [m.Reject]
        assert [type(each) for each in reject(scene, b"r", client=b"d")] == [m.Reject], "it is somebody else's"
        for client in (b"c", b"d"):
            [failure] = reject(scene, b"r", client)
            error = msgspec.json.decode(failure.error)
            assert error == {"code": "UNAVAILABLE", "message": "every worker that was asked rejected it"}
        assert rejected == {}


def test_what_was_rejected_is_forgotten_with_the_connection_to_its_broker() -> None:
    scene = Scene("pigato", worker=True)
    scene.settle()
    for _ in range(2):
        assert [type(each) for each in reject(scene, b"r")][-1] is m.Reject
        scene.cut(scene.lanes[0])
        scene.settle()
    assert scene.machine.uplinks[BROKER].link._rejected == {}


def test_a_request_that_was_rejected_long_ago_is_run_anew() -> None:
    scene = Scene("pigato", worker=True)
    scene.settle()
    for _ in range(3):
        assert [type(each) for each in reject(scene, b"r")] == [m.Reject]
        scene.now += REJECTED + 1


def test_so_many_rejected_requests_are_known_and_a_longer_queue_of_them_ends_too() -> None:
    scene = Scene("pigato", worker=True)
    scene.settle()
    rejected = scene.machine.uplinks[BROKER].link._rejected
    queue, rounds = [b"%d" % n for n in range(MAX_REJECTED + 100)], 0
    while queue:
        queue = [id for id in queue if isinstance(reject(scene, id)[0], m.Reject)]
        rounds += 1
        assert len(rejected) <= MAX_REJECTED
        assert rounds <= 4
    assert rejected == {}


@pytest.mark.parametrize("protocol", FOREIGN)
def test_a_lane_is_closed_only_when_what_it_has_to_say_was_sent(protocol: str) -> None:
    scene = Scene(protocol, worker=True)
    scene.settle()
    [lane] = scene.lanes
    scene.hear(lane, m.Request([b"1"], service=SERVICE, client=b"c", id=b"r"))
    [execution] = started(scene.machine)
    scene.machine.finish(execution, c.Content.JSON, b"2")
    scene.machine.goodbye()
    assert scene.dialler.take_closed() == []
    sent = 0
    while lane.next_batch() is not None:
        assert lane not in scene.dialler.take_closed()
        lane.batch_sent()
        sent += 1
    assert sent >= 2
    assert lane in scene.dialler.take_closed()


@pytest.mark.parametrize("protocol", FOREIGN)
def test_what_is_said_for_a_lost_request_goes_nowhere(protocol: str) -> None:
    scene = Scene(protocol, worker=True)
    scene.settle()
    [lane] = scene.lanes
    scene.hear(lane, m.Request([b"1"], service=SERVICE, client=b"c", id=b"r"))
    [execution] = started(scene.machine)
    scene.settle()
    for each in scene.lanes[:]:
        scene.cut(each)
    scene.settle()
    assert scene.machine.take_events() == [(WorkerEvent.CANCEL, execution)]
    scene.machine.finish(execution, c.Content.JSON, b"2")
    assert [message for _, message in scene.settle() if not isinstance(message, m.Ready)] == []
    assert scene.machine.running == 0


#: Any field of any message, and what is no message at all.
SMALL = st.sampled_from([b"", b"0", b"1", b"null", b"{}", b'{"timeout":1e400}', b'{"timeout":-1}', b"\xff", b"r" * 300])
BODIES = st.lists(SMALL, min_size=1, max_size=3)
TO_CLIENT = st.one_of(
    st.builds(m.Partial, BODIES, service=st.sampled_from([SERVICE, "other"])),
    st.builds(m.Final, BODIES, service=st.sampled_from([SERVICE, "other"])),
    st.builds(m.Failure, SMALL),
    st.builds(m.Heartbeat),
)
TO_WORKER = st.one_of(
    st.builds(m.Request, BODIES, service=st.just(SERVICE), client=SMALL, id=SMALL, options=SMALL),
    st.builds(m.Heartbeat, id=SMALL, client=SMALL),
    st.builds(m.Ready),
    st.builds(m.Disconnect),
)
GARBAGE = st.lists(st.one_of(SMALL, st.sampled_from([b"C", b"W", b"MDPC02", b"MDPW02", b"3", b"\x02"])), min_size=1)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "cancel", "hear", "garbage", "cut", "wait", "finish"]),
        st.integers(0, 5),
        st.one_of(TO_CLIENT, TO_WORKER),
        GARBAGE,
        st.booleans(),
    ),
    max_size=25,
)


@pytest.mark.parametrize("protocol", FOREIGN)
@given(steps=STEPS)
def test_nothing_that_a_broker_says_gets_at_a_client(protocol: str, steps: Any) -> None:
    scene = Scene(protocol)
    scene.settle()
    calls: list[Any] = []
    ids: list[bytes] = [b""]
    for what, which, message, garbage, real in steps:
        if what == "ask":
            try:
                calls.append(ask(scene, retry=which % 2))
            except RequestError as error:
                raise AssertionError from error
        elif what == "cancel" and calls:
            scene.machine.cancel(calls.pop(which % len(calls)))
        elif scene.lanes and what in ("hear", "garbage", "cut"):
            lane = scene.lanes[which % len(scene.lanes)]
            if what == "cut":
                scene.cut(lane)
            elif what == "garbage":
                scene.dialler.receive(lane, garbage, now=scene.now)
            elif scene.dialect.can_say(Route.BROKER_TO_CLIENT, type(message)):
                if real and hasattr(message, "id") and type(message) is not m.Heartbeat:
                    message.id = ids[which % len(ids)]
                scene.hear(lane, message)
        elif what == "wait":
            scene.advance(which)
        ids += [request.id for _, request in scene.settle()]
        for call in calls:
            while call.inbox:
                scene.machine.take(call)
    for call in calls:
        scene.machine.cancel(call)
    scene.settle()
    nothing_left(scene)
    assert scene.machine.credit.left == DEFAULTS.connection_credit


@pytest.mark.parametrize("protocol", FOREIGN)
@given(steps=STEPS)
def test_nothing_that_a_broker_says_gets_at_a_worker(protocol: str, steps: Any) -> None:
    scene = Scene(protocol, worker=True, slots=3)
    scene.settle()
    running: list[Any] = []
    for what, which, message, garbage, real in steps:
        if what == "finish" and running:
            execution = running.pop(which % len(running))
            if real and execution.active and execution.has_credit:
                scene.machine.partial(execution, c.Content.JSON, b"null")
            scene.machine.finish(execution, c.Content.JSON, b"2" if real else b"\xff")
        elif scene.lanes and what in ("hear", "garbage", "cut"):
            lane = scene.lanes[which % len(scene.lanes)]
            if what == "cut":
                scene.cut(lane)
            elif what == "garbage":
                scene.dialler.receive(lane, garbage, now=scene.now)
            elif scene.dialect.can_say(Route.BROKER_TO_WORKER, type(message)):
                scene.hear(lane, message)
        elif what == "wait":
            scene.advance(which)
        scene.settle()
        running += started(scene.machine)
        assert len(running) <= 3, "no more than the slots"
    for execution in running:
        scene.machine.finish(execution, c.Content.JSON, b"2")
    scene.settle()
    assert scene.machine.running == 0
    link = scene.machine.uplinks[BROKER].link
    assert not link._tasks
    assert not len(link._expiries)
    assert link.outbox_bytes == 0
    assert all(not lane.tasks for lane in link.lanes())
    assert scene.machine.deadline > scene.now or scene.machine.deadline == math.inf

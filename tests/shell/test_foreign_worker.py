"""Our worker at brokers of other kinds: lanes, slots, losses, heartbeats, time limits, errors, and the drain."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from cluster import Probe, count, echo, until
from foreign_broker import ForeignBroker, open_foreign

from zmdp_trio import (
    Code,
    DeadlineExceeded,
    Reject,
    Request,
    ServiceError,
    open_client,
    open_worker,
    serve_worker,
    service,
)
from zmdp_trio._core.foreign.posts import IDLE
from zmdp_trio._wire.majordomo import messages as m

MDP = ["mdp/0.1", "mdp/0.2", "majortomo"]
NODE = ["omdp", "pigato"]
ALL = [*MDP, *NODE]
ONE_AT_A_TIME = [*MDP, "omdp"]


class Job:
    """A service whose handlers go on when the test says so."""

    def __init__(self, name: str = "job", concurrency: int | None = None) -> None:
        self.running = self.peak = 0
        self.cancelled: list[Any] = []
        self.release = trio.Event()

        @service(name, concurrency=concurrency)
        async def job(payload: str | int | None) -> Any:
            self.running += 1
            self.peak = max(self.peak, self.running)
            try:
                await self.release.wait()
                return payload
            except trio.Cancelled:
                self.cancelled.append(payload)
                raise
            finally:
                self.running -= 1

        self.service = job


def ask(broker: ForeignBroker, name: str, payload: Any = None, id: bytes = b"1", **options: Any) -> None:
    """Have a client of the broker's own imagination ask for something."""
    body = json.dumps(payload).encode()
    request = m.Request([body], service=name, id=id, options=json.dumps(options).encode())
    broker._from_client(b"nobody", request)


def to_nobody(broker: ForeignBroker) -> list[Any]:
    """Return what workers replied."""
    return [message for _, message in broker.said(m.Partial, m.Final, m.Failure, m.Reject)]


@pytest.mark.parametrize("protocol", ALL)
async def test_calls_reach_handlers_and_replies_their_callers(protocol: str, autojump_clock: Any) -> None:
    async with (
        open_foreign(protocol) as broker,
        open_worker([echo, count], broker.endpoint, protocol=protocol) as worker,
        open_client(broker.endpoint, protocol=protocol) as client,
    ):
        reply = await client.request("echo", {"a": 1})
        assert reply == ({"a": 1} if protocol in NODE else b'{"a":1}')
        partials: list[Any] = []
        final = await client.request("count", 3, on_partial=partials.append)
        if protocol == "mdp/0.1":
            assert (partials, final) == ([], [b"0", b"1", b"2", b"3"]), "all in one, where there is no other way"
        else:
            assert ([int(each) for each in partials], int(final)) == ([0, 1, 2], 3)
        await until(lambda: worker.statistics().replied == 2)
        assert worker.statistics().protocol_errors == client.statistics().protocol_errors == 0
        assert {each.service for each in broker.hands.values()} == {"count", "echo"}
    assert broker.hands == {}, "it took its leave"


@pytest.mark.parametrize("protocol", ALL)
async def test_no_more_run_than_the_concurrency_says(protocol: str, autojump_clock: Any) -> None:
    job = Job(concurrency=3)
    async with (
        open_foreign(protocol) as broker,
        open_worker([job.service], broker.endpoint, protocol=protocol),
        open_client(broker.endpoint, protocol=protocol) as client,
        trio.open_nursery() as nursery,
    ):
        for i in range(10):
            nursery.start_soon(client.request, "job", i)
        await until(lambda: job.running == 3)
        await trio.sleep(1)
        assert job.running == job.peak == 3
        assert len(broker.hands) == (1 if protocol == "pigato" else 3)
        job.release.set()
    assert job.peak == 3
    assert len(broker.said(m.Final)) == 10


@pytest.mark.parametrize("protocol", ONE_AT_A_TIME)
async def test_lanes_come_with_the_work_and_go_when_it_has_gone(protocol: str, autojump_clock: Any) -> None:
    job = Job()
    async with (
        open_foreign(protocol) as broker,
        open_worker([job.service], broker.endpoint, protocol=protocol),
        open_client(broker.endpoint, protocol=protocol) as client,
    ):
        await until(lambda: broker.hands)
        assert len(broker.hands) == 1
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(client.request, "job", i)
            await until(lambda: job.running == 20)
            job.release.set()
        assert len(broker.hands) > 20
        for _ in range(30):
            await client.request("job")
            await trio.sleep(3 * IDLE / 30)
        assert len(broker.hands) <= 2, "one for what there is to do, and one more"
        assert sum(len(hand.busy) for hand in broker.hands.values()) == 0


@pytest.mark.parametrize("protocol", ALL)
async def test_a_lost_connection_cancels_what_came_over_it(protocol: str, autojump_clock: Any) -> None:
    job = Job()
    async with trio.open_nursery() as nursery:
        async with open_foreign(protocol) as broker:
            await nursery.start(_serve, job.service, broker.endpoint, protocol)
            ask(broker, "job", "a")
            await until(lambda: job.running == 1)
        await until(lambda: job.cancelled == ["a"])
        await trio.sleep(1)
        async with open_foreign(protocol) as broker:
            await broker.until(m.Ready)
            job.release.set()
            ask(broker, "job", "b")
            await broker.until(m.Final)
            assert len(to_nobody(broker)) == 1, "what ran for the first broker is none of the second one's business"
        nursery.cancel_scope.cancel()


async def _serve(
    job: Any, endpoint: str, protocol: str, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
) -> None:
    await serve_worker([job], endpoint, protocol=protocol, task_status=task_status)


@pytest.mark.parametrize("protocol", ALL)
async def test_a_broker_that_knows_the_worker_no_more_hears_ready_again(protocol: str, autojump_clock: Any) -> None:
    job = Job()
    async with (
        open_foreign(protocol) as broker,
        open_worker([job.service], broker.endpoint, protocol=protocol, drain_grace=0),
    ):
        await broker.until(m.Ready)
        ask(broker, "job", "a")
        await trio.sleep(1)
        known = len(broker.said(m.Ready))
        hands, broker.hands = broker.hands, {}
        for peer in hands:
            broker.to_worker(peer, m.Disconnect())
        *_, (peer, _) = await broker.until(m.Ready, known + 1)
        assert peer not in hands
        assert job.cancelled == ["a"]


@pytest.mark.parametrize("protocol", ALL)
async def test_a_broker_that_falls_silent_is_tried_anew(protocol: str, autojump_clock: Any) -> None:
    async with (
        open_foreign(protocol) as broker,
        open_worker([echo], broker.endpoint, protocol=protocol, heartbeat=1, misses=2) as worker,
    ):
        await trio.sleep(60)
        assert len(broker.said(m.Ready)) == 1
        assert len(broker.said(m.Heartbeat)) >= 58
        broker.deaf = True
        await trio.sleep(4.5)
        assert len(broker.said(m.Ready)) == 2
        broker.deaf = False
        assert worker.statistics().protocol_errors == 0


@pytest.mark.parametrize("protocol", MDP)
async def test_a_broker_that_beats_only_those_who_wait_is_not_silent(protocol: str, autojump_clock: Any) -> None:
    job = Job()
    async with (
        open_foreign(protocol) as broker,
        open_worker([job.service], broker.endpoint, protocol=protocol),
    ):
        await broker.until(m.Ready)
        ask(broker, "job", "a")
        await trio.sleep(600)
        assert job.running == 1
        job.release.set()
        await broker.until(m.Final)


@service("fail")
async def fail(how: str) -> Any:
    if how == "error":
        raise ServiceError(Code.NOT_FOUND, "no such thing", {"a": 1})
    if how == "reject":
        raise Reject
    if how == "crash":
        raise RuntimeError("secret")
    return {"bytes": b"\xff"}


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("error", "NOT_FOUND", "no such thing"),
        ("crash", "INTERNAL", "RuntimeError"),
        ("bytes", "INTERNAL", "the reply: JSON can't say bytes, and its broker speaks {protocol}"),
        ("reject", "UNAVAILABLE", "the worker rejected it, and there is no way to ask another one"),
    ],
)
@pytest.mark.parametrize("protocol", ALL)
async def test_errors_in_the_dialect_s_own_words(
    protocol: str, how: str, code: str, message: str, autojump_clock: Any
) -> None:
    async with open_foreign(protocol) as broker, open_worker([fail], broker.endpoint, protocol=protocol):
        await broker.until(m.Ready)
        ask(broker, "fail", how)
        if protocol == "pigato" and how == "reject":
            await broker.until(m.Reject)
            message = "every worker that was asked rejected it"
        [(_, reply)] = await broker.until(m.Failure if protocol in NODE else m.Final)
        error = json.loads(bytes(reply.error if protocol in NODE else reply.body[0]))
        if protocol in MDP:
            error = error["error"]
        assert (error["code"], error["message"]) == (code, message.format(protocol=protocol))
        assert error.get("details") == ({"a": 1} if how == "error" else None)


async def test_a_pigato_broker_that_gives_rejected_requests_to_the_same_worker_again_is_told_to_stop(
    autojump_clock: Any,
) -> None:
    async with open_foreign("pigato") as broker, open_worker([fail], broker.endpoint, protocol="pigato") as worker:
        await broker.until(m.Ready)
        for _ in range(2):
            for i in range(50):
                ask(broker, "fail", "reject", id=b"%d" % i)
            await broker.until(m.Failure, 50)
            assert len(broker.said(m.Reject)) == 50
            broker.heard.clear()
        await trio.sleep(5)
        assert to_nobody(broker) == []
        assert worker.statistics().received == 100, "of each request, one run"


@pytest.mark.parametrize("protocol", NODE)
async def test_nothing_that_ends_a_node_client_is_sent_to_it(protocol: str, autojump_clock: Any) -> None:
    @service("nothing")
    async def nothing() -> AsyncIterator[None]:
        yield None

    async with open_foreign(protocol) as broker, open_worker([nothing], broker.endpoint, protocol=protocol):
        await broker.until(m.Ready)
        ask(broker, "nothing")
        [(_, partial)] = await broker.until(m.Partial)
        [(_, final)] = await broker.until(m.Final)
        assert (bytes(partial.body[0]), bytes(final.body[0])) == (b"{}", b"null")


@pytest.mark.parametrize("protocol", NODE)
async def test_a_payload_that_is_no_json_never_reaches_the_handler(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_worker([echo], broker.endpoint, protocol=protocol) as worker:
        await broker.until(m.Ready)
        broker._from_client(b"nobody", m.Request([b"{oops"], service="echo", id=b"1"))
        [(_, failure)] = await broker.until(m.Failure)
        assert json.loads(bytes(failure.error))["code"] == "INVALID_ARGUMENT"
        assert worker.statistics().received == 0


@pytest.mark.parametrize("protocol", ALL)
async def test_a_partial_reply_that_can_t_be_said_ends_the_request(
    protocol: str, probe: Probe, autojump_clock: Any
) -> None:
    @service("odd")
    async def odd() -> AsyncIterator[Any]:
        try:
            yield {"bytes": b"\xff"}
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with open_foreign(protocol) as broker, open_worker([odd], broker.endpoint, protocol=protocol) as worker:
        await broker.until(m.Ready)
        ask(broker, "odd")
        await broker.until(m.Failure if protocol in NODE else m.Final)
        with trio.fail_after(5):
            await probe.left.wait()
        await until(lambda: worker.statistics().running + worker.statistics().cancelling == 0)
        assert len(to_nobody(broker)) == 1


async def test_joined_replies_have_the_largest_message_as_their_limit(autojump_clock: Any) -> None:
    async with (
        open_foreign("mdp/0.1") as broker,
        open_worker([count], broker.endpoint, protocol="mdp/0.1", max_message=100),
    ):
        await broker.until(m.Ready)
        ask(broker, "count", 1000)
        [(_, final)] = await broker.until(m.Final)
        assert json.loads(bytes(final.body[0]))["error"]["message"].startswith("the replies are 102 bytes in all")


# ---- PIGATO's concurrency and time limits


async def test_pigato_is_told_how_much_the_worker_takes(autojump_clock: Any) -> None:
    job = Job(concurrency=7)
    async with (
        open_foreign("pigato") as broker,
        open_worker([job.service], broker.endpoint, protocol="pigato", name="till-1"),
    ):
        [(peer, _)] = await broker.until(m.Ready)
        assert peer.startswith(b"till-1-")
        await broker.until(m.Heartbeat)
        [hand] = broker.hands.values()
        assert hand.concurrency == 7
        hand.concurrency = 100
        for i in range(9):
            ask(broker, "job", i, id=b"%d" % i)
        await broker.until(m.Reject, 2)
        hand.concurrency = 7  # or what is rejected comes again and again, and the clock stands still
        await until(lambda: job.running == 7)


@pytest.mark.parametrize(("limit", "seconds"), [(1000, 0.9), (20_000, 19.75), (None, 59.75)])
async def test_a_pigato_request_s_timeout_is_its_handler_s_deadline(
    limit: int | None, seconds: float, autojump_clock: Any
) -> None:
    job = Job()
    async with open_foreign("pigato") as broker, open_worker([job.service], broker.endpoint, protocol="pigato"):
        await broker.until(m.Heartbeat)
        started = trio.current_time()
        ask(broker, "job", "a", **({} if limit is None else {"timeout": limit}))
        [(_, failure)] = await broker.until(m.Failure)
        assert trio.current_time() - started == pytest.approx(seconds)
        assert json.loads(bytes(failure.error))["code"] == "DEADLINE_EXCEEDED"


async def test_a_pigato_request_without_a_timeout_has_all_the_time(autojump_clock: Any) -> None:
    job = Job()
    async with open_foreign("pigato") as broker, open_worker([job.service], broker.endpoint, protocol="pigato"):
        await broker.until(m.Heartbeat)
        ask(broker, "job", "a", timeout=-1)
        await trio.sleep(1000)
        job.release.set()
        await broker.until(m.Final)


async def test_nothing_is_sent_to_pigato_after_the_timeout(autojump_clock: Any) -> None:
    @service("stubborn", concurrency=5)
    async def stubborn(payload: Any) -> Any:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return payload

    async with open_foreign("pigato") as broker, open_worker([stubborn], broker.endpoint, protocol="pigato") as worker:
        await broker.until(m.Heartbeat)
        ask(broker, "stubborn", "a", timeout=1000)
        await trio.sleep(20)
        assert to_nobody(broker) == []
        assert worker.statistics().running == worker.statistics().cancelling == 0
        [hand] = broker.hands.values()
        assert (hand.concurrency, hand.busy) == (5, {}), "over another connection, the slot is free"
        assert len(broker.said(m.Ready)) == 2


# ---- OMDP's request heartbeats


@pytest.mark.parametrize(("beats", "cancelled"), [(0, False), (1, False), (4, True)])
async def test_a_caller_that_used_to_beat_and_stops_has_left(beats: int, cancelled: bool, autojump_clock: Any) -> None:
    seen = []

    @service("watch")
    async def watch(payload: Any, request: Request) -> Any:
        try:
            await trio.sleep(60)
        finally:
            seen.append(request.active)

    async with open_foreign("omdp") as broker, open_worker([watch], broker.endpoint, protocol="omdp"):
        [(peer, _)] = await broker.until(m.Ready)
        ask(broker, "watch", id=b"r")
        for _ in range(beats):
            broker.to_worker(peer, m.Heartbeat(id=b"r", client=b"nobody"))
            await trio.sleep(2.5)
        await trio.sleep(15)
        assert bool(seen) is cancelled
        await broker.until(m.Failure if cancelled else m.Final)


async def test_leaving_a_call_reaches_the_handler_by_way_of_omdp(autojump_clock: Any) -> None:
    job = Job()
    async with (
        open_foreign("omdp") as broker,
        open_worker([job.service], broker.endpoint, protocol="omdp"),
        open_client(broker.endpoint, protocol="omdp") as client,
    ):
        with trio.move_on_after(8):
            await client.request("job", "a")
        await until(lambda: job.cancelled == ["a"], within=15)


# ---- the drain


@pytest.mark.parametrize("protocol", ALL)
async def test_a_drain_lets_what_runs_finish_and_takes_nothing_more(protocol: str, autojump_clock: Any) -> None:
    job = Job()
    async with open_foreign(protocol) as broker:
        async with open_worker([job.service, echo], broker.endpoint, protocol=protocol) as worker:
            await broker.until(m.Ready, 2)
            await trio.sleep(1)
            ask(broker, "job", "a")
            await until(lambda: job.running == 1)
            async with trio.open_nursery() as nursery:
                drained: list[bool] = []

                async def drain() -> None:
                    drained.append(await worker.drain())

                nursery.start_soon(drain)
                await trio.sleep(1)
                ask(broker, "job", "b", id=b"2")
                ask(broker, "echo", "c", id=b"3")
                await trio.sleep(5)
                assert (drained, to_nobody(broker)) == ([], [])
                job.release.set()
            assert drained == [True]
            await until(lambda: to_nobody(broker))
            assert len(to_nobody(broker)) == 1
        await trio.sleep(1)
        assert broker.hands == {}


@pytest.mark.parametrize("protocol", ALL)
async def test_a_worker_leaves_though_its_broker_is_away(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker:
        async with open_worker([echo], broker.endpoint, protocol=protocol):
            await broker.until(m.Ready)
            broker.stop()
            await trio.sleep(1)
            started = trio.current_time()
        assert trio.current_time() - started < 1


@pytest.mark.parametrize("protocol", ALL)
async def test_slots_are_shared_between_brokers(protocol: str, autojump_clock: Any) -> None:
    job = Job(concurrency=4)
    async with open_foreign(protocol, "memory://one") as one:
        async with open_foreign(protocol, "memory://two") as two:
            async with open_worker([job.service], one.endpoint, two.endpoint, protocol=protocol) as worker:
                await one.until(m.Ready)
                await two.until(m.Ready)
                await trio.sleep(3)
                for i in range(4):
                    ask(one, "job", i, id=b"%d" % i)
                    ask(two, "job", i, id=b"%d" % i)
                await trio.sleep(3)
                assert job.running == job.peak == 4
                two.stop()
                await trio.sleep(3)
                assert job.running == job.peak == 4, "the survivor has all slots"
                job.release.set()
                await until(lambda: worker.statistics().running == 0)
        assert len(one.said(m.Final)) == 4


@pytest.mark.parametrize("protocol", ALL)
async def test_a_handler_that_won_t_end_keeps_its_slot_though_its_connection_is_lost(
    protocol: str, autojump_clock: Any
) -> None:
    running: list[Any] = []
    peak = 0

    @service("stubborn", concurrency=2)
    async def stubborn(payload: int) -> int:
        nonlocal peak
        running.append(payload)
        peak = max(peak, len(running))
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        running.remove(payload)
        return payload

    async with (
        open_foreign(protocol) as broker,
        open_worker([stubborn, echo], broker.endpoint, protocol=protocol) as worker,
    ):
        await broker.until(m.Ready, 2)
        await trio.sleep(3)
        ask(broker, "stubborn", 1)
        await trio.sleep(1)
        [lost] = [hand.peer for hand in broker.hands.values() if hand.busy]
        del broker.hands[lost]
        broker.to_worker(lost, m.Disconnect())
        for i in range(2, 7):
            ask(broker, "stubborn", i, id=b"%d" % i)
        await trio.sleep(2)
        assert sorted(running) == [1, 2]
        await trio.sleep(40)
        assert (running, peak) == ([], 2)
        assert [json.loads(bytes(each.body[0])) for each in broker_finals(broker)] == [2, 3, 4, 5, 6]
        assert worker.statistics().protocol_errors == worker.statistics().refused == 0


def broker_finals(broker: ForeignBroker) -> list[Any]:
    return [message for _, message in broker.said(m.Final)]


async def test_the_caller_s_own_scope_ends_the_call_at_pigato_s_broker_too(autojump_clock: Any) -> None:
    job = Job()
    async with (
        open_foreign("pigato") as broker,
        open_worker([job.service], broker.endpoint, protocol="pigato"),
        open_client(broker.endpoint, protocol="pigato") as client,
    ):
        await broker.until(m.Heartbeat)
        for seconds in (0.01, 1, 20):
            started = trio.current_time()
            with trio.move_on_after(seconds) as scope:
                await client.request("job", "a")
            assert scope.cancelled_caught
            assert trio.current_time() - started == pytest.approx(seconds)
        with pytest.raises(DeadlineExceeded):
            await client.request("job", "a", deadline=trio.current_time() + 1)

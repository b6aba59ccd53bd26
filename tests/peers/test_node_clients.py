"""Clients of PIGATO and OMDP call our services, through our broker."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from outsiders import PATIENCE, Caller, Outcome, Stage
from services import count, echo

from zmdp_trio import Broker, Code, Request, ServiceError, Worker, open_broker, open_worker, service

#: Seconds between heartbeats, here and there.
HEARTBEAT = 0.4
#: Milliseconds after which a client gives up: more than a busy machine takes for what has to come before that.
TIMEOUT = 1000

DIALECTS = ("PIGATO", "OMDP")
#: A client of each.
Clients = dict[str, Caller]


@service("fail")
async def fail(id: int) -> None:
    raise ServiceError(Code.NOT_FOUND, "there is no such order", {"id": id})


@service("nothing")
async def nothing() -> AsyncIterator[None]:
    yield None
    yield None


@service("doubled")
async def doubled(n: int) -> int:
    await trio.sleep(0.001 * (n % 7))
    return 2 * n


class Held:
    """A handler that goes on until it is cancelled."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.cancelled = trio.Event()
        self.runs = 0

    async def hold(self, request: Request) -> None:
        self.runs += 1
        self.entered.set()
        try:
            await request.send("held")
            await trio.sleep_forever()
        finally:
            self.cancelled.set()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with open_broker("tcp://127.0.0.1:*", heartbeat=HEARTBEAT, appear=PATIENCE) as broker:
        yield broker


@pytest.fixture
async def worker(broker: Broker) -> AsyncIterator[Worker]:
    async with open_worker([echo, count, fail, nothing, doubled], *broker.endpoints) as worker:
        yield worker


@pytest.fixture
async def pigato(stage: Stage, broker: Broker) -> Caller:
    return await stage.client("PIGATO", broker.endpoints[0], heartbeat=int(HEARTBEAT * 1000))


@pytest.fixture(params=DIALECTS)
async def client(request: pytest.FixtureRequest, stage: Stage, broker: Broker) -> Caller:
    return await stage.client(request.param, broker.endpoints[0], heartbeat=int(HEARTBEAT * 1000))


@pytest.fixture
async def clients(stage: Stage, broker: Broker) -> Clients:
    """One of each dialect, for what takes its time."""
    return {
        dialect: await stage.client(dialect, broker.endpoints[0], heartbeat=int(HEARTBEAT * 1000))
        for dialect in DIALECTS
    }


async def at_once(test: Callable[[str, Caller], Awaitable[None]], clients: Clients) -> None:
    """Have the clients do the same, each with a service that is called as its dialect is."""
    async with trio.open_nursery() as nursery:
        for dialect, client in clients.items():
            nursery.start_soon(test, dialect, client)


async def test_replies(client: Caller, worker: Worker) -> None:
    payload = {"text": "smørrebrød", "list": [1, 2.5, None, True], "much": "x" * 1_000_000}
    assert await client.ask("echo", payload) == Outcome(final=payload)
    assert await client.ask("count", 3) == Outcome([0, 1, 2], 3)
    assert await client.ask("count", 500) == Outcome([*range(500)], 500)


async def test_errors(client: Caller, worker: Worker) -> None:
    outcome = await client.ask("fail", 7)
    assert outcome.error == {"code": "NOT_FOUND", "message": "there is no such order", "details": {"id": 7}}
    outcome = await client.ask("count", "three")
    assert outcome.error["code"] == "INVALID_ARGUMENT"
    assert await client.ask("echo", "and goes on") == Outcome(final="and goes on")


async def test_what_json_can_say_and_javascript_can_not(client: Caller, worker: Worker) -> None:
    """No payload is `undefined` on the wire, and a partial reply of null would end the stream and then the client."""
    assert await client.ask("echo") == Outcome(final=None)
    assert await client.ask("nothing") == Outcome([{}, {}], None)


async def test_a_hundred_at_once(client: Caller, worker: Worker) -> None:
    outcomes: dict[int, Outcome] = {}

    async def call(n: int) -> None:
        outcomes[n] = await client.ask("doubled", n)

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(call, n)
    assert outcomes == {n: Outcome(final=2 * n) for n in range(100)}


async def test_persist_is_refused(pigato: Caller, worker: Worker) -> None:
    outcome = await pigato.ask("echo", 1, opts={"persist": True})
    assert outcome.error["code"] == "UNIMPLEMENTED"
    assert "persist" in outcome.error["message"]


async def test_a_client_that_vanishes(stage: Stage, broker: Broker) -> None:
    """Killed; or stopped, and then its connection stands.  Its handler is cancelled when its heartbeats are missing."""
    (endpoint,) = broker.endpoints

    async def vanish(dialect: str, number: signal.Signals) -> None:
        held = Held()
        name = f"hold for {dialect} until {number.name}"
        async with open_worker([service(name, held.hold)], endpoint, drain_grace=0):
            client = await stage.client(dialect, endpoint, heartbeat=int(HEARTBEAT * 1000))
            await client.begin(name)
            await held.entered.wait()
            client.vanish(number)
            with trio.fail_after(4 * HEARTBEAT + PATIENCE):
                await held.cancelled.wait()

    async with trio.open_nursery() as nursery:
        for dialect in DIALECTS:
            for number in (signal.SIGKILL, signal.SIGSTOP):
                nursery.start_soon(vanish, dialect, number)


async def test_a_client_that_times_out_gets_nothing_late(clients: Clients, broker: Broker, worker: Worker) -> None:
    """A reply to a request that it has given up would end it."""

    async def time_out(dialect: str, client: Caller) -> None:
        held = Held()
        async with open_worker([service(dialect, held.hold)], *broker.endpoints, drain_grace=0):
            pending = await client.begin(dialect, opts={"timeout": TIMEOUT})
            assert (await pending.reply())["data"] == "held"
            assert await pending.reply() == {"event": "final", "data": None, "error": "C_TIMEOUT"}
            with trio.fail_after(PATIENCE):
                await held.cancelled.wait()
        assert await client.ask("echo", 1) == Outcome(final=1)

    await at_once(time_out, clients)


async def test_replies_that_come_too_late_are_kept_from_it(clients: Clients, broker: Broker, worker: Worker) -> None:
    """A thread can't be cancelled, and answers what nobody waits for any more."""

    async def come_late(dialect: str, client: Caller) -> None:
        given_up, answered = threading.Event(), trio.Event()

        @service(dialect)
        def late() -> str:
            given_up.wait(PATIENCE)
            trio.from_thread.run_sync(answered.set)
            return "late"

        async with open_worker([late], *broker.endpoints) as tardy:
            await tardy.wait_welcomed()
            assert await client.ask(dialect, opts={"timeout": TIMEOUT}) == Outcome(error="C_TIMEOUT")
            given_up.set()
            with trio.fail_after(PATIENCE):
                await answered.wait()
            for n in range(20):
                assert await client.ask("echo", n) == Outcome(final=n)

    await at_once(come_late, clients)


async def test_a_request_that_waits_too_long_for_its_service(client: Caller, broker: Broker) -> None:
    assert await client.ask("hold", opts={"timeout": 300}) == Outcome(error="C_TIMEOUT")
    # The broker's time began when the request arrived there: later, and on a busy machine by more than a moment.
    with trio.fail_after(PATIENCE):
        while any(each.queued for each in broker.statistics().services.values()):  # noqa: ASYNC110
            await trio.sleep(0.01)
    held = Held()
    async with open_worker([service("hold", held.hold), echo], *broker.endpoints):
        assert await client.ask("echo", 1) == Outcome(final=1)
    assert held.runs == 0


async def test_a_request_waits_for_its_service(client: Caller, broker: Broker) -> None:
    pending = await client.begin("echo", 1)
    with trio.fail_after(PATIENCE):
        while not any(each.queued for each in broker.statistics().services.values()):  # noqa: ASYNC110
            await trio.sleep(0.01)
    async with open_worker([echo], *broker.endpoints):
        assert await pending.reply() == {"event": "final", "data": 1, "error": None}


async def test_requests_without_a_time_out(clients: Clients, broker: Broker) -> None:
    async def wait_for_ever(dialect: str, client: Caller) -> None:
        held = Held()
        async with open_worker([service(dialect, held.hold)], *broker.endpoints, drain_grace=0):
            pending = await client.begin(dialect, opts={"timeout": -1})
            assert (await pending.reply())["data"] == "held"
            with trio.move_on_after(2 * HEARTBEAT):
                await held.cancelled.wait()
            assert not held.cancelled.is_set()

    await at_once(wait_for_ever, clients)


async def test_pigatos_streams(pigato: Caller, worker: Worker) -> None:
    """Without a callback for the final reply, that is one more of them."""
    pending = await pigato.begin("count", 2, do="stream", beat=100)
    assert [(await pending.reply())["data"] for _ in range(3)] == [0, 1, 2]
    assert (await pending.reply())["event"] == "end"


async def test_a_broker_that_is_restarted(stage: Stage, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/broker"
    async with open_broker(endpoint, heartbeat=HEARTBEAT):
        client = await stage.client("PIGATO", endpoint, heartbeat=200, reconnect=100)
        await client.news("connect")
    await client.news("disconnect")
    async with open_broker(endpoint, heartbeat=HEARTBEAT), open_worker([echo], endpoint):
        await client.news("connect")
        assert await client.ask("echo", 1) == Outcome(final=1)

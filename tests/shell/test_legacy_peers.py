"""Peers of older dialects at a whole broker, with workers and clients of ours on the other side."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import raw
import trio
from cluster import Probe, echo, open_cluster, until

from zmdp_trio import Broker, Code, Final, Reject, RequestError, ServiceError, WorkerLost, open_broker, service
from zmdp_trio._transport import Options, dial
from zmdp_trio._wire.majordomo import DIALECTS, MDP01, MDP02, OMDP, PIGATO, Dialect, Route
from zmdp_trio._wire.majordomo import messages as m

ALL = list(DIALECTS.values())
NUMBERED = [OMDP, PIGATO]
UUID = b"00000000-0000-4000-8000-%012d"


class Peer:
    """A client or a worker that says what the test has it say; it beats by itself, where its dialect has it so."""

    def __init__(self, connection: raw.RawPeer, dialect: Dialect, *, works: bool) -> None:
        self.connection = connection
        self.dialect = dialect
        self._to, self._from = (
            (Route.WORKER_TO_BROKER, Route.BROKER_TO_WORKER)
            if works
            else (Route.CLIENT_TO_BROKER, Route.BROKER_TO_CLIENT)
        )
        self.beats: list[m.Heartbeat] = []
        self.silent = False
        self.killed = False
        #: Set while it reads.
        self.reading = trio.Event()
        self.reading.set()
        self._run_scope = trio.CancelScope()

    async def run(self) -> None:
        """Read, but for the times when it does not."""
        while True:
            await self.reading.wait()
            with trio.CancelScope() as self._run_scope:
                await self.connection.run()

    def stall(self) -> None:
        """Read nothing until `reading` is set."""
        self.reading = trio.Event()
        self._run_scope.cancel()

    def say(self, message: m.Message) -> None:
        self.connection.send(*(bytes(frame) for frame in self.dialect.encode(self._to, message)))

    async def read(self) -> Any:
        """Return the next message that is no heartbeat."""
        while True:
            message = self.dialect.decode(self._from, await self.connection.read())
            if not isinstance(message, m.Heartbeat):
                return message
            self.beats.append(message)

    async def beat(self) -> None:
        while True:
            await trio.sleep(2.5)
            if not self.silent:
                self.say(m.Heartbeat(options=b'{"concurrency":5}' if self._to is Route.WORKER_TO_BROKER else b""))

    def ask(self, name: str, value: Any, n: int = 1, **options: Any) -> None:
        id = UUID % n if self.dialect is PIGATO else b"%d" % n
        text = json.dumps(options).encode()
        self.say(m.Request([json.dumps(value).encode()], service=name, id=id, options=text))

    def ready(self, name: str) -> None:
        self.say(m.Ready(name))
        if self.dialect.json:
            self.say(m.Heartbeat(options=b'{"concurrency":5}'))

    def reply(self, request: m.Request, value: Any, kind: type[Any] = m.Final) -> None:
        self.say(kind([json.dumps(value).encode()], id=request.id, client=request.client))


@asynccontextmanager
async def open_peer(endpoint: str, dialect: Dialect, *, works: bool = False) -> AsyncIterator[Peer]:
    """Connect a peer; a worker that leaves the block in good order says so."""
    connection = raw.RawPeer(dial(endpoint, Options()))
    peer = Peer(connection, dialect, works=works)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            await connection.connected.wait()
            if works or dialect.client_beats:
                nursery.start_soon(peer.beat)
            yield peer
            if works and not peer.killed:
                peer.say(m.Disconnect())
            nursery.cancel_scope.cancel()
    finally:
        connection.close()


def value_of(message: Any) -> Any:
    [body] = message.body
    return json.loads(bytes(body))


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
async def test_our_services_for_their_clients(dialect: Dialect, autojump_clock: Any) -> None:
    @service("fails")
    async def fails(payload: Any) -> None:
        raise ServiceError(Code.PERMISSION_DENIED, "not you")

    @service("count")
    async def count(n: Any) -> AsyncIterator[Any]:
        for i in range(100):
            yield i
        yield Final(100)

    async with open_cluster(echo, count, fails) as cluster, open_peer(cluster.endpoint, dialect) as client:
        client.ask("echo", {"a": [1]})
        assert value_of(await client.read()) == {"a": [1]}
        client.ask("count", 100, 2)
        if dialect.partials:
            assert [value_of(await client.read()) for _ in range(101)] == list(range(101))
        else:
            joined = await client.read()
            assert [json.loads(frame) for frame in joined.body] == list(range(101))
        client.ask("fails", 1, 3)
        reply = await client.read()
        error = json.loads(reply.error) if dialect.failures else value_of(reply)["error"]
        assert error == {"code": "PERMISSION_DENIED", "message": "not you"}
        assert cluster.broker.statistics().protocol_errors == 0


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
async def test_their_services_for_our_clients(dialect: Dialect, autojump_clock: Any) -> None:
    async with open_cluster(echo) as cluster, open_peer(cluster.endpoint, dialect, works=True) as worker:
        worker.ready("theirs")
        client = cluster.client
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def work() -> None:
                requests = []
                while len(requests) < 2:
                    message = await worker.read()
                    if isinstance(message, m.Request):
                        requests.append(message)
                        if dialect.partials:
                            worker.reply(message, "so far", m.Partial)
                        worker.reply(message, {"got": value_of(message)})

            partials: list[Any] = []
            for n in range(2):
                reply = await client.request("theirs", n, on_partial=partials.append)
                assert (json.loads(reply) if isinstance(reply, bytes) else reply) == {"got": n}
        assert len(partials) == (2 if dialect.partials else 0)


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
async def test_a_handler_is_cancelled_when_its_client_falls_silent(
    dialect: Dialect, probe: Probe, autojump_clock: Any
) -> None:
    @service("forever")
    async def forever(payload: Any) -> None:
        probe.enter()
        try:
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with open_cluster(forever) as cluster, open_peer(cluster.endpoint, dialect) as client:
        client.ask("forever", 1, timeout=-1)
        await probe.entered.wait()
        await trio.sleep(60)
        assert not probe.left.is_set()
        client.silent = True
        begun = trio.current_time()
        await probe.left.wait()
        assert trio.current_time() - begun < 12.6


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
async def test_a_handler_is_cancelled_when_its_client_is_killed(
    dialect: Dialect, probe: Probe, autojump_clock: Any
) -> None:
    @service("forever")
    async def forever(payload: Any) -> AsyncIterator[Any]:
        probe.enter()
        try:
            while True:
                yield 1
                await trio.sleep(1)
        finally:
            probe.leave()

    async with open_cluster(forever) as cluster:
        async with open_peer(cluster.endpoint, dialect) as client:
            client.ask("forever", 1, timeout=-1)
            await probe.entered.wait()
        begun = trio.current_time()
        await probe.left.wait()
        assert trio.current_time() - begun < 10.1


@pytest.mark.parametrize("dialect", NUMBERED, ids=lambda each: each.name)
async def test_a_client_that_times_out_hears_nothing_late(dialect: Dialect, probe: Probe, autojump_clock: Any) -> None:
    @service("slow")
    async def slow(payload: Any) -> str:
        probe.enter()
        try:
            await trio.sleep(5)
        finally:
            probe.leave()
        return "too late"

    async with open_cluster(slow, echo) as cluster, open_peer(cluster.endpoint, dialect) as client:
        client.ask("slow", 1, timeout=1000)
        await probe.left.wait()
        assert probe.left_at is not None
        await trio.sleep(10)
        client.ask("echo", "next", 2)
        assert value_of(await client.read()) == "next"


@pytest.mark.parametrize("dialect", [each for each in ALL if each.partials], ids=lambda each: each.name)
async def test_a_client_that_does_not_read_stops_the_generator_and_nobody_else(
    dialect: Dialect, autojump_clock: Any
) -> None:
    sent = 0

    @service("stream")
    async def stream(payload: Any) -> AsyncIterator[Any]:
        nonlocal sent
        for i in range(2_000):
            sent = i
            yield "x" * 1000

    async with (
        open_cluster(stream, echo, credit_messages=16) as cluster,
        open_peer(cluster.endpoint, dialect) as client,
    ):
        client.stall()
        client.ask("stream", 1, timeout=-1)
        for n in range(20):
            assert await cluster.client.request("echo", n) == n
            await trio.sleep(0.3)
        # What the network holds, and the credit beyond that.
        assert sent < 400
        assert cluster.broker.statistics().memory < 100_000
        client.reading.set()
        replies = 0
        while isinstance(await client.read(), m.Partial):
            replies += 1
        assert replies == 2_000


@pytest.mark.parametrize("dialect", [MDP01, MDP02, OMDP, PIGATO], ids=lambda each: each.name)
async def test_a_worker_that_works_for_half_a_minute_in_silence(dialect: Dialect, autojump_clock: Any) -> None:
    async with open_cluster(echo) as cluster, open_peer(cluster.endpoint, dialect, works=True) as worker:
        worker.ready("slow")
        worker.silent = True
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def work() -> None:
                request = await worker.read()
                while not isinstance(request, m.Request):
                    request = await worker.read()
                await trio.sleep(30)
                worker.reply(request, "done")

            reply = await cluster.client.request("slow")
            assert reply in (b'"done"', "done")


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
async def test_a_busy_worker_that_is_killed_is_noticed_at_once(dialect: Dialect, autojump_clock: Any) -> None:
    async with open_cluster(echo, resume=1.0) as cluster, trio.open_nursery() as nursery:
        gone = trio.Event()

        @nursery.start_soon
        async def work() -> None:
            async with open_peer(cluster.endpoint, dialect, works=True) as worker:
                worker.ready("theirs")
                worker.killed = True
                while not isinstance(await worker.read(), m.Request):
                    pass
            gone.set()

        with pytest.raises(WorkerLost):
            await cluster.client.request("theirs", 1)
        await gone.wait()


async def test_a_pigato_worker_hears_of_a_request_for_as_long_as_somebody_waits(autojump_clock: Any) -> None:
    async with open_cluster(echo) as cluster, open_peer(cluster.endpoint, PIGATO, works=True) as worker:
        worker.ready("theirs")
        with trio.move_on_after(20):
            await cluster.client.request("theirs", 1)
        await trio.sleep(20)
        request = None
        while request is None:
            message = await worker.read()
            request = message if isinstance(message, m.Request) else None
        worker.reply(request, "for nobody")
        with trio.move_on_after(1):
            await worker.read()
        assert 7 <= worker.beats.count(m.Heartbeat(id=request.id, client=request.client)) <= 8
        assert cluster.broker.statistics().late_replies == 0


async def test_workers_of_all_kinds_reject_in_turn(autojump_clock: Any) -> None:
    @service("picky")
    async def picky(payload: Any) -> None:
        raise Reject

    async with open_cluster(picky) as cluster, open_peer(cluster.endpoint, PIGATO, works=True) as worker:
        worker.ready("picky")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def work() -> None:
                while not isinstance(request := await worker.read(), m.Request):
                    pass
                worker.say(m.Reject(id=request.id, client=request.client))

            with pytest.raises(RequestError) as caught:
                await cluster.client.request("picky", 1)
        assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
async def test_a_broker_that_leaves_says_so_to_workers(dialect: Dialect, autojump_clock: Any) -> None:
    leave = trio.Event()

    async def serve(task_status: trio.TaskStatus[Broker]) -> None:
        async with open_broker("memory://leaving") as broker:
            task_status.started(broker)
            await leave.wait()

    async with trio.open_nursery() as nursery:
        broker: Broker = await nursery.start(serve)
        async with open_peer("memory://leaving", dialect, works=True) as worker:
            worker.ready("theirs")
            await until(lambda: broker.statistics().total.workers == 1)
            leave.set()
            while not isinstance(await worker.read(), m.Disconnect):
                pass
            worker.killed = True

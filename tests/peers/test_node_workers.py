"""PIGATO's workers, and some of OMDP, serve our client and their own, through our broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from outsiders import PATIENCE, Outcome, Peer, Stage

from zmdp_trio import (
    Broker,
    Client,
    Code,
    InvalidArgument,
    RequestError,
    RequestRejected,
    open_broker,
    open_client,
)

HEARTBEAT = 0.4
BEAT = {"heartbeat": int(HEARTBEAT * 1000)}

#: Dialects in which requests have heartbeats, and how each one's client makes one that does.
LETTERED = {"PIGATO": "stream", "OMDP": "request"}
#: Seconds between partial replies; and how many of them last longer than three heartbeats.
TICK = HEARTBEAT / 4
LONG = 15


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with open_broker("tcp://127.0.0.1:*", heartbeat=HEARTBEAT, appear=PATIENCE) as broker:
        yield broker


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[Client]:
    async with open_client(*broker.endpoints) as client:
        with trio.fail_after(2 * PATIENCE):
            yield client


async def start(stage: Stage, broker: Broker, services: dict[str, str], **options: Any) -> Peer:
    """Start PIGATO workers, and wait until the broker has greeted each."""
    worker = await stage.worker("PIGATO", broker.endpoints[0], services, **BEAT | options)
    await worker.greeted(services)
    return worker


async def test_replies_and_errors(stage: Stage, broker: Broker, client: Client) -> None:
    await start(stage, broker, {"echo": "echo", "count": "count", "fail": "fail"})
    assert await client.request("echo", {"a": [1, None, "ø"]}) == {"a": [1, None, "ø"]}
    async with client.stream("count", 500) as stream:
        assert [n async for n in stream] == [*range(500)]
    assert stream.final == 500
    with pytest.raises(RequestError) as caught:
        await client.request("fail", {"code": "NOT_FOUND", "message": "no order", "details": 7})
    assert (caught.value.code, caught.value.message, caught.value.details) == (Code.NOT_FOUND, "no order", 7)
    with pytest.raises(RequestError) as caught:
        await client.request("fail", {"code": "TEAPOT"})
    assert (caught.value.code, caught.value.details) == (Code.INTERNAL, {"code": "TEAPOT"})


async def test_a_payload_that_json_can_not_say(stage: Stage, broker: Broker, client: Client) -> None:
    await start(stage, broker, {"echo": "echo"})
    with pytest.raises(InvalidArgument, match="its worker speaks pigato"):
        await client.request("echo", {"bytes": b"x"})
    assert await client.request("echo", b'{"json": true}') == {"json": True}


async def test_one_that_offers_what_it_may_not_comes_no_faster_than_the_broker_beats(
    stage: Stage, broker: Broker
) -> None:
    """It starts over at once when it is told."""
    started = trio.current_time()
    worker = await stage.worker("PIGATO", broker.endpoints[0], {"mmi.x": "echo"}, **BEAT)
    with trio.fail_after(PATIENCE):
        for _ in range(4):
            await worker.news("connect")
    # The last connection need not have brought its offer by now.
    assert 3 <= broker.statistics().protocol_errors <= (trio.current_time() - started) / HEARTBEAT + 2


async def test_reject(stage: Stage, broker: Broker, client: Client) -> None:
    picky = await start(stage, broker, {"picky": "reject"})
    with pytest.raises(RequestRejected):
        await client.request("picky", "not me")
    await start(stage, broker, {"picky": "echo"})
    for n in range(10):
        assert await client.request("picky", n) == n
    assert len(picky.news_so_far("request")) <= 11


async def test_concurrency_is_announced_and_changed(stage: Stage, broker: Broker, client: Client) -> None:
    worker = await start(stage, broker, {"nap": "nap"}, concurrency=2)

    async def most_at_once() -> int:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client.request, "nap", 0.2)
        return max(int(request["held"]) for request in worker.news_so_far("request"))

    assert await most_at_once() == 2
    await worker.order("concurrency", service="nap", limit=4)
    await worker.news("announced")
    assert await client.request("nap", 0) == 0, "its reply comes behind what it has announced"
    assert await most_at_once() == 4


async def test_one_worker_by_its_name(stage: Stage, broker: Broker, client: Client) -> None:
    caller = await stage.client("PIGATO", broker.endpoints[0], **BEAT)
    workers = [await stage.worker("PIGATO", broker.endpoints[0], {"echo": "echo"}, **BEAT) for _ in range(2)]
    names = [(await worker.news("connect"))["name"] for worker in workers]
    for n in range(5):
        assert await caller.ask("echo", n, opts={"workerId": names[1]}) == Outcome(final=n)
        assert await client.request("echo", n, worker=names[1]) == n
    assert [len(worker.news_so_far("request")) for worker in workers] == [0, 10]
    assert sorted((await caller.ask("$dir", "echo")).final) == sorted(names)


async def test_wildcards_and_versions(stage: Stage, broker: Broker, client: Client) -> None:
    services = ["shop.*", "shop.order.*", "shop.order.new", "echo@1.2.0", "echo@1.3.1", "echo@2.0.0"]
    worker = await start(stage, broker, dict.fromkeys(services, "echo"))
    caller = await stage.client("PIGATO", broker.endpoints[0], **BEAT)
    for asked, served in {
        "shop.close": "shop.*",
        "shop.order.old": "shop.order.*",
        "shop.order.new": "shop.order.new",
        "echo@1.2.0": "echo@1.2.0",
        "echo@~1.2.0": "echo@1.2.0",
        "echo@^2.0.0": "echo@2.0.0",
    }.items():
        assert await caller.ask(asked, 1) == Outcome(final=1)
        assert (await worker.news("request"))["service"] == served
        assert await client.request(asked, 2) == 2
        assert (await worker.news("request"))["service"] == served
    assert await caller.ask("echo@^1.2.0", 1) == Outcome(final=1)
    assert (await worker.news("request"))["service"] in ("echo@1.2.0", "echo@1.3.1")


async def test_retry(stage: Stage, broker: Broker) -> None:
    caller = await stage.client("PIGATO", broker.endpoints[0], **BEAT)
    first = await start(stage, broker, {"either": "nap"})
    pending = await caller.begin("either", 3600, opts={"retry": 1})
    await first.news("request")
    await start(stage, broker, {"either": "echo"})
    first.kill()
    assert await pending.reply() == {"event": "final", "data": 3600, "error": None}


async def test_a_worker_that_leaves(stage: Stage, broker: Broker, client: Client) -> None:
    """It says DISCONNECT, and its place is another's."""
    first = await start(stage, broker, {"echo": "echo"})
    second = await start(stage, broker, {"echo": "echo"})
    await first.order("stop", service="echo")
    await first.news("disconnect")
    for n in range(5):
        assert await client.request("echo", n, retry=1) == n
    assert len(second.news_so_far("request")) == 5


async def test_requests_have_heartbeats(stage: Stage, broker: Broker, client: Client) -> None:
    """A worker takes it from them whether somebody waits.

    Those of its own dialect's clients reach it; for our client, which has none, the broker sends them.
    """
    (endpoint,) = broker.endpoints

    async def ours(dialect: str) -> None:
        name = f"tick by {dialect} for us"
        worker = await stage.worker(dialect, endpoint, {name: "tick"}, **BEAT)
        async with client.stream(name, TICK) as stream:
            async for ticks in stream:
                if ticks == LONG:
                    break
        await worker.news("inactive")

    async def its_own(dialect: str, do: str) -> None:
        name = f"tick by {dialect}"
        worker = await stage.worker(dialect, endpoint, {name: "tick"}, **BEAT)
        caller = await stage.client(dialect, endpoint, **BEAT)
        pending = await caller.begin(name, TICK, do=do, beat=BEAT["heartbeat"] // 2)
        for ticks in range(LONG):
            assert (await pending.reply())["data"] == ticks
        caller.kill()
        await worker.news("inactive")

    async with trio.open_nursery() as nursery:
        for dialect, do in LETTERED.items():
            nursery.start_soon(ours, dialect)
            nursery.start_soon(its_own, dialect, do)


async def test_a_broker_that_is_restarted(stage: Stage, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/broker"
    async with open_broker(endpoint, heartbeat=HEARTBEAT) as broker:
        worker = await start(stage, broker, {"echo": "echo"}, heartbeat=200, reconnect=100)
    async with open_broker(endpoint, heartbeat=HEARTBEAT, appear=PATIENCE), open_client(endpoint) as client:
        await worker.news("connect")
        assert await client.request("echo", 1) == 1

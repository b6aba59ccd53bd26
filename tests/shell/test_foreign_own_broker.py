"""Our client and worker in every dialect, at our own broker: each pair of them, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from cluster import Probe, until

from zmdp_trio import (
    PROTOCOLS,
    Code,
    Final,
    Reject,
    RequestError,
    ServiceError,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio.testing._leftovers import leftovers

BROKER = "memory://own"
PAIRS = [(client, worker) for client in PROTOCOLS for worker in PROTOCOLS]


@service("echo")
async def echo(payload: dict[str, Any]) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)


@service("fail")
async def fail(how: str) -> Any:
    if how == "reject":
        raise Reject
    raise ServiceError(Code.NOT_FOUND, "no such thing")


def read(value: Any) -> Any:
    """Return a reply as a value, whatever its protocol makes of it."""
    if isinstance(value, list):
        return [read(each) for each in value]
    return json.loads(value) if isinstance(value, bytes) else value


async def request(client: Any, *args: Any, **options: Any) -> Any:
    """Ask; and where errors are replies, since the client's or the worker's protocol has none, raise them."""
    reply = read(await client.request(*args, **options))
    if isinstance(reply, dict) and "error" in reply:
        raise RequestError(reply["error"]["message"], code=Code(reply["error"]["code"]))
    return reply


@pytest.mark.parametrize(("here", "there"), PAIRS)
async def test_every_client_reaches_every_worker(here: str, there: str, autojump_clock: Any) -> None:
    async with open_broker(BROKER) as broker:
        async with (
            open_worker([echo, count, fail], BROKER, protocol=there) as worker,
            open_client(BROKER, protocol=here) as client,
        ):
            await worker.wait_welcomed()
            assert await request(client, "echo", {"a": [1, None, "ä"]}) == {"a": [1, None, "ä"]}
            if here in ("omdp", "pigato") and there == "mdp/0.1":
                with pytest.raises(RequestError, match="JSON can't say bytes"):
                    await request(client, "count", 3)
            else:
                partials: list[Any] = []
                final = await request(client, "count", 3, on_partial=lambda each: partials.append(read(each)))
                joined = "mdp/0.1" in (here, there)
                assert (partials, final) == (([], [0, 1, 2, 3]) if joined else ([0, 1, 2], 3))
            with pytest.raises(RequestError) as raised:
                await request(client, "fail", "error")
            assert (raised.value.code, raised.value.message) == (Code.NOT_FOUND, "no such thing")
            replies = []

            async def ask(i: int) -> None:
                replies.append((await request(client, "echo", {"i": i}))["i"])

            async with trio.open_nursery() as nursery:
                for i in range(30):
                    nursery.start_soon(ask, i)
            assert sorted(replies) == list(range(30))
            await trio.sleep(60)
            assert await request(client, "echo", {}) == {}
            await until(lambda: not leftovers(worker) | leftovers(client), within=30)
        await until(lambda: not leftovers(broker), within=60)


@pytest.mark.parametrize("protocol", ["mdp/0.1", "mdp/0.2", "majortomo"])
async def test_a_client_that_leaves_has_its_handler_cancelled(protocol: str, probe: Probe, autojump_clock: Any) -> None:
    @service("wait")
    async def wait() -> None:
        probe.enter()
        try:
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with open_broker(BROKER), open_worker([wait], BROKER), open_client(BROKER, protocol=protocol) as client:
        with trio.move_on_after(5):
            await client.request("wait")
        # Its lane is closed, and that the broker sees.
        with trio.fail_after(15):
            await probe.left.wait()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_workers_are_drained_one_by_one(protocol: str, autojump_clock: Any) -> None:
    async with open_broker(BROKER) as broker, open_client(BROKER) as client:
        async with open_worker([echo], BROKER, protocol=protocol):
            assert read(await client.request("echo", {"a": 1})) == {"a": 1}
            async with open_worker([echo], BROKER, protocol=protocol) as second:
                await second.wait_welcomed()
                assert read(await client.request("echo", {"a": 2})) == {"a": 2}
            for i in range(10):
                assert read(await client.request("echo", {"a": i})) == {"a": i}
        await until(lambda: not leftovers(broker), within=60)

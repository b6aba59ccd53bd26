"""Our client and worker on other people's brokers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
import trio
from outsiders import PATIENCE, Outcome, Stage
from services import count, echo

from zmdp_trio import Client, Code, Reject, RequestError, ServiceError, open_client, open_worker, service

Protocol = Literal["pigato", "majortomo"]
#: Who has a broker, and what its dialect is called here.
PROTOCOLS: list[tuple[str, Protocol]] = [("PIGATO", "pigato"), ("majortomo", "majortomo")]
ON_EACH = pytest.mark.parametrize(("peer", "protocol"), PROTOCOLS)


@service("fail")
async def fail() -> None:
    raise ServiceError(Code.NOT_FOUND, "there is no such order")


@service("picky")
async def picky() -> None:
    raise Reject


@pytest.fixture
async def stage(stage: Stage) -> AsyncIterator[Stage]:
    """The stage, for a limited time."""
    with trio.fail_after(2 * PATIENCE):
        yield stage


async def counted(client: Client, n: int) -> Outcome:
    async with client.stream("count", n) as stream:
        partials = [int(partial) async for partial in stream]
    return Outcome(partials, int(stream.final))


@ON_EACH
async def test_our_client_and_their_worker(stage: Stage, peer: str, protocol: Protocol) -> None:
    _, endpoint = await stage.broker(peer)
    await stage.worker(peer, endpoint, {"echo": "echo", "count": "count"})
    async with open_client(endpoint, protocol=protocol) as client:
        assert await client.request("echo", b'"bytes"') in ("bytes", b'"bytes"')
        assert await counted(client, 3) == Outcome([0, 1, 2], 3)


@ON_EACH
async def test_their_client_and_our_worker(stage: Stage, peer: str, protocol: Protocol) -> None:
    _, endpoint = await stage.broker(peer)
    async with open_worker([echo, count], endpoint, protocol=protocol):
        caller = await stage.client(peer, endpoint)
        assert await caller.ask("echo", {"a": [1, None, "ø"]}) == Outcome(final={"a": [1, None, "ø"]})
        assert await caller.ask("count", 3) == Outcome([0, 1, 2], 3)


@ON_EACH
async def test_both_of_ours(stage: Stage, peer: str, protocol: Protocol) -> None:
    _, endpoint = await stage.broker(peer)
    outcomes: dict[int, Outcome] = {}
    async with (
        open_worker([echo, count], endpoint, protocol=protocol),
        open_client(endpoint, protocol=protocol) as client,
        trio.open_nursery() as nursery,
    ):

        async def call(n: int) -> None:
            outcomes[n] = await counted(client, n)

        for n in range(20):
            nursery.start_soon(call, n)
    assert outcomes == {n: Outcome([*range(n)], n) for n in range(20)}


async def test_reject_on_pigatos_broker(stage: Stage) -> None:
    """It gives the request to the same worker again, at once."""
    _, endpoint = await stage.broker("PIGATO")
    async with (
        open_worker([picky], endpoint, protocol="pigato") as worker,
        open_client(endpoint, protocol="pigato") as client,
    ):
        for _ in range(3):
            with pytest.raises(RequestError, match="every worker that was asked rejected it") as caught:
                await client.request("picky")
            assert caught.value.code is Code.UNAVAILABLE
        assert worker.statistics().received == 3


async def test_errors_on_pigatos_broker(stage: Stage) -> None:
    _, endpoint = await stage.broker("PIGATO")
    await stage.worker("PIGATO", endpoint, {"theirs": "fail"})
    async with open_worker([fail], endpoint, protocol="pigato"), open_client(endpoint, protocol="pigato") as client:
        caller = await stage.client("PIGATO", endpoint)
        assert (await caller.ask("fail")).error == {"code": "NOT_FOUND", "message": "there is no such order"}
        for name, payload in (("fail", None), ("theirs", {"code": "NOT_FOUND", "message": "there is no such order"})):
            with pytest.raises(RequestError) as caught:
                await client.request(name, payload)
            assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "there is no such order")

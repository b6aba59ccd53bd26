"""What is sent at once, in the task of whoever has something to say, does nobody harm: neither that task nor others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from cluster import open_cluster
from raw import RawPeer, bind

from zmdp_trio import Client, Request, open_client, service
from zmdp_trio._settings import Settings
from zmdp_trio._transport.memory import current_network
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1


def break_network() -> None:
    """Have the next message of anybody fail in the port that it is handed to."""

    def hook(source: object, target: object, frames: object) -> tuple[float, ...]:
        raise ZeroDivisionError("the port fails")

    current_network().hook = hook


@service("breaks")
async def breaks(request: Request) -> AsyncIterator[int]:
    break_network()
    yield 1
    yield 2


async def test_a_port_that_fails_ends_the_worker_and_is_no_failure_of_the_handler(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        async with open_cluster(breaks) as cluster, cluster.client.stream("breaks") as stream:
            async for _ in stream:
                pass
    assert "failed" not in caplog.text


async def test_a_port_that_fails_ends_the_client_and_is_no_failure_of_the_request(autojump_clock: Any) -> None:
    cancelled = False
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        async with bind() as broker, open_client(broker.endpoint) as client:
            await greet(broker)
            await trio.testing.wait_all_tasks_blocked()
            break_network()
            try:
                await client.request("echo")
            except trio.Cancelled:
                cancelled = True
                raise
    assert cancelled


async def greet(broker: RawPeer) -> bytes:
    """Welcome whoever comes; return what it is called."""
    peer, _ = await broker.next()
    limits = c.Limits.of(Settings())
    welcome = c.Welcome(c.VERSION, "raw", b"epoch", False, limits, 2.5, [])
    broker.send(*zmdp1.encode_inline(c.Batch(0, 0), [welcome]), to=peer)
    return peer


async def test_the_last_words_of_a_broker_are_heard_though_something_is_sent_to_it_first(autojump_clock: Any) -> None:
    replies: list[Any] = []

    async def ask(client: Client) -> None:
        replies.append(await client.request("echo", 1))

    async with bind() as broker, open_client(broker.endpoint) as client, trio.open_nursery() as nursery:
        peer = await greet(broker)
        nursery.start_soon(ask, client)
        _, request = zmdp1.decode(await broker.read())[0]
        broker.send(*zmdp1.encode_inline(c.Batch(0, 1), []), to=peer)
        await trio.testing.wait_all_tasks_blocked()
        final = c.Final(request.id, request.content, request.body)
        broker.send(*zmdp1.encode_inline(c.Batch(1, 1), [final]), to=peer)
        broker.close()
        with trio.move_on_after(1):
            await client.request("echo", 2)
        nursery.cancel_scope.cancel()
    assert replies == [1]

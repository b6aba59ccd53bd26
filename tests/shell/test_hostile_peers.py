"""Hostile peers at a whole broker: those who are honest do not notice, and those who are too many wait."""

from __future__ import annotations

import random
import secrets
from contextlib import suppress

import pytest
import trio
from cluster import echo

from zmdp_trio import open_broker, open_client, open_worker
from zmdp_trio._settings import DEFAULTS
from zmdp_trio._transport import DIALLED, Options, PeerGone, dial
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1
from zmdp_trio._wire.frames import Frames


@pytest.fixture
def endpoint() -> str:
    return f"memory://{secrets.token_hex(8)}"


class Pest:
    """A peer that greets, or does not, and sends garbage, over one connection after another."""

    def __init__(self, endpoint: str, seed: int) -> None:
        self.endpoint = endpoint
        self.random = random.Random(seed)

    async def run(self) -> None:
        while True:
            port = dial(self.endpoint, Options())
            messages = self.messages()

            with trio.move_on_after(0.05):
                while True:
                    await port.wait()
                    port.receive()
                    with suppress(PeerGone):
                        while messages and port.send(DIALLED, messages[0]):
                            del messages[0]
            port.close()

    def messages(self) -> list[Frames]:
        rng = self.random
        hello = c.Hello(1, rng.randbytes(16), "pest", b"", c.Limits.of(DEFAULTS), 2.5, [], None)
        garbage: list[Frames] = [[zmdp1.MAGIC, rng.randbytes(rng.randrange(50))] for _ in range(rng.randrange(1, 5))]
        return [zmdp1.encode(c.Batch(0, 0), [hello]), *garbage] if rng.random() < 0.5 else garbage


async def test_calls_go_on_while_others_pester_the_broker(endpoint: str, autojump_clock: object) -> None:
    async with open_broker(endpoint) as broker, trio.open_nursery() as nursery:
        for seed in range(10):
            nursery.start_soon(Pest(endpoint, seed).run)
        async with open_worker([echo], endpoint), open_client(endpoint) as client:
            for n in range(200):
                assert await client.request("echo", n) == n
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
        statistics = broker.statistics()
        assert statistics.protocol_errors > 500
        assert statistics.total.received == statistics.total.replied == 200


async def test_a_client_that_is_turned_away_comes_again_until_there_is_room(
    endpoint: str, autojump_clock: object
) -> None:
    replies: list[int] = []

    async with (
        open_broker(endpoint, broker_sessions=2) as broker,
        open_worker([echo], endpoint) as worker,
        trio.open_nursery() as nursery,
    ):
        await worker.wait_welcomed()
        async with open_client(endpoint) as first:
            assert await first.request("echo", 1) == 1

            async def call() -> None:
                async with open_client(endpoint, connect=60) as second:
                    replies.append(await second.request("echo", 2))

            nursery.start_soon(call)
            await trio.sleep(20)
            statistics = broker.statistics()
            assert statistics.turned_away > 5
            assert statistics.clients == 1
            assert statistics.protocol_errors == 0
            assert replies == []
        await trio.sleep(5)
        assert replies == [2]

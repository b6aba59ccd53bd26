"""What takes its time, all at once.

15 s here, which is more than any limit on heartbeats; `make peers-soak` takes two minutes, and 30 s of silence.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import trio
from processes import PATIENCE, Outcome, Stage

from zmdp_trio import open_broker, open_client, open_worker, service

SECONDS = float(os.environ.get("ZMDP_PEERS_SECONDS", "15"))
#: How long the workers are silent, which beat between requests only; by default a peer is dead after 10 s.
SILENCE = min(30.0, SECONDS - 3)
INTERVAL = 0.1

SILENT = ("MDP 0.1", "MDP 0.2", "majortomo")


@service("ticks")
async def ticks() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        await trio.sleep(INTERVAL)


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


async def test_they_last(stage: Stage) -> None:
    """A PIGATO client stays on, with a stream that runs and nothing else to do, and is alive at the end.

    Meanwhile workers of three dialects work without a heartbeat: they finish their jobs and are answered, and serve the
    next one.
    """
    async with (
        open_broker("tcp://127.0.0.1:*", appear=PATIENCE) as broker,
        open_worker([ticks, echo], *broker.endpoints, drain_grace=0),
    ):
        (endpoint,) = broker.endpoints
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:

            async def be_silent(dialect: str) -> None:
                name = f"nap by {dialect}"
                await stage.worker(dialect, endpoint, {name: "nap"})
                for seconds in (SILENCE, 0):
                    reply = await client.request(name, seconds, timeout=SILENCE + 30)
                    assert float(reply) == seconds

            for dialect in SILENT:
                nursery.start_soon(be_silent, dialect)
            await read_ticks(stage, endpoint)


async def read_ticks(stage: Stage, endpoint: str) -> None:
    caller = await stage.client("PIGATO", endpoint)
    idle = await stage.client("PIGATO", endpoint)
    pending = await caller.begin("ticks")
    expected = 0
    with trio.move_on_after(SECONDS):
        while True:
            assert await pending.reply() == {"event": "partial", "data": expected, "error": None}
            expected += 1
    assert expected > SECONDS / INTERVAL / 2
    for each in (caller, idle):
        assert each.news_so_far("disconnect") == []
        assert await each.ask("echo", 1) == Outcome(final=1)

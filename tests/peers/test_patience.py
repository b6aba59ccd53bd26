"""What takes its time, all at once.

Here with heartbeats in a hurry, so that 4.2 s are more than any limit on them; `make peers-soak` takes two minutes,
with the heartbeats that all have by default, and 30 s of silence.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import trio
from outsiders import PATIENCE, Outcome, Stage
from services import echo

from zmdp_trio import open_broker, open_client, open_worker, service

LONG = os.environ.get("ZMDP_PEERS_SECONDS")
SECONDS = float(LONG or 4.2)
#: Seconds between heartbeats; after four of them without one a peer is dead.
HEARTBEAT = 2.5 if LONG else 0.7
#: How long the workers are silent, which beat between requests only.
SILENCE = min(30.0, SECONDS - 0.5)
#: Seconds between the stream's partial replies.
INTERVAL = 0.1

#: Whose workers are silent while they work, and how each is told when to beat.
SILENT: dict[str, dict[str, float]] = {
    "MDP 0.1": {"heartbeat": HEARTBEAT},
    "MDP 0.2": {"heartbeat": HEARTBEAT},
    "majortomo": {"heartbeat_interval": HEARTBEAT, "heartbeat_timeout": 3 * HEARTBEAT},
}
PIGATO = {"heartbeat": int(HEARTBEAT * 1000)}


@service("ticks")
async def ticks() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        await trio.sleep(INTERVAL)


async def test_they_last(stage: Stage) -> None:
    """A PIGATO client stays on, with a stream that runs and nothing else to do, and is alive at the end.

    Meanwhile workers of three dialects work without a heartbeat: they finish their jobs and are answered, and serve the
    next one.
    """
    async with (
        open_broker("tcp://127.0.0.1:*", heartbeat=HEARTBEAT, appear=PATIENCE) as broker,
        open_worker([ticks, echo], *broker.endpoints, drain_grace=0),
    ):
        (endpoint,) = broker.endpoints
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:

            async def be_silent(dialect: str, options: dict[str, float]) -> None:
                name = f"nap by {dialect}"
                await stage.worker(dialect, endpoint, {name: "nap"}, **options)
                for seconds in (SILENCE, 0):
                    reply = await client.request(name, seconds, timeout=SILENCE + 30)
                    assert float(reply) == seconds

            for dialect, options in SILENT.items():
                nursery.start_soon(be_silent, dialect, options)
            await read_ticks(stage, endpoint)


async def read_ticks(stage: Stage, endpoint: str) -> None:
    caller = await stage.client("PIGATO", endpoint, **PIGATO)
    idle = await stage.client("PIGATO", endpoint, **PIGATO)
    await idle.news("connect")
    pending = await caller.begin("ticks")
    assert (await pending.reply())["data"] == 0
    expected = 1
    with trio.move_on_after(SECONDS):
        while True:
            assert await pending.reply() == {"event": "partial", "data": expected, "error": None}
            expected += 1
    assert expected > SECONDS / INTERVAL / 2
    for each in (caller, idle):
        assert each.news_so_far("disconnect") == []
        assert await each.ask("echo", 1) == Outcome(final=1)

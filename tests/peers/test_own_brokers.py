"""Peers on their own brokers: they work, and how."""

from __future__ import annotations

import trio
from outsiders import PATIENCE, Outcome, Stage


async def test_pigato(stage: Stage) -> None:
    _, endpoint = await stage.broker("PIGATO")
    kinds = ("echo", "count", "fail", "nap")
    worker = await stage.worker("PIGATO", endpoint, {kind: kind for kind in kinds})
    client = await stage.client("PIGATO", endpoint, heartbeat=200)
    await worker.greeted(kinds)
    assert await client.ask("echo", {"a": [1, None, "ä"]}) == Outcome(final={"a": [1, None, "ä"]})
    assert await client.ask("count", 3) == Outcome([0, 1, 2], 3)
    assert await client.ask("fail", {"short": "stout"}) == Outcome(error={"short": "stout"})
    assert await client.ask("nap", 5, opts={"timeout": 300}) == Outcome(error="C_TIMEOUT")


async def test_pigatos_directory(stage: Stage) -> None:
    _, endpoint = await stage.broker("PIGATO")
    worker = await stage.worker("PIGATO", endpoint, {"echo": "echo"})
    client = await stage.client("PIGATO", endpoint)
    name = (await worker.news("connect"))["name"]
    # The directory hears of a worker from the broker as a subscriber does: it may be asked before that.
    with trio.fail_after(PATIENCE):
        while (outcome := await client.ask("$dir", "echo")) == Outcome(final=[]):
            pass
    assert outcome == Outcome(final=[name])


async def test_majortomo(stage: Stage) -> None:
    _, endpoint = await stage.broker("majortomo")
    await stage.worker("majortomo", endpoint, {"echo": "echo", "count": "count"})
    client = await stage.client("majortomo", endpoint)
    assert await client.ask("echo", {"a": [1, None, "ä"]}) == Outcome(final={"a": [1, None, "ä"]})
    assert await client.ask("count", 3) == Outcome([0, 1, 2], 3)
    assert await client.ask("echo", frames=["one", "", "three"]) == Outcome(final=["one", "", "three"])

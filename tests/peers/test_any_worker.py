"""What holds of the workers of every older dialect, through our broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from outsiders import CLIENTS, PATIENCE, WORKERS, Outcome, Stage

from zmdp_trio import WorkerLost, open_broker, open_client

#: Seconds and milliseconds, as each takes them, between the heartbeats of a peer in a hurry; and of one that has time.
QUICK: dict[str, dict[str, Any]] = {
    "MDP 0.1": {"heartbeat": 0.3},
    "MDP 0.2": {"heartbeat": 0.3},
    "majortomo": {"heartbeat_interval": 0.3, "heartbeat_timeout": 0.9},
    "OMDP": {"heartbeat": 300},
    "PIGATO": {"heartbeat": 300, "reconnect": 100},
}
SLOW: dict[str, dict[str, Any]] = {
    "MDP 0.1": {"heartbeat": 60},
    "MDP 0.2": {"heartbeat": 60},
    "majortomo": {"heartbeat_interval": 60, "heartbeat_timeout": 180},
    "OMDP": {"heartbeat": 60_000},
    "PIGATO": {"heartbeat": 60_000},
}
#: Whose workers have one request at a time.
SINGLE = tuple(dialect for dialect in WORKERS if dialect != "PIGATO")


def name_of(dialect: str, kind: str) -> str:
    return f"{kind} by {dialect}"


async def test_killed_while_busy(stage: Stage) -> None:
    """The connection's end is seen at once: no heartbeat could be missed for minutes."""
    async with open_broker("tcp://127.0.0.1:*", heartbeat=60, appear=PATIENCE) as broker:
        (endpoint,) = broker.endpoints
        async with open_client(endpoint, heartbeat=60) as client, trio.open_nursery() as nursery:

            async def be_told(service: str) -> None:
                with pytest.raises(WorkerLost), trio.fail_after(PATIENCE):
                    await client.request(service, 3600)

            async def lose(dialect: str) -> None:
                service = name_of(dialect, "nap")
                worker = await stage.worker(dialect, endpoint, {service: "nap"}, **SLOW[dialect])
                nursery.start_soon(be_told, service)
                await worker.news("request")
                worker.kill()

            for dialect in WORKERS:
                nursery.start_soon(lose, dialect)


async def test_one_request_at_a_time(stage: Stage) -> None:
    async with open_broker("tcp://127.0.0.1:*", appear=PATIENCE) as broker:
        (endpoint,) = broker.endpoints
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:

            async def ask_at_once(dialect: str) -> None:
                service = name_of(dialect, "nap")
                worker = await stage.worker(dialect, endpoint, {service: "nap"})
                replies: list[float] = []

                async def ask(seconds: float) -> None:
                    reply = await client.request(service, seconds)
                    replies.append(json.loads(reply) if isinstance(reply, bytes) else reply)

                async with trio.open_nursery() as calls:
                    for i in range(5):
                        calls.start_soon(ask, 0.01 * i)
                assert sorted(replies) == [0.01 * i for i in range(5)]
                requests = worker.news_so_far("request")
                assert [request.get("held", 1) for request in requests] == [1] * 5

            for dialect in SINGLE:
                nursery.start_soon(ask_at_once, dialect)


async def test_a_broker_that_is_restarted(stage: Stage, tmp_path: Path) -> None:
    """They come back by themselves, when they are told or miss its heartbeats."""
    endpoint = f"ipc://{tmp_path}/broker"
    async with open_broker(endpoint, heartbeat=0.3, appear=PATIENCE):
        services = {dialect: name_of(dialect, "echo") for dialect in WORKERS}
        for dialect, service in services.items():
            await stage.worker(dialect, endpoint, {service: "echo"}, **QUICK[dialect])
        async with open_client(endpoint) as client:
            for service in services.values():
                await client.request(service, 1)
    async with open_broker(endpoint, heartbeat=0.3, appear=PATIENCE), open_client(endpoint) as client:
        for service in services.values():
            assert await client.request(service, 1) in (1, b"1")


async def test_errors_in_each_clients_terms(stage: Stage) -> None:
    async with open_broker("tcp://127.0.0.1:*", appear=PATIENCE) as broker:
        (endpoint,) = broker.endpoints
        error = {"code": "NOT_FOUND", "message": "there is no such order"}
        callers = {dialect: await stage.client(dialect, endpoint) for dialect in CLIENTS}
        for dialect in ("OMDP", "PIGATO"):
            service = name_of(dialect, "fail")
            await stage.worker(dialect, endpoint, {service: "fail"})
            for caller in ("MDP 0.1", "MDP 0.2", "majortomo"):
                assert await callers[caller].ask(service, error) == Outcome(final={"error": error})
            for caller in ("OMDP", "PIGATO"):
                assert await callers[caller].ask(service, error) == Outcome(error=error)

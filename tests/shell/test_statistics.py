"""The numbers add up, at every moment."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from cluster import Cluster, echo, open_cluster, until

from zmdp_trio import Code, Reject, Request, RequestError, ServiceError, open_client, service

OUTCOMES = ("refused", "replied", "failed", "cancelled", "expired", "lost")


@service("any", concurrency=2)
async def anything(payload: Any, request: Request) -> Any:
    if payload == "fail":
        raise ServiceError(Code.NOT_FOUND)
    if payload == "reject":
        raise Reject
    if payload == "sleep":
        await trio.sleep(2)
    return payload


def check(cluster: Cluster) -> None:
    """That what came in is what went out and what is still here."""
    for name, numbers in cluster.broker.statistics().services.items():
        parts = {each: getattr(numbers, each) for each in (*OUTCOMES, "queued", "running", "cancelling")}
        assert numbers.received == sum(parts.values()), (name, parts)
        assert all(part >= 0 for part in parts.values())
        assert numbers.running + numbers.cancelling <= numbers.slots
    worker = cluster.worker.statistics()
    for each in (worker, *worker.services.values()):
        assert each.received == (
            each.refused
            + each.replied
            + each.failed
            + each.cancelled
            + each.expired
            + each.rejected
            + each.running
            + each.cancelling
        )


async def test_the_numbers_add_up_while_everything_happens(autojump_clock: Any) -> None:
    async with open_cluster(anything, queue_requests=5) as cluster:

        async def call(payload: Any, limit: float) -> None:
            with trio.move_on_after(limit):
                try:
                    await cluster.client.request("any", payload)
                except RequestError:
                    pass

        async def leave(after: float) -> None:
            """Think better of it long before the deadline: at the deadline, it is chance whether a request expires."""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, "sleep", 60)
                await trio.sleep(after)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for round in range(20):
                nursery.start_soon(leave, 0.05)
                for payload in ("fail", "reject", "sleep", b"x", object):
                    nursery.start_soon(call, payload, 1 + round % 3)
                for _ in range(5):
                    await trio.sleep(0.1)
                    check(cluster)
        await cluster.settle()
        check(cluster)
        numbers = cluster.broker.statistics().services["any"]
        for outcome in ("refused", "replied", "failed", "cancelled"):
            assert getattr(numbers, outcome) > 0, outcome


async def test_a_quiet_cluster_counts_its_peers_and_nothing_else(autojump_clock: Any) -> None:
    async with open_cluster(echo) as cluster:
        async with open_client(cluster.endpoint) as second:
            await second.request("echo")
            assert cluster.broker.statistics().clients == 2
        await trio.sleep(60)
        numbers = cluster.broker.statistics()
        assert (numbers.clients, numbers.workers) == (1, 1)
        assert numbers.services["echo"].slots == 100
        assert cluster.leftovers() == {}
        assert numbers.protocol_errors == numbers.duplicates == numbers.late_replies == 0


async def test_records_are_frozen(cluster: Cluster, autojump_clock: Any) -> None:
    await cluster.client.request("echo")
    for record in (
        cluster.broker.statistics(),
        cluster.broker.statistics().services["echo"],
        cluster.worker.statistics(),
        cluster.client.statistics(),
    ):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            record.received = 5  # type: ignore[misc,union-attr]
    with pytest.raises(TypeError):
        cluster.broker.statistics().services["x"] = None  # type: ignore[index]


async def test_reprs_tell_the_state(autojump_clock: Any) -> None:
    @service("waits")
    async def waits() -> None:
        await trio.sleep_forever()

    async with open_cluster(waits) as cluster:
        client = cluster.client
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.request, "waits")
                await until(lambda: cluster.worker.statistics().running)
                assert "outstanding=1" in repr(client)
                assert "running=1" in repr(cluster.worker)
                assert cluster.endpoint in repr(cluster.broker)
                assert "new" in repr(client.stream("waits"))
                scope.cancel()
    assert "closed" in repr(client)


async def test_services_that_nobody_offers_are_forgotten(cluster: Cluster, autojump_clock: Any) -> None:
    for i in range(100):
        with trio.move_on_after(0.1):
            await cluster.client.request(f"nobody {i}")
    await trio.sleep(10)
    assert set(cluster.broker.statistics().services) == {"echo", "count"}

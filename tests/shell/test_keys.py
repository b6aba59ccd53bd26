"""`key=`: repeats share one execution, and its outcome for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from cluster import Cluster, Probe, open_cluster, port_of, until

from zmdp_trio import (
    Client,
    Code,
    Final,
    InvalidArgument,
    RequestError,
    Service,
    ServiceError,
    WorkerLost,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._transport.memory import current_network


class Job:
    """A service that counts its runs, and takes a second each."""

    def __init__(self, probe: Probe) -> None:
        self.runs = 0

        @service("job")
        async def job(payload: Any) -> AsyncIterator[Any]:
            self.runs += 1
            probe.enter()
            try:
                for i in range(10):
                    await trio.sleep(0.1)
                    yield i
                yield Final(f"run {self.runs}")
            finally:
                probe.leave()

        self.service: Service[..., Any] = job


@pytest.fixture
def job(probe: Probe) -> Job:
    return Job(probe)


async def call(client: Client, replies: list[Any], partials: list[Any], **options: Any) -> None:
    try:
        replies.append(await client.request("job", on_partial=partials.append, **options))
    except RequestError as error:
        replies.append(type(error))


async def test_repeats_join_and_the_first_one_streams(job: Job, autojump_clock: Any) -> None:
    first: list[Any] = []
    others: list[Any] = []
    replies: list[Any] = []
    async with open_cluster(job.service) as cluster, open_client(cluster.endpoint) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call(cluster.client, replies, first, key="k"))
            await trio.sleep(0.25)
            nursery.start_soon(lambda: call(other, replies, others, key="k"))
            nursery.start_soon(lambda: call(cluster.client, replies, others, key="k"))
        assert replies == ["run 1"] * 3
        assert first == list(range(10))
        assert others == []
        assert cluster.broker.statistics().services["job"].joined == 2


async def test_a_late_repeat_gets_the_outcome_until_the_window_closes(job: Job, autojump_clock: Any) -> None:
    async with open_cluster(job.service, key_window=60) as cluster:
        assert await cluster.client.request("job", key="k") == "run 1"
        begin = trio.current_time()
        await trio.sleep(59)
        assert await cluster.client.request("job", key="k") == "run 1"
        assert trio.current_time() == begin + 59
        await trio.sleep(1)
        assert await cluster.client.request("job", key="k") == "run 2"


@pytest.mark.parametrize("bound", [{"key_limit": 2}, {"key_bytes": 14}])
async def test_what_does_not_fit_is_forgotten_oldest_first(
    bound: dict[str, int], job: Job, autojump_clock: Any
) -> None:
    async with open_cluster(job.service, **bound) as cluster:  # type: ignore[arg-type]
        for key in "abc":
            await cluster.client.request("job", key=key)
        assert [await cluster.client.request("job", key=key) for key in "cba"] == ["run 3", "run 2", "run 4"]


async def test_other_keys_and_services_run_by_themselves(job: Job, probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(job.service) as cluster:
        assert [await cluster.client.request("job", key=key) for key in ("a", "b", None)] == ["run 1", "run 2", "run 3"]


async def test_the_handler_is_cancelled_when_the_last_caller_leaves(
    job: Job, probe: Probe, autojump_clock: Any
) -> None:
    replies: list[Any] = []
    async with open_cluster(job.service) as cluster, trio.open_nursery() as nursery:
        first, second = trio.CancelScope(), trio.CancelScope()

        async def caller(scope: trio.CancelScope) -> None:
            with scope:
                await call(cluster.client, replies, [], key="k")

        nursery.start_soon(caller, first)
        await probe.entered.wait()
        nursery.start_soon(caller, second)
        await trio.sleep(0.25)
        first.cancel()
        await trio.sleep(0.1)
        assert not probe.left.is_set()
        left = trio.current_time()
        second.cancel()
        await probe.left.wait()
        assert probe.left_at == left
        assert replies == []
        assert await cluster.client.request("job", key="k") == "run 2"


async def test_others_still_get_the_outcome_when_the_first_leaves(job: Job, probe: Probe, autojump_clock: Any) -> None:
    """Also where it leaves while the handler waits for its credit."""
    replies: list[Any] = []
    async with open_cluster(job.service, credit_messages=2) as cluster, trio.open_nursery() as nursery:
        async with cluster.client.stream("job", key="k") as stream:
            await anext(stream)
            nursery.start_soon(lambda: call(cluster.client, replies, [], key="k"))
            await trio.sleep(5)
        await until(lambda: replies)
        assert replies == ["run 1"]


async def test_an_empty_key_is_a_key(job: Job, autojump_clock: Any) -> None:
    async with open_cluster(job.service) as cluster:
        assert [await cluster.client.request("job", key=key) for key in ("", "", None)] == ["run 1", "run 1", "run 2"]


async def test_another_payload_under_the_same_key_is_refused(job: Job, autojump_clock: Any) -> None:
    async with open_cluster(job.service) as cluster:
        await cluster.client.request("job", 1, key="k")
        with pytest.raises(InvalidArgument, match="another payload"):
            await cluster.client.request("job", 2, key="k")
        assert job.runs == 1


async def test_an_error_of_the_handler_is_an_outcome(autojump_clock: Any) -> None:
    runs = 0

    @service("job")
    async def job() -> None:
        nonlocal runs
        runs += 1
        raise ServiceError(Code.PERMISSION_DENIED, "no")

    async with open_cluster(job) as cluster:
        for _ in range(2):
            with pytest.raises(RequestError, match="no") as caught:
                await cluster.client.request("job", key="k")
            assert caught.value.code is Code.PERMISSION_DENIED
        assert runs == 1


async def lose_the_worker(cluster: Cluster, job: Job, probe: Probe, retry: int) -> list[Any]:
    """Let a worker be lost while two callers share its execution; another worker takes its place."""
    replies: list[Any] = []
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(lambda: call(cluster.client, replies, [], key="k", retry=retry))
        await probe.entered.wait()
        current_network().kill(port_of(cluster.worker))
        async with open_worker([job.service], cluster.endpoint):
            await until(lambda: len(replies) == 2)
    return replies


async def test_a_lost_worker_ends_it_for_all(job: Job, probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(job.service) as cluster:
        assert await lose_the_worker(cluster, job, probe, retry=0) == [WorkerLost, WorkerLost]


async def test_with_retry_it_runs_again_for_all(job: Job, probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(job.service) as cluster:
        assert await lose_the_worker(cluster, job, probe, retry=1) == ["run 2", "run 2"]


async def test_the_latest_deadline_counts(job: Job, autojump_clock: Any) -> None:
    replies: list[Any] = []
    async with open_cluster(job.service) as cluster, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def impatient() -> None:
            with trio.move_on_after(0.5):
                await call(cluster.client, replies, [], key="k")

        await trio.sleep(0.1)
        assert await cluster.client.request("job", key="k") == "run 1"
        assert replies == []

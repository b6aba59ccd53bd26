"""Wildcards, versions, and the broker's own answers, as users write them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from cluster import Cluster, echo, open_cluster

import zmdp_trio._service
from zmdp_trio import (
    InvalidArgument,
    Reject,
    Request,
    RequestError,
    RequestRejected,
    Service,
    ServiceNotFound,
    SyncRequest,
    WorkerLost,
    service,
    testing,
)


def tells(name: str, *, slots: int | None = None) -> Service[..., Any]:
    """Return a service that tells what was asked for, and whom."""

    @service(name, concurrency=slots)
    async def tell(payload: Any, request: Request) -> str:
        return f"{request.service} by {name}"

    return tell


@service("files.*")
async def files(path: str, request: Request) -> list[str]:
    return [request.service.removeprefix("files."), path]


@service("old.*")
def old(path: str, request: SyncRequest) -> list[str]:
    return [request.service, path]


@service("nested")
async def nested(payload: Any, request: Request) -> Any:
    return await request.request("calc@^1", payload)


async def test_a_handler_sees_what_was_asked_for(zmdp_clock: Any) -> None:
    async with open_cluster(files, old, echo) as cluster:
        assert await cluster.client.request("files.read", "/tmp") == ["read", "/tmp"]
        assert await cluster.client.request("files.", "/tmp") == ["", "/tmp"]
        assert await cluster.client.request("old.read", "/tmp") == ["old.read", "/tmp"]
        assert await cluster.client.request("echo", 1) == 1
        with pytest.raises(ServiceNotFound, match="no worker offers 'file'"):
            await cluster.client.request("file", "/tmp")
        worker = cluster.worker.statistics().services
        assert (worker["files.*"].replied, worker["old.*"].replied, worker["echo"].replied) == (2, 1, 1)
        broker = cluster.broker.statistics()
        assert {name: each.replied for name, each in broker.services.items()} == {"files.*": 2, "old.*": 1, "echo": 1}
        assert (broker.total.received, broker.total.refused) == (5, 1)
        await cluster.settle()


async def test_exact_over_wildcard_and_the_longest_of_these(autojump_clock: Any) -> None:
    names = ("*", "files.*", "files.read.*", "files.read.now")
    async with open_cluster(*map(tells, names)) as cluster:
        for asked, name in (
            ("files.read.now", "files.read.now"),
            ("files.read.later", "files.read.*"),
            ("files.read", "files.*"),
            ("other", "*"),
        ):
            assert await cluster.client.request(asked) == f"{asked} by {name}"


async def test_versions(autojump_clock: Any) -> None:
    async with open_cluster(*map(tells, ("calc@1.2.0", "calc@1.3.0", "calc@2.0.0-beta")), nested) as cluster:
        client = cluster.client
        assert await client.request("calc@^1.2") == "calc@^1.2 by calc@1.3.0"
        assert await client.request("calc@~1.2") == "calc@~1.2 by calc@1.2.0"
        assert await client.request("calc@1.2.0") == "calc@1.2.0 by calc@1.2.0"
        assert await client.request("calc@>=2.0.0-alpha") == "calc@>=2.0.0-alpha by calc@2.0.0-beta"
        assert await client.request("nested") == "calc@^1 by calc@1.3.0"
        with pytest.raises(ServiceNotFound):
            await client.request("calc@^2")
        started = trio.current_time()
        with pytest.raises(InvalidArgument, match="'latest' is no range of versions"):
            await client.request("calc@latest")
        assert trio.current_time() == started


async def test_a_busy_version_is_passed_over(autojump_clock: Any) -> None:
    at_work, go = trio.Event(), trio.Event()

    @service("calc@1.1.0", concurrency=1)
    async def slow() -> str:
        at_work.set()
        await go.wait()
        return "new"

    async with open_cluster(slow, tells("calc@1.0.0")) as cluster, trio.open_nursery() as nursery:
        replies: list[str] = []

        async def ask() -> None:
            replies.append(await cluster.client.request("calc@^1"))

        nursery.start_soon(ask)
        await at_work.wait()
        assert await cluster.client.request("calc@^1") == "calc@^1 by calc@1.0.0"
        go.set()
        await cluster.settle()
        assert replies == ["new"]


async def test_what_waits_is_taken_by_a_wildcard_that_comes(autojump_clock: Any) -> None:
    async with open_cluster(echo) as cluster, trio.open_nursery() as nursery:
        replies: list[Any] = []

        async def ask(name: str) -> None:
            replies.append(await cluster.client.request(name))

        for name in ("files.read", "calc@^1"):
            nursery.start_soon(ask, name)
        await trio.sleep(0.5)
        await cluster.add_worker(tells("files.*"), tells("calc@1.7.0"))
        await cluster.settle()
        assert sorted(replies) == ["calc@^1 by calc@1.7.0", "files.read by files.*"]


async def test_when_the_exact_worker_is_killed_a_wildcard_goes_on(autojump_clock: Any) -> None:
    @service("files.read", concurrency=1)
    async def stuck() -> None:
        await trio.sleep_forever()

    async with testing.open_cluster(stuck) as cluster, trio.open_nursery() as nursery:
        replies: list[Any] = []

        async def ask(retry: int) -> None:
            try:
                replies.append(await cluster.client.request("files.read", retry=retry))
            except RequestError as error:
                replies.append(type(error))

        nursery.start_soon(ask, 0)
        await trio.sleep(0.1)
        for retry in (1, 0):
            nursery.start_soon(ask, retry)
        await trio.sleep(0.1)
        await cluster.add_worker(tells("files.*"), name="wild")
        cluster.kill("worker")
        await cluster.settle()
        assert sorted(replies, key=str) == [WorkerLost, *["files.read by files.*"] * 2]
        # The first of them was lost under its own name, in whose books it was.
        assert cluster.broker.statistics().total.lost == 1
        assert cluster.broker.statistics().services["files.*"].replied == 2


async def test_a_rejection_does_not_fall_through(autojump_clock: Any) -> None:
    @service("files.read")
    async def picky() -> None:
        raise Reject

    async with open_cluster(picky, tells("files.*")) as cluster:
        with pytest.raises(RequestRejected):
            await cluster.client.request("files.read")


async def test_a_named_worker(autojump_clock: Any) -> None:
    async with open_cluster(tells("files.read")) as cluster:
        await cluster.add_worker(tells("files.*"), name="wild")
        assert await cluster.client.request("files.read", worker="wild") == "files.read by files.*"
        assert await cluster.client.request("files.read", worker="worker") == "files.read by files.read"
        with pytest.raises(ServiceNotFound, match=r"no worker 'worker' offers 'files\.list'"):
            await cluster.client.request("files.list", worker="worker")


async def test_keys_belong_to_the_name_that_was_asked_for(autojump_clock: Any) -> None:
    async with open_cluster(tells("files.*")) as cluster:
        for name in ("files.a", "files.b", "files.a"):
            assert await cluster.client.request(name, key="k") == f"{name} by files.*"
        total = cluster.broker.statistics().total
        assert (total.received, total.joined) == (2, 1)


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_request_survives_a_restart_of_the_broker(autojump_clock: Any, key: str | None) -> None:
    at_work, go = trio.Event(), trio.Event()

    @service("files.*")
    async def slow(payload: Any, request: Request) -> str:
        at_work.set()
        await go.wait()
        return request.service

    async with open_cluster(slow) as cluster, trio.open_nursery() as nursery:
        replies: list[str] = []

        async def ask() -> None:
            replies.append(await cluster.client.request("files.read", key=key))

        nursery.start_soon(ask)
        await at_work.wait()
        await cluster.restart_broker()
        await trio.sleep(2)
        go.set()
        await trio.sleep(8)
        assert replies == ["files.read"]
        if key is not None:
            nursery.start_soon(ask)
            await trio.sleep(1)
            assert replies == ["files.read"] * 2
            assert cluster.worker.statistics().received == 1
        await cluster.settle()


async def test_two_brokers_share_the_slots_of_a_wildcard(autojump_clock: Any) -> None:
    running = most = 0

    @service("files.*", concurrency=2)
    async def some(payload: Any, request: Request) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.1)
        running -= 1
        return request.service

    async with testing.open_cluster(some, brokers=2) as cluster, trio.open_nursery() as nursery:
        replies: list[str] = []

        async def ask(number: int) -> None:
            replies.append(await cluster.client.request(f"files.{number}"))

        for number in range(20):
            nursery.start_soon(ask, number)
        await cluster.settle()
        assert sorted(replies) == sorted(f"files.{number}" for number in range(20))
        assert most == 2


# ---- the broker's own answers


async def ask_twice(cluster: Cluster, name: str, payload: Any) -> Any:
    """Ask for a value, and in bytes, which must say the same."""
    value = await cluster.client.request(name, payload)
    raw = await cluster.client.request(name, (payload or "").encode())
    assert isinstance(raw, bytes)
    return value, raw.decode()


async def test_mmi_service_and_dir(autojump_clock: Any) -> None:
    async with open_cluster(files, tells("calc@1.2.0")) as cluster:
        assert await ask_twice(cluster, "mmi.service", "files.read") == ("200", "200")
        assert await ask_twice(cluster, "mmi.service", "calc@^1") == ("200", "200")
        assert await ask_twice(cluster, "mmi.service", "calc@^2") == ("404", "404")
        assert await ask_twice(cluster, "mmi.echo", "files.read") == ("501", "501")
        assert await ask_twice(cluster, "$dir", "files.read") == (["worker"], '["worker"]')
        assert await cluster.client.request("$dir") == {"calc@1.2.0": ["worker"], "files.*": ["worker"]}
        assert await ask_twice(cluster, "mmi.services", None) == (["calc@1.2.0", "files.*"], '["calc@1.2.0","files.*"]')
        assert await ask_twice(cluster, "mmi.broker", None) == ("broker", "broker")
        with pytest.raises(InvalidArgument):
            await cluster.client.request("mmi.service", 7)
        assert [each async for each in cluster.client.stream("mmi.workers")] == []
        await cluster.settle()


@pytest.mark.parametrize("name", ["mmi.service", "mmi.mine", "$dir"])
def test_reserved_names_are_refused_where_a_service_is_made(name: str) -> None:
    with pytest.raises(ValueError, match=r"brokers answer mmi\.\* and \$dir themselves"):
        tells(name)
    assert tells("mmi").name == "mmi"


async def test_a_worker_that_offers_one_all_the_same_reads_why_in_its_log(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with testing.open_cluster(echo, check=False) as cluster:
        monkeypatch.setattr(zmdp_trio._service, "is_reserved", lambda name: False)
        await cluster.add_worker(tells("mmi.mine"), wait=False)
        await trio.sleep(1)
        assert "an offer of 'mmi.mine', which the broker answers itself" in caplog.text
        await cluster.stop("worker-2")

"""What one handler, one payload, or one caller does wrong harms nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from cluster import Probe, count, echo, open_cluster, until

from zmdp_trio import (
    Code,
    InvalidArgument,
    Request,
    RequestError,
    ServiceError,
    SyncRequest,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._core.client import ClientMachine
from zmdp_trio._core.uplink import Identity
from zmdp_trio._engine import Engine
from zmdp_trio._settings import DEFAULTS


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@service("exits")
async def exits() -> None:
    raise SystemExit(3)


@service("exits.nursery")
async def exits_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exits.function)
        nursery.start_soon(trio.sleep_forever)


@service("exits.sync")
def exits_sync() -> None:
    raise SystemExit(3)


@service("unspeakable", expose_errors=True)
async def unspeakable() -> None:
    raise Unspeakable


@service("misuse")
async def misuse() -> None:
    raise ServiceError(Code.NOT_FOUND, ValueError("no string"))  # type: ignore[arg-type]


@service("set")
async def takes_set(payload: set[Any]) -> int:
    return len(payload)


@pytest.mark.parametrize(
    ("handler", "payload", "code"),
    [
        (exits, None, Code.INTERNAL),
        (exits_in_a_nursery, None, Code.INTERNAL),
        (unspeakable, None, Code.INTERNAL),
        (misuse, None, Code.INTERNAL),
        (takes_set, [{}], Code.INVALID_ARGUMENT),
    ],
    ids=lambda each: getattr(each, "name", None),
)
async def test_a_handler_in_trouble_is_alone(handler: Any, payload: Any, code: Code, autojump_clock: Any) -> None:
    async with open_cluster(handler, echo) as cluster:
        with pytest.raises(RequestError) as caught:
            await cluster.client.request(handler.name, payload)
        assert caught.value.code is code
        assert await cluster.client.request("echo", 1) == 1


async def test_an_exit_in_a_thread_is_a_failed_request() -> None:
    async with open_cluster(exits_sync, echo, heartbeat=0.3) as cluster:
        with pytest.raises(RequestError, match="SystemExit"):
            await cluster.client.request("exits.sync")
        assert await cluster.client.request("echo", 1) == 1


@pytest.mark.parametrize(
    "options",
    [{"retry": True}, {"retry": 1.0}, {"timeout": True}, {"deadline": False}, {"headers": {"a": 1}}],
    ids=str,
)
async def test_an_option_that_cannot_be_sent_is_refused_here(options: Any, autojump_clock: Any) -> None:
    async with open_cluster(echo) as cluster:
        with pytest.raises(InvalidArgument):
            await cluster.client.request("echo", **options)
        assert await cluster.client.request("echo", 1, timeout=10**400) == 1


@pytest.mark.parametrize(
    ("headers", "why"),
    [({"a": 1}, "header 'a': a string is wanted, not 1"), ({1: "a"}, "header: a string is wanted, not 1")],
)
async def test_a_header_that_is_no_string_is_named(headers: Any, why: str, autojump_clock: Any) -> None:
    async with open_client("memory://nobody") as client:
        with pytest.raises(InvalidArgument, match=why):
            await client.request("echo", headers=headers)


@pytest.mark.parametrize("name", ["", "\ud800", "x" * 256, 5], ids=repr)
async def test_a_name_that_cannot_be_sent_is_refused_at_once(name: Any, autojump_clock: Any) -> None:
    for opened in (open_broker("memory://*", name=name), open_client("memory://b", name=name)):
        with pytest.raises(ValueError, match="name"):
            await opened.__aenter__()
    with pytest.raises(ValueError, match="name"):
        await open_worker([echo], "memory://b", name=name).__aenter__()


@pytest.mark.parametrize("lose", ["worker", "broker"])
async def test_a_drain_lets_the_last_replies_leave(lose: str, autojump_clock: Any) -> None:
    """More of them than may be unacknowledged at a time."""
    release = trio.Event()

    @service("large")
    async def large() -> bytes:
        await release.wait()
        return bytes(2**20)

    sizes: list[int] = []
    async with open_broker("memory://b") as broker, trio.open_nursery() as nursery:
        async with open_client("memory://b") as client, open_worker([large], "memory://b") as worker:
            await worker.wait_welcomed()

            async def call() -> None:
                sizes.append(len(await client.request("large")))

            async with trio.open_nursery() as calls:
                for _ in range(60):
                    calls.start_soon(call)
                await until(lambda: worker.statistics().running == 60)
                nursery.start_soon((worker if lose == "worker" else broker).drain)
                await trio.sleep(0.1)
                release.set()
    assert sizes == [2**20] * 60


async def test_an_exception_beside_a_cancellation_comes_out_alone(autojump_clock: Any) -> None:
    async def fail(scope: trio.CancelScope) -> None:
        async with open_broker("memory://b"), open_worker([echo], "memory://b"), open_client("memory://b"):
            scope.cancel()
            raise KeyError

    with trio.CancelScope() as scope, pytest.raises(KeyError):
        await fail(scope)


async def test_a_cleanup_that_fails_while_the_worker_is_cancelled_is_logged(
    probe: Probe, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    caplog.set_level("INFO")

    @service("messy")
    async def messy() -> None:
        async def clean_up_badly() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("messy")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            probe.enter()

    async with open_broker("memory://b"), open_client("memory://b") as client, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_worker([messy], "memory://b"), client.stream("messy"):
                await probe.entered.wait()
                scope.cancel()
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    assert "messy" in caplog.text


class BusyEngine(Engine):
    """An engine whose network always has one thing more."""

    def __init__(self, items: int) -> None:
        super().__init__(ClientMachine(Identity(bytes(16), ""), DEFAULTS), lambda: None)
        self.items = items

    def _receive(self, now: float) -> None:
        self.items = max(self.items - 1, 0)

    def _settled(self) -> bool:
        return not self.items

    def _send(self, link: Any, frames: Any) -> bool:
        raise AssertionError

    def _gone(self, link: Any, now: float) -> None:
        raise AssertionError

    def _run_ports(self, nursery: trio.Nursery) -> None:
        pass

    def _ports(self) -> list[Any]:
        return []


async def test_a_turn_that_was_cut_short_goes_on_by_itself(autojump_clock: Any) -> None:
    engine = BusyEngine(items=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await trio.testing.wait_all_tasks_blocked()
        engine.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert engine.items == 0
        engine.close()


async def test_a_worker_with_the_longest_name_may_call_others(autojump_clock: Any) -> None:
    @service("asks")
    async def asks(request: Request) -> Any:
        return await request.request("echo", request.peer)

    name = "ä" * 127
    async with open_cluster(echo) as cluster, open_worker([asks], cluster.endpoint, name=name):
        assert await cluster.client.request("asks") == "client"


# ---- what @service refuses


def test_a_service_needs_a_name() -> None:
    with pytest.raises(TypeError, match="has a name"):

        @service  # type: ignore[call-overload]
        async def nameless() -> None: ...


def test_a_class_is_no_service() -> None:
    with pytest.raises(TypeError, match="a service is a function"):
        service("class")(Probe)


def test_an_async_handler_has_no_sync_context() -> None:
    with pytest.raises(TypeError, match="SyncRequest is for sync handlers"):

        @service("async")
        async def handler(request: SyncRequest) -> None: ...


def test_a_method_is_told_about_self() -> None:
    with pytest.raises(TypeError, match="bound methods"):

        class Holder:
            @service("method")
            async def method(self, payload: Any) -> None: ...


def test_an_annotation_that_nobody_can_validate_is_refused() -> None:
    with pytest.raises(TypeError, match="can't be validated"):

        @service("event")
        async def handler(payload: trio.Event) -> None: ...


def test_a_service_of_a_service_has_its_own_name() -> None:
    assert service("other", count).name == "other"


async def test_a_bound_method_is_a_service(autojump_clock: Any) -> None:
    class Counter:
        def __init__(self) -> None:
            self.total = 0

        async def add(self, n: int, request: Request) -> int:
            self.total += n
            return self.total

    counter = Counter()
    async with open_cluster(service("add", counter.add)) as cluster:
        assert await cluster.client.request("add", 2) == 2
        assert await cluster.client.request("add", 3) == 5


async def test_a_sync_generator_of_thousands_is_not_left_waiting() -> None:
    """Credit that comes while the thread has some left, and its queue is on the way, counts when that is used up."""

    @service("many")
    def many(n: int) -> Iterator[int]:
        yield from range(n)

    async with open_cluster(many) as cluster:
        with trio.fail_after(30):
            async with cluster.client.stream("many", 5_000) as stream:
                assert [n async for n in stream] == list(range(5_000))

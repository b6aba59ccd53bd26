"""Whoever leaves a request, in whatever way, cancels its handler; afterwards nobody holds anything of it."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel
from cluster import Cluster, Probe, open_cluster, port_of, until

from zmdp_trio import Client, Request, RequestCancelled, Service, SyncRequest, open_client, service
from zmdp_trio._transport.memory import current_network

# ---- what the handler is doing when the caller leaves


def sleeping(probe: Probe) -> Service[..., Any]:
    @service("handler")
    async def handler() -> AsyncIterator[int]:
        try:
            yield 0
            probe.enter()
            await trio.sleep_forever()
        finally:
            probe.leave()

    return handler


def sending(probe: Probe) -> Service[..., Any]:
    @service("handler")
    async def handler() -> AsyncIterator[int]:
        try:
            while True:
                yield 0
                probe.enter()
                await trio.lowlevel.checkpoint()
        finally:
            probe.leave()

    return handler


def waiting_for_credit(probe: Probe) -> Service[..., Any]:
    @service("handler")
    async def handler() -> AsyncIterator[int]:
        try:
            while True:
                yield probe.sent
                probe.sent += 1
                if probe.sent == 64:
                    probe.enter()
        finally:
            probe.leave()

    return handler


def coroutine_that_sends(probe: Probe) -> Service[..., Any]:
    @service("handler")
    async def handler(request: Request) -> None:
        try:
            while True:
                await request.send(0)
                probe.sent += 1
                if probe.sent == 64:
                    probe.enter()
        finally:
            probe.leave()

    return handler


# ---- how the caller leaves


async def leave_by_break(client: Client, probe: Probe) -> None:
    async for _ in client.stream("handler"):
        await probe.entered.wait()
        break


async def leave_by_end_of_block(client: Client, probe: Probe) -> None:
    async with client.stream("handler") as stream:
        async for _ in stream:
            await probe.entered.wait()
            break


async def leave_by_error(client: Client, probe: Probe) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  the block is what is tested
        async with client.stream("handler") as stream:
            async for _ in stream:
                await probe.entered.wait()
                raise ZeroDivisionError


async def leave_by_aclose(client: Client, probe: Probe) -> None:
    stream = client.stream("handler")
    await anext(stream)
    await probe.entered.wait()
    await stream.aclose()


async def leave_by_cancelled_scope(client: Client, probe: Probe) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                await probe.entered.wait()
                scope.cancel()

            async for _ in client.stream("handler"):
                await probe.entered.wait()


async def leave_request_by_cancelled_scope(client: Client, probe: Probe) -> None:
    async def slow_reader(_: Any) -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                await probe.entered.wait()
                scope.cancel()

            await client.request("handler", on_partial=slow_reader)


async def leave_by_closing_the_client(client: Client, probe: Probe) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def close() -> None:
            await probe.entered.wait()
            await client.aclose()

        with pytest.raises(RequestCancelled):  # noqa: PT012
            async for _ in client.stream("handler"):
                await probe.entered.wait()


async def leave_by_dropping_in_another_thread(client: Client, probe: Probe) -> None:
    stream = [client.stream("handler")]
    await anext(stream[0])
    await probe.entered.wait()
    thread = threading.Thread(target=stream.clear)
    thread.start()
    thread.join()


HANDLERS = [sleeping, sending, waiting_for_credit, coroutine_that_sends]
WAYS = [
    leave_by_break,
    leave_by_end_of_block,
    leave_by_error,
    leave_by_aclose,
    leave_by_cancelled_scope,
    leave_request_by_cancelled_scope,
    leave_by_closing_the_client,
    leave_by_dropping_in_another_thread,
]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("make", HANDLERS)
async def test_the_handler_is_cancelled_at_once(
    make: Callable[[Probe], Service[..., Any]],
    leave: Callable[[Client, Probe], Awaitable[None]],
    probe: Probe,
    autojump_clock: Any,
) -> None:
    async with open_cluster(make(probe)) as cluster:
        async with open_client(cluster.endpoint) as client:
            before = trio.current_time()
            with trio.fail_after(1):
                await leave(client, probe)
                await probe.left.wait()
            assert probe.left_at == before
            await cluster.settle()
            assert client.statistics().outstanding == client.statistics().timers == 0
            assert client._machine.credit.left == client.settings.connection_credit
        assert cluster.broker.statistics().services["handler"].cancelled == 1
        assert cluster.worker.statistics().cancelled == 1


async def test_a_client_that_is_cancelled_with_all_its_tasks_still_says_so(probe: Probe, autojump_clock: Any) -> None:
    """Its engine, which is cancelled too, must not be gone before the last request is."""
    async with open_cluster(sleeping(probe)) as cluster, trio.open_nursery() as nursery:

        async def call() -> None:
            async with open_client(cluster.endpoint) as client, trio.open_nursery() as calls:
                for _ in range(3):
                    calls.start_soon(client.request, "handler")

        nursery.start_soon(call)
        await probe.entered.wait()
        start = trio.current_time()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await probe.left.wait()
    assert probe.left_at == start


async def test_a_request_that_is_queued_is_dropped_there(probe: Probe, autojump_clock: Any) -> None:
    entered = 0

    @service("one at a time", concurrency=1)
    async def one_at_a_time() -> None:
        nonlocal entered
        entered += 1
        await probe.left.wait()

    async with open_cluster(one_at_a_time) as cluster, trio.open_nursery() as nursery:
        nursery.start_soon(cluster.client.request, "one at a time")
        await until(lambda: entered)
        with trio.move_on_after(1) as scope:
            await cluster.client.request("one at a time")
        assert scope.cancelled_caught
        await until(lambda: not cluster.broker.statistics().services["one at a time"].queued)
        probe.leave()
        await trio.sleep(1)
        assert entered == 1


async def test_a_handler_that_ignores_the_cancellation_keeps_its_slot(probe: Probe, autojump_clock: Any) -> None:
    free = trio.Event()

    @service("stubborn", concurrency=1)
    async def stubborn() -> None:
        probe.enter()
        with trio.CancelScope(shield=True):
            await free.wait()

    async with open_cluster(stubborn) as cluster:
        with trio.move_on_after(1):
            await cluster.client.request("stubborn")
        assert cluster.client.statistics().outstanding == 0
        await trio.sleep(20)
        numbers = cluster.broker.statistics().services["stubborn"]
        assert (numbers.running, numbers.cancelling, numbers.slots) == (0, 1, 1)
        assert (cluster.worker.statistics().running, cluster.worker.statistics().cancelling) == (0, 1)

        with trio.move_on_after(1) as scope:
            await cluster.client.request("stubborn")
        assert scope.cancelled_caught  # it never had a slot

        free.set()
        await cluster.client.request("stubborn")
        await cluster.settle()
        numbers = cluster.broker.statistics().services["stubborn"]
        assert (numbers.cancelled + numbers.expired, numbers.replied) == (2, 1)
        assert cluster.worker.statistics().cancelled == 1


async def test_what_a_cancelled_handler_does_on_its_way_out_reaches_nobody(autojump_clock: Any) -> None:
    done = trio.Event()

    @service("talkative")
    async def talkative(request: Request) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            assert not request.active
            with trio.CancelScope(shield=True):
                for _ in range(1_000):
                    await request.send("more")
                await request.heartbeat()
            done.set()
            return "too late"

    async with open_cluster(talkative) as cluster:
        with trio.move_on_after(1):
            await cluster.client.request("talkative", deadline=math.inf)
        await done.wait()
        await cluster.settle()
        assert cluster.client.statistics().late_replies == 0
        assert cluster.worker.statistics().cancelled == 1


async def test_a_shielded_send_does_not_wait_for_credit_that_never_comes(probe: Probe, autojump_clock: Any) -> None:
    @service("shielded")
    async def shielded(request: Request) -> None:
        with trio.CancelScope(shield=True):
            for _ in range(200):
                await request.send(0)
                probe.sent += 1
        probe.leave()

    async with open_cluster(shielded) as cluster:
        async with cluster.client.stream("shielded"):
            await until(lambda: probe.sent == 64)
        with trio.fail_after(1):
            await probe.left.wait()
        assert probe.sent == 200


@pytest.mark.parametrize("make", HANDLERS)
async def test_a_killed_client_cancels_within_the_liveness_limit(
    make: Callable[[Probe], Service[..., Any]], probe: Probe, autojump_clock: Any
) -> None:
    async with open_cluster(make(probe)) as cluster, open_client(cluster.endpoint, name="victim") as victim:
        stream = victim.stream("handler")
        await anext(stream)
        await probe.entered.wait()
        killed = trio.current_time()
        current_network().kill(port_of(victim))
        victim._engine._life.cancel()
        await probe.left.wait()
        assert probe.left_at is not None
        assert probe.left_at - killed <= cluster.broker.settings.silence
        await cluster.settle()
        assert cluster.broker.statistics().clients == 1


@pytest.mark.parametrize("make", HANDLERS)
async def test_a_client_that_falls_silent_cancels_within_the_liveness_limit(
    make: Callable[[Probe], Service[..., Any]], probe: Probe, autojump_clock: Any
) -> None:
    async with open_cluster(make(probe)) as cluster, open_client(cluster.endpoint, name="victim") as victim:
        stream = victim.stream("handler")
        await anext(stream)
        await probe.entered.wait()
        parted = trio.current_time()
        network, broker = current_network(), cluster.broker._engine._port
        reachable = {port_of(cluster.worker), port_of(cluster.client), broker}
        network.partition([port_of(victim)], reachable)
        network.hook = lambda source, target, frames: (0,) if {source, target} <= reachable else ()
        await probe.left.wait()
        assert probe.left_at is not None
        assert probe.left_at - parted <= cluster.broker.settings.silence
        await cluster.settle()


async def test_a_dropped_stream_that_was_never_started_sends_nothing(cluster: Cluster, autojump_clock: Any) -> None:
    cluster.client.stream("echo")
    gc.collect()
    await trio.sleep(1)
    assert cluster.client.statistics().started == 0
    assert cluster.broker.statistics().services["echo"].received == 0


async def test_streams_dropped_after_the_client_was_closed_do_no_harm(cluster: Cluster, autojump_clock: Any) -> None:
    async with open_client(cluster.endpoint) as client:
        stream = client.stream("count", 1000)
        await anext(stream)
    del stream
    gc.collect()
    await trio.sleep(1)


# ---- handlers in threads: on the real clock


async def test_check_cancelled_raises_in_a_sync_handler() -> None:
    entered, outcome = threading.Event(), []

    @service("poller")
    def poller(request: SyncRequest) -> None:
        entered.set()
        try:
            while True:
                trio.from_thread.check_cancelled()
        except BaseException as error:
            outcome.append((type(error), request.active))
            raise

    async with open_cluster(poller, heartbeat=0.05) as cluster:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.client.request, "poller")
                await until(entered.is_set)
                scope.cancel()
        await until(lambda: outcome)
        assert outcome == [(trio.Cancelled, False)]
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 1


async def test_a_sync_handler_sees_active_turn_false() -> None:
    entered, left = threading.Event(), threading.Event()

    @service("watcher")
    def watcher(request: SyncRequest) -> None:
        entered.set()
        while request.active:
            pass
        left.set()

    async with open_cluster(watcher, heartbeat=0.05) as cluster:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.client.request, "watcher")
                await until(entered.is_set)
                scope.cancel()
        await until(left.is_set)


@pytest.mark.parametrize("reads", [1, 30, 200])
async def test_a_sync_generator_is_closed_when_the_caller_leaves(reads: int) -> None:
    closed = threading.Event()

    @service("endless")
    def endless() -> Iterator[int]:
        n = 0
        try:
            while True:
                yield n
                n += 1
        finally:
            closed.set()

    async with open_cluster(endless, heartbeat=0.05) as cluster:
        async with cluster.client.stream("endless") as stream:
            for expected in range(reads):
                assert await anext(stream) == expected
        await until(closed.is_set)
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 1


async def test_a_sync_handler_keeps_its_slot_until_its_thread_ends() -> None:
    entered, free = threading.Event(), threading.Event()

    @service("deaf", concurrency=1)
    def deaf() -> None:
        entered.set()
        free.wait(5)

    async with open_cluster(deaf, heartbeat=0.05) as cluster:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.client.request, "deaf")
                await until(entered.is_set)
                scope.cancel()
        await until(lambda: cluster.worker.statistics().cancelling)
        assert cluster.client.statistics().outstanding == 0
        assert cluster.broker.statistics().services["deaf"].cancelling == 1
        free.set()
        await cluster.settle()

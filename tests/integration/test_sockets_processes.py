"""Processes that are killed, stopped, and restarted, and what they cost in memory.

Run as a program, this file is one of the peers: `test_sockets_processes.py ROLE ENDPOINT`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from zmdp_trio import (
    Client,
    RequestError,
    Settings,
    WorkerLost,
    open_broker,
    open_client,
    open_worker,
    service,
)

if TYPE_CHECKING:
    from conftest import Peer

QUICK = Settings(heartbeat=0.2, misses=3, resume=2)
MIB = 2**20
#: Seconds that a loaded machine may add to a limit.
SLACK = 2
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# ---- the peers


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("hang")
async def hang() -> AsyncIterator[int]:
    yield 1
    await trio.sleep_forever()


@service("ticks")
async def ticks(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
        await trio.sleep(0.01)


@service("chunks")
async def chunks(megabytes: int) -> AsyncIterator[bytes]:
    chunk = bytes(256 * 1024)
    for _ in range(4 * megabytes):
        yield chunk


@service("endless")
async def endless() -> AsyncIterator[bytes]:
    chunk = bytes(64 * 1024)
    while True:
        yield chunk


SERVICES = [echo, hang, ticks, chunks, endless]


def say(*words: Any) -> None:
    print(*words, flush=True)  # noqa: T201  the parent reads it


async def play_broker(endpoint: str) -> None:
    async with open_broker(endpoint, settings=QUICK) as broker:
        say(broker.endpoints[0])
        await trio.sleep_forever()


async def play_worker(endpoint: str) -> None:
    async with open_worker(SERVICES, endpoint, settings=QUICK) as worker:
        await worker.wait_welcomed()
        say("welcomed")
        await trio.sleep_forever()


async def play_client(endpoint: str) -> None:
    async with open_client(endpoint, settings=QUICK) as client, client.stream("hang") as stream:
        say("got", await anext(stream))
        await trio.sleep_forever()


ROLES: dict[str, Callable[[str], Awaitable[None]]] = {
    "broker": play_broker,
    "worker": play_worker,
    "client": play_client,
}


# ---- killed and stopped


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_client_that_vanishes_cancels_its_handler_within_the_liveness_limit(
    number: signal.Signals, spawn: Callable[..., Peer]
) -> None:
    left = trio.Event()

    @service("hang")
    async def hang() -> AsyncIterator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            left.set()

    with trio.fail_after(30):
        async with (
            open_broker("tcp://127.0.0.1:*", settings=QUICK) as broker,
            open_worker([hang], broker.endpoints[0], settings=QUICK) as worker,
        ):
            await worker.wait_welcomed()
            client = spawn("client", broker.endpoints[0])
            assert await client.line() == "got 1"
            assert worker.statistics().running == 1
            client.send_signal(number)
            with trio.fail_after(QUICK.silence + SLACK):
                await left.wait()
            await until(lambda: broker.statistics().services["hang"].cancelling == 0)
            assert broker.statistics().clients == 0
            assert worker.statistics().running == worker.statistics().cancelling == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_vanishes_is_lost_to_its_caller(number: signal.Signals, spawn: Callable[..., Peer]) -> None:
    with trio.fail_after(30):
        async with (
            open_broker("tcp://127.0.0.1:*", settings=QUICK) as broker,
            open_client(broker.endpoints[0], settings=QUICK) as client,
        ):
            worker = spawn("worker", broker.endpoints[0])
            await worker.line()
            async with client.stream("hang") as stream:
                assert await anext(stream) == 1
                worker.send_signal(number)
                with trio.fail_after(QUICK.silence + SLACK), pytest.raises(WorkerLost):
                    await anext(stream)
            assert client.statistics().outstanding == 0
            assert broker.statistics().services["hang"].lost == 1


async def test_worker_and_client_survive_a_broker_that_is_killed_and_restarted(spawn: Callable[..., Peer]) -> None:
    with trio.fail_after(40):
        broker = spawn("broker", "tcp://127.0.0.1:*")
        endpoint = await broker.line()
        async with (
            open_worker(SERVICES, endpoint, settings=QUICK) as worker,
            open_client(endpoint, settings=QUICK) as client,
        ):
            assert await request_again(client, 0) == 0
            for generation in (1, 2):
                async with client.stream("ticks", 50) as stream:
                    ticks = [await anext(stream)]
                    broker.close()
                    broker = spawn("broker", endpoint)
                    ticks += [tick async for tick in stream]
                assert ticks == list(range(50)), "the handler went on, and so does the stream"
                assert await broker.line() == endpoint
                assert await request_again(client, generation) == generation
            await until(lambda: worker.statistics().running == worker.statistics().cancelling == 0)
            assert worker.statistics().received == 5
            assert client.statistics().outstanding == client.statistics().waiting == 0


async def test_a_retried_request_outlives_the_broker(spawn: Callable[..., Peer]) -> None:
    runs = 0
    given_up = trio.Event()
    settings = attrs.evolve(QUICK, resume=0.5)

    @service("first hangs")
    async def first_hangs() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            broker.close()
            try:
                await trio.sleep_forever()
            finally:
                given_up.set()
        return runs

    with trio.fail_after(30):
        broker = spawn("broker", "tcp://127.0.0.1:*")
        endpoint = await broker.line()
        async with (
            open_worker([first_hangs], endpoint, settings=settings) as worker,
            open_client(endpoint, settings=settings) as client,
            trio.open_nursery() as nursery,
        ):
            await worker.wait_welcomed()

            @nursery.start_soon
            async def restart() -> None:
                await given_up.wait()
                await spawn("broker", endpoint).line()

            assert await client.request("first hangs", retry=5) == 2


async def request_again(client: Client, payload: Any) -> Any:
    """Ask until the broker is back, and the worker with it."""
    while True:
        try:
            return await client.request("echo", payload)
        except RequestError:
            await trio.sleep(0.05)


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  nobody signals it
            await trio.sleep(0.01)


# ---- memory


@linux_only
async def test_a_large_stream_leaves_the_memory_of_broker_and_worker_flat(spawn: Callable[..., Peer]) -> None:
    with trio.fail_after(60):
        broker = spawn("broker", "tcp://127.0.0.1:*")
        endpoint = await broker.line()
        worker = spawn("worker", endpoint)
        await worker.line()
        async with open_client(endpoint) as client:

            async def read(megabytes: int) -> None:
                size = 0
                async for chunk in client.stream("chunks", megabytes):
                    size += len(chunk)
                assert size == megabytes * MIB

            await read(20)  # what every stream needs
            before = {peer: peer.memory("VmRSS") for peer in (broker, worker)}
            for peer in before:
                peer.forget_peak()
            await read(200)
            for peer, memory in before.items():
                assert peer.memory("VmHWM") - memory < 20 * MIB


@linux_only
async def test_an_endless_producer_costs_the_broker_nothing_while_its_reader_pauses(
    spawn: Callable[..., Peer],
) -> None:
    with trio.fail_after(60):
        broker = spawn("broker", "tcp://127.0.0.1:*")
        endpoint = await broker.line()
        worker = spawn("worker", endpoint)
        await worker.line()
        async with open_client(endpoint) as client:
            assert [chunk async for chunk in client.stream("chunks", 5)]
            before = broker.memory("VmRSS")
            async with client.stream("endless") as paused:
                await anext(paused)
                async with client.stream("endless") as neighbour:  # it runs meanwhile
                    for _ in range(2000):
                        await anext(neighbour)
                assert broker.memory("VmRSS") - before < 10 * MIB
                for _ in range(100):
                    await anext(paused)


if __name__ == "__main__":
    role, endpoint = sys.argv[1:]
    trio.run(ROLES[role], endpoint)

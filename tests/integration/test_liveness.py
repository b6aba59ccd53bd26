"""Busy or blocked is not dead, and stopped is: a worker that is a process of its own.

Run as a program, this file is the worker: `test_liveness.py NAME ENDPOINT HEARTBEAT`.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from zmdp_trio import Broker, Client, RequestError, Settings, WorkerLost, open_broker, open_client, open_worker
from zmdp_trio import service as service

if TYPE_CHECKING:
    from conftest import Peer

QUICK = Settings(heartbeat=0.2, misses=3)
#: How long a handler blocks; who takes a blocked peer for dead has done so by then.
BLOCK = 2.5 * QUICK.silence
#: Seconds that a loaded machine may add to a limit.
SLACK = 3


# ---- the worker

runs = 0


def count_run() -> int:
    global runs
    runs += 1
    return runs


@service("in a thread")
def in_a_thread(seconds: float) -> int:
    time.sleep(seconds)
    return count_run()


@service("in the loop")
async def in_the_loop(seconds: float) -> int:
    time.sleep(seconds)  # noqa: ASYNC251  it blocks the loop, as some handlers do
    return count_run()


@service("with the GIL")
async def with_the_gil(seconds: float) -> int:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # unlike time.sleep, this keeps the lock
    return count_run()


@service("runs")
async def tell_runs() -> int:
    return runs


@service("hold")
async def hold() -> str:
    """Keep a request on the first worker until that was stopped and goes on; the second one answers at once."""
    count_run()
    say("holds")
    if NAME == "one":
        await continued.wait()
    return NAME


@service("who")
async def who() -> str:
    return NAME


NAME = ""
continued = trio.Event()
SERVICES = [in_a_thread, in_the_loop, with_the_gil, tell_runs, hold, who]


def say(*words: Any) -> None:
    print(*words, flush=True)  # noqa: T201  the parent reads it


async def play_worker(endpoint: str, settings: Settings) -> None:
    async with open_worker(SERVICES, endpoint, name=NAME, settings=settings) as worker:
        await worker.wait_welcomed()
        with trio.open_signal_receiver(signal.SIGCONT) as signals:
            say("welcomed")
            async for _ in signals:
                continued.set()


# ---- blocked


async def test_a_handler_that_blocks_is_waited_for(spawn: Callable[..., Peer]) -> None:
    """Each way to block has a broker and workers of its own; they block at the same time, which takes long enough."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name in ("in a thread", "in the loop", "with the GIL"):
                nursery.start_soon(block, name, spawn)


async def block(name: str, spawn: Callable[..., Peer]) -> None:
    """`retry` would run it again on the second worker, were the first one taken for dead."""
    async with (
        open_broker("tcp://127.0.0.1:*", settings=QUICK) as broker,
        open_client(broker.endpoints[0], settings=QUICK) as client,
    ):
        for each in ("one", "two"):
            assert await start_worker(spawn, broker, each).line() == "welcomed"
        assert await client.request(name, BLOCK, retry=3) == 1
        assert sum([await client.request("runs", worker=each) for each in ("one", "two")]) == 1
        numbers = broker.statistics()
        assert (numbers.services[name].received, numbers.services[name].replied) == (1, 1)
        assert (numbers.workers, numbers.late_replies, numbers.duplicates) == (2, 0, 0)


def start_worker(spawn: Callable[..., Peer], broker: Broker, name: str, settings: Settings = QUICK) -> Peer:
    return spawn(name, broker.endpoints[0], str(settings.heartbeat), program=Path(__file__))


# ---- stopped


async def test_a_stopped_worker_is_lost_and_comes_back(spawn: Callable[..., Peer]) -> None:
    with trio.fail_after(60):
        async with (
            open_broker("tcp://127.0.0.1:*", settings=QUICK) as broker,
            open_client(broker.endpoints[0], settings=QUICK) as client,
        ):
            outcomes: dict[int, str] = {}
            async with trio.open_nursery() as nursery:
                one = start_worker(spawn, broker, "one")
                assert await one.line() == "welcomed"
                for number in range(6):
                    nursery.start_soon(hold_one, client, number, outcomes)
                    assert await one.line() == "holds"
                assert await start_worker(spawn, broker, "two").line() == "welcomed"
                one.send_signal(signal.SIGSTOP)
                stopped = trio.current_time()
            assert trio.current_time() - stopped < QUICK.silence + SLACK
            assert outcomes == {number: "two" if number % 2 else "WorkerLost" for number in range(6)}
            assert broker.statistics().workers == 1

            one.send_signal(signal.SIGCONT)
            assert await ask_until_it_is_back(client, "one") == "one"
            assert await client.request("runs", worker="one") == 6
            assert await client.request("runs", worker="two") == 3
            numbers = broker.statistics()
            held = numbers.services["hold"]
            assert numbers.workers == 2
            assert (held.received, held.replied, held.lost) == (6, 3, 3)
            assert held.queued == held.running == held.cancelling == 0
            assert client.statistics().outstanding == client.statistics().waiting == 0


async def hold_one(client: Client, number: int, outcomes: dict[int, str]) -> None:
    """Make a request that may run again if its number is odd; note its outcome, which must be the only one."""
    try:
        outcome = await client.request("hold", retry=number % 2)
    except WorkerLost:
        outcome = "WorkerLost"
    assert outcomes.setdefault(number, outcome) is outcome


async def ask_until_it_is_back(client: Client, worker: str) -> Any:
    while True:
        try:
            return await client.request("who", worker=worker)
        except RequestError:
            await trio.sleep(0.05)


if __name__ == "__main__":
    NAME, endpoint, heartbeat = sys.argv[1:]
    trio.run(play_worker, endpoint, Settings(heartbeat=float(heartbeat), misses=3))

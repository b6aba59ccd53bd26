"""Who waits for a port's news: the keeper, or somebody who stands in; and what callers and workers make of that."""

from __future__ import annotations

import secrets
import signal
from typing import Any

import pytest
import trio
import trio.testing
from cluster import Cluster, open_cluster

from zmdp_trio import DeadlineExceeded, RequestCancelled, service, testing
from zmdp_trio._core.client import ClientMachine
from zmdp_trio._engine.post import MOST_ASKS, TICKS, Post
from zmdp_trio._transport import DIALLED, Options, Port, dial, listen


class Place:
    """A post at a bound port, its keeper, and a peer that sends what is news there."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.port: Port = listen(f"memory://{secrets.token_hex(4)}", options=Options())
        self.peer: Port = dial(self.port.endpoints[0], Options())
        self.post = Post(self.port)
        #: Who took each turn at which something had come.
        self.turns: list[str] = []
        nursery.start_soon(self.post.keep, lambda: self.turn("keeper"))

    def turn(self, who: str) -> None:
        if self.port.receive():
            self.turns.append(who)

    async def news(self) -> list[str]:
        """Send something; return who took turns at it."""
        self.turns.clear()
        self.peer.send(DIALLED, [b"news"])
        await trio.testing.wait_all_tasks_blocked()
        return self.turns

    async def stand_in(self, who: str, times: int = 1) -> None:
        """Have the keeper leave its post at its next news, which comes; then stand in."""
        await self.leave_empty()
        for _ in range(times):
            assert self.post.ask()
            if await self.post.stand_in():
                self.turn(who)

    async def leave_empty(self) -> None:
        assert not self.post.ask()
        self.peer.send(DIALLED, [b"news"])
        while not self.turns:
            await trio.lowlevel.checkpoint()


@pytest.fixture
async def place(autojump_clock: Any) -> Any:
    async with trio.open_nursery() as nursery:
        place = Place(nursery)
        await trio.testing.wait_all_tasks_blocked()
        yield place
        nursery.cancel_scope.cancel()
    place.port.close()


async def test_the_keeper_takes_all_turns_while_nobody_asks(place: Place, autojump_clock: Any) -> None:
    for _ in range(5):
        assert await place.news() == ["keeper"]


async def test_who_asks_stands_in_after_the_next_turn_and_the_keeper_comes_back(
    place: Place, autojump_clock: Any
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.stand_in, "caller", 3)
        await trio.testing.wait_all_tasks_blocked()
        assert not place.post.ask(), "one at a time"
        for _ in range(3):
            assert await place.news() == ["caller"]
    assert await place.news() == ["keeper"]


async def test_the_keeper_takes_the_post_again_when_nobody_comes(place: Place, autojump_clock: Any) -> None:
    await place.leave_empty()
    for _ in range(TICKS + 1):
        await trio.lowlevel.checkpoint()
    assert not place.post.ask()
    assert await place.news() == ["keeper"]


async def test_twice_as_many_must_ask_after_each_time_in_vain(place: Place, autojump_clock: Any) -> None:
    """A keeper that leaves its post ask after ask would cost two ticks at each message."""
    left = 0
    for _ in range(4 * MOST_ASKS):
        assert not place.post.ask()
        place.peer.send(DIALLED, [b"news"])
        ticks = 0
        while place.post._keeps and ticks < 10:
            await trio.lowlevel.checkpoint()
            ticks += 1
        left += not place.post._keeps
        await trio.testing.wait_all_tasks_blocked()
    assert left == 11  # of 1,024: 1 + 2 + 4 + ... + 256 + 256 + 256 = 1,023


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_one_who_is_cancelled_misses_nothing_for_the_others(
    cancelled_first: bool, place: Place, autojump_clock: Any
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.stand_in, "caller")
        await trio.testing.wait_all_tasks_blocked()
        if cancelled_first:
            nursery.cancel_scope.cancel()
            place.peer.send(DIALLED, [b"news"])
        else:
            place.peer.send(DIALLED, [b"news"])
            nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    # The first turn had the keeper leave its post.
    assert place.turns == ["keeper", "keeper" if cancelled_first else "caller"]
    assert await place.news() == ["keeper"]


async def test_one_who_is_recalled_returns(place: Place, autojump_clock: Any) -> None:
    place.post.recall()  # nobody stands in: nothing happens
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.stand_in, "caller")
        await trio.testing.wait_all_tasks_blocked()
        place.post.recall()
    assert await place.news() == ["keeper"]


async def test_the_port_is_closed_under_one_who_stands_in(autojump_clock: Any) -> None:
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            place = Place(nursery)
            async with trio.open_nursery() as inner:
                inner.start_soon(place.stand_in, "caller")
                await trio.testing.wait_all_tasks_blocked()
                place.port.close()
            # It has returned, and the keeper tells.


# ---- callers and workers


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("sleep")
async def sleep(payload: Any) -> None:
    try:
        await trio.sleep_forever()
    finally:
        ended.append(payload)


@service("nap")
async def nap(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


ended: list[Any] = []


@pytest.fixture
async def cluster(autojump_clock: Any) -> Any:
    """A cluster that is warm: the client's calls, and the worker's idle task, stand in."""
    ended.clear()
    async with open_cluster(echo, sleep, nap) as cluster:
        for n in range(20):
            assert await cluster.client.request("echo", n) == n
        assert stands_in(cluster.worker)
        yield cluster


def stands_in(peer: Any) -> bool:
    """Whether somebody stands in for the keeper of the peer's only connection."""
    post = peer._engine.post
    return post is not None and post._taken


async def ask(cluster: Cluster, *arguments: Any, **options: Any) -> Any:
    """Make a request at a post that the keeper has left: the caller stands in."""
    while cluster.client._engine.post._keeps:  # type: ignore[union-attr]
        await cluster.client.request("echo")
    return await cluster.client.request(*arguments, **options)


async def begin(cluster: Cluster, nursery: trio.Nursery, *arguments: Any) -> None:
    nursery.start_soon(ask, cluster, *arguments)
    await trio.testing.wait_all_tasks_blocked()
    assert stands_in(cluster.client)


async def test_a_caller_that_stands_in_is_cancelled_and_so_is_its_handler(
    cluster: Cluster, autojump_clock: Any
) -> None:
    async with trio.open_nursery() as nursery:
        await begin(cluster, nursery, "sleep", 1)
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [1]
    assert cluster.client.statistics().outstanding == 0
    assert await cluster.client.request("echo", 2) == 2


async def test_others_are_answered_while_one_stands_in(cluster: Cluster, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        await begin(cluster, nursery, "sleep", 1)
        begun = trio.current_time()
        for n in range(10):
            assert await cluster.client.request("echo", n) == n
        assert trio.current_time() == begun
        async with cluster.client.stream("nap", 5) as stream:
            assert [each async for each in stream] == []
        assert trio.current_time() == begun + 5
        nursery.cancel_scope.cancel()


async def test_a_caller_that_stands_in_times_out(cluster: Cluster, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        begun = trio.current_time()
        with trio.move_on_after(3) as scope:
            await ask(cluster, "sleep", 1)
        assert scope.cancelled_caught
        assert trio.current_time() == begun + 3
        with pytest.raises(DeadlineExceeded):
            await ask(cluster, "sleep", 2, timeout=4)
        assert trio.current_time() == begun + 7
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [1, 2]


async def test_a_deadline_that_is_moved_while_its_caller_stands_in_goes_to_the_handler(
    cluster: Cluster, autojump_clock: Any
) -> None:
    begun = trio.current_time()

    async def ask_within(scope: trio.CancelScope) -> None:
        with scope:
            await ask(cluster, "sleep", 1, timeout=None)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(deadline=begun + 100)
        nursery.start_soon(ask_within, scope)
        await trio.testing.wait_all_tasks_blocked()
        assert stands_in(cluster.client)
        scope.deadline = begun + 200
        await trio.sleep(150)
        assert ended == []
    assert trio.current_time() == begun + 200
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [1]


async def test_a_client_is_closed_while_a_caller_stands_in(cluster: Cluster, autojump_clock: Any) -> None:
    async def ask_in_vain() -> None:
        with pytest.raises(RequestCancelled):
            await ask(cluster, "sleep", 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_in_vain)
        await trio.testing.wait_all_tasks_blocked()
        assert stands_in(cluster.client)
        await cluster.client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [1]


def test_an_interrupt_in_the_turn_of_a_caller_loses_nobody_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller itself may survive it, as at a prompt; and so does the client."""
    take_news = ClientMachine.take_news
    replied_at: list[float] = []

    def interrupted(machine: ClientMachine) -> Any:
        if news := take_news(machine):
            monkeypatch.undo()
            signal.raise_signal(signal.SIGINT)
        return news

    async def other(cluster: Cluster) -> None:
        await cluster.client.request("nap", 1)
        replied_at.append(trio.current_time())

    async def main() -> None:
        async with open_cluster(echo, nap) as cluster, trio.open_nursery() as nursery:
            begun, engine = trio.current_time(), cluster.client._engine
            nursery.start_soon(other, cluster)
            await trio.testing.wait_all_tasks_blocked()
            assert not stands_in(cluster.client)
            while engine.post._keeps or not engine.lonely:  # type: ignore[union-attr]
                await cluster.client.request("echo")
            monkeypatch.setattr(ClientMachine, "take_news", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await cluster.client.request("nap", 5)
            assert trio.current_time() == begun + 1
            assert await cluster.client.request("echo", 1) == 1
            await trio.testing.wait_all_tasks_blocked()
            assert replied_at == [begun + 1]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which Trio puts its own in the place of
    try:
        testing.run(main)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_handler_that_waits_leaves_the_post_to_others(cluster: Cluster, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(cluster.client.request, "nap", 10 + n)
            await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        for n in range(5):
            assert await cluster.client.request("echo", n) == n
        assert trio.current_time() == begun


async def test_a_worker_drains_while_its_task_stands_in(cluster: Cluster, autojump_clock: Any) -> None:
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        await begin(cluster, nursery, "nap", 5)
        assert await cluster.worker.drain()
    assert trio.current_time() == begun + 5

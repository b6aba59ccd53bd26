"""Brokers that are called by name: one for each address that stands behind it, now and later.

The addresses lead to brokers in memory, so that time is virtual.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from cluster import echo, until

import zmdp_trio._engine.dialled as engine
from zmdp_trio import BrokerLost, Client, Worker, open_broker, open_client, open_worker, service
from zmdp_trio._resolve import HostName, host_name
from zmdp_trio._settings import Settings
from zmdp_trio._transport import Options, Port
from zmdp_trio._transport.memory import current_network

NAME = "tcp://brokers.example:5555"
ONE, TWO, THREE = addresses = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
RESOLVE = Settings().resolve


class Names(trio.abc.HostnameResolver):
    """A name service in which the test says who is where."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        name = host.decode() if isinstance(host, bytes) else host
        if not self.addresses.get(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in self.addresses[name]
        ]

    async def getnameinfo(self, *_: Any) -> tuple[str, str]:
        raise AssertionError("nobody asks")

    def set(self, *addresses: str) -> None:
        self.addresses["brokers.example"] = addresses


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Names]:
    """A name service, and a network in memory that stands in for TCP."""
    real = engine.dial

    def dial(endpoint: str, options: Options) -> Port:
        return real(endpoint.replace("tcp://", "memory://"), options)

    monkeypatch.setattr(engine, "dial", dial)
    names = Names()
    names.set(*addresses)
    trio.socket.set_custom_hostname_resolver(names)
    yield names
    trio.socket.set_custom_hostname_resolver(None)


def at(address: str) -> Any:
    return open_broker(f"memory://{address}:5555", name=address)


def connected(peer: Worker | Client) -> set[str]:
    """The addresses to which a peer has a session."""
    uplinks = peer._machine.uplinks.values()
    return {uplink.endpoint.removeprefix("tcp://").removesuffix(":5555") for uplink in uplinks if uplink.up}


# ---- there and back


async def test_a_name_stands_for_all_its_addresses(names: Names, autojump_clock: Any) -> None:
    async with (
        at(ONE) as one,
        at(TWO) as two,
        at(THREE) as three,
        open_worker([echo], NAME) as worker,
        open_client(NAME) as client,
    ):
        await until(lambda: connected(client) == connected(worker) == set(addresses))
        for i in range(9):
            assert await client.request("echo", i) == i
        assert [broker.statistics().total.received for broker in (one, two, three)] == [3, 3, 3]
        assert client._machine.unresolved == worker._machine.unresolved == {}


async def test_an_address_that_appears_is_found(names: Names, autojump_clock: Any) -> None:
    names.set(ONE)
    async with at(ONE), at(TWO) as two, open_worker([echo], NAME) as worker, open_client(NAME) as client:
        await until(lambda: connected(client) == connected(worker) == {ONE})
        asked = names.asked
        names.set(ONE, TWO)
        await trio.sleep(RESOLVE + 1)
        assert names.asked == asked + 2, "once each"
        assert connected(client) == connected(worker) == {ONE, TWO}
        for i in range(4):
            assert await client.request("echo", i) == i
        assert two.statistics().total.received == 2


async def test_an_address_that_disappears_keeps_what_it_has_and_gets_no_more(names: Names, autojump_clock: Any) -> None:
    @service("ticks")
    async def ticks(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
            await trio.sleep(1)

    names.set(ONE)
    async with at(ONE) as one, at(TWO) as two, open_worker([ticks, echo], NAME) as worker, open_client(NAME) as client:
        await until(lambda: connected(client) == connected(worker) == {ONE})
        async with client.stream("ticks", 100) as stream:
            assert await anext(stream) == 0
            names.set(TWO)
            await until(lambda: connected(client) == connected(worker) == {ONE, TWO}, within=RESOLVE + 1)
            for i in range(5):
                assert await client.request("echo", i) == i
            assert one.statistics().total.received == 1
            assert two.statistics().total.received == 5
            assert [i async for i in stream] == list(range(1, 100))
        await until(lambda: connected(client) == connected(worker) == {TWO})
        await until(lambda: (one.statistics().clients, one.statistics().workers) == (0, 0))
        # The broker may hear of the farewell before the task that kept its connection has ended.
        await trio.testing.wait_all_tasks_blocked()
        assert len(client._engine._keepers) == len(client._engine._connections) == 1
        assert list(client._machine.uplinks) == list(worker._machine.uplinks) == [f"tcp://{TWO}:5555"]


async def test_a_worker_serves_a_draining_broker_to_the_end_though_its_address_is_gone(
    names: Names, autojump_clock: Any
) -> None:
    """That is how a pod stops: it drains, and the name service forgets it."""

    @service("slow", concurrency=1)
    async def slow(n: int) -> int:
        await trio.sleep(1)
        return n

    replies: list[int] = []

    async def call(n: int) -> None:
        replies.append(await client.request("slow", n))

    names.set(ONE)
    async with at(ONE) as broker, open_worker([slow], NAME, resolve=2) as worker, open_client(NAME) as client:
        await until(lambda: connected(client) == connected(worker) == {ONE})
        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(call, n)
            await trio.sleep(0.5)
            names.set(TWO)
            await broker.drain()
        assert sorted(replies) == list(range(20))


async def test_an_address_that_comes_back_while_it_is_left_is_kept_or_dialled_anew(
    names: Names, autojump_clock: Any
) -> None:
    async with at(ONE), at(TWO), open_worker([echo], NAME, resolve=1) as worker, open_client(NAME, resolve=1) as client:
        for _ in range(20):
            names.set(ONE)
            await until(lambda: connected(client) == connected(worker) == {ONE})
            names.set(ONE, TWO)
            await until(lambda: connected(client) == connected(worker) == {ONE, TWO})
            assert await client.request("echo", 1) == 1
        assert client._machine.statistics()["protocol_errors"] == 0
        assert worker.statistics().protocol_errors == 0


async def test_a_broker_that_is_replaced_is_found_long_before_the_next_look(names: Names, autojump_clock: Any) -> None:
    names.set(ONE)
    async with at(TWO), open_worker([echo], NAME) as worker, open_client(NAME) as client:
        async with at(ONE):
            await until(lambda: connected(client) == connected(worker) == {ONE})
            names.set(TWO)
            current_network().kill(f"memory://{ONE}:5555")
            begin = trio.current_time()
            await until(lambda: connected(client) == connected(worker) == {TWO})
            assert trio.current_time() - begin < 3
            assert await client.request("echo", 1) == 1
        await until(lambda: len(client._machine.uplinks) == len(worker._machine.uplinks) == 1)


async def test_a_broker_that_stays_away_is_no_reason_to_ask_again_and_again(names: Names, autojump_clock: Any) -> None:
    names.set(ONE, TWO)
    async with at(ONE), open_client(NAME) as client:
        await until(lambda: connected(client) == {ONE})
        await trio.sleep(100)
        asked = names.asked
        await trio.sleep(20 * RESOLVE)
        assert names.asked - asked <= 21


# ---- names that can't be looked up


async def test_a_name_that_can_not_be_resolved_yet_is_tried_again(
    names: Names, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zmdp_trio.engine")
    names.set()
    async with at(ONE), open_worker([echo], NAME, name="w") as worker, open_client(NAME, name="c") as client:
        with pytest.raises(BrokerLost, match=r"brokers.example:5555: can't be resolved: .*not known"):
            await client.request("echo", 1)
        await trio.sleep(60)
        names.set(ONE)
        await until(lambda: connected(client) == connected(worker) == {ONE})
        assert await client.request("echo", 2) == 2
        said = [record for record in caplog.records if "resolved" in record.getMessage()]
        assert sorted((record.levelname, record.getMessage().split(":")[0]) for record in said) == [
            ("INFO", "c"),
            ("INFO", "c"),
            ("INFO", "w"),
            ("WARNING", "w"),
        ]


async def test_a_name_that_can_not_be_resolved_any_more_changes_nothing(names: Names, autojump_clock: Any) -> None:
    async with at(ONE), at(TWO), open_worker([echo], NAME) as worker, open_client(NAME) as client:
        await until(lambda: connected(client) == connected(worker) == {ONE, TWO})
        names.set()
        await trio.sleep(10 * RESOLVE)
        assert connected(client) == connected(worker) == {ONE, TWO}
        assert await client.request("echo", 1) == 1


async def test_several_names_and_numbers_may_lead_to_the_same_broker(names: Names, autojump_clock: Any) -> None:
    names.addresses["other.example"] = (TWO, THREE)
    names.set(ONE, TWO)
    brokers = (NAME, f"tcp://{ONE}:5555", "tcp://other.example:5555")
    async with at(ONE), at(TWO), at(THREE), open_worker([echo], *brokers) as worker, open_client(*brokers) as client:
        await until(lambda: connected(client) == connected(worker) == set(addresses))
        names.set()
        names.addresses["other.example"] = (THREE,)
        await trio.sleep(2 * RESOLVE)
        assert connected(client) == set(addresses), "the first name may still mean it"
        names.set(THREE)
        await trio.sleep(2 * RESOLVE)
        assert connected(client) == connected(worker) == {ONE, THREE}, "the number still does"


async def test_keys_agree_however_a_broker_is_called(names: Names, autojump_clock: Any) -> None:
    runs = 0

    @service("once")
    async def once() -> int:
        nonlocal runs
        runs += 1
        return runs

    numbers = [f"tcp://{address}:5555" for address in addresses]
    async with at(ONE), at(TWO), at(THREE), open_worker([once], NAME) as worker:
        await until(lambda: connected(worker) == set(addresses))
        for number in range(10):
            for brokers in ([NAME], numbers, [*numbers[1:], NAME]):
                async with open_client(*brokers) as client:
                    assert await client.request("once", key=f"key {number}") == number + 1


# ---- what is looked up, and how


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (NAME, HostName("brokers.example", 5555)),
        ("tcp://localhost:1", HostName("localhost", 1)),
        ("tcp://10.0.0.1:5555", None),
        ("tcp://[::1]:5555", None),
        ("tcp://::1:5555", None),
        ("tcp://[fe80::1%eth0]:5555", None),
        ("tcp://eth0;brokers.example:5555", None),
        ("tcp://brokers.example:", None),
        ("tcp://brokers.example:*", None),
        ("tcp://*:5555", None),
        ("tcp://brokers.example:0", None),
        ("tcp://brokers.example:65536", None),
        ("tcp://:5555", None),
        ("ipc://brokers.example:5555", None),
        ("memory://brokers.example:5555", None),
        ("inproc://brokers.example:5555", None),
    ],
)
def test_what_is_a_name(endpoint: str, name: HostName | None) -> None:
    assert host_name(endpoint) == name


async def test_numbers_are_never_looked_up(names: Names, autojump_clock: Any) -> None:
    async with at(ONE), open_worker([echo], f"tcp://{ONE}:5555"), open_client(f"memory://{ONE}:5555") as client:
        assert await client.request("echo", 1) == 1
        await trio.sleep(3 * RESOLVE)
    assert names.asked == 0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((ONE, TWO, ONE), {f"tcp://{ONE}:1", f"tcp://{TWO}:1"}),
        (("fd00::1", "fd00::2"), {"tcp://[fd00::1]:1", "tcp://[fd00::2]:1"}),
        (("fd00::1", ONE), {f"tcp://{ONE}:1"}),
    ],
)
async def test_addresses_are_ipv4_or_else_ipv6(names: Names, found: tuple[str, ...], expected: set[str]) -> None:
    names.set(*found)
    assert await HostName("brokers.example", 1).look_up() == expected


@pytest.mark.parametrize("host", ["nobody.example", "a" * 100 + ".example", "..", "\udcff"])
async def test_what_is_no_name_is_an_os_error(host: str, names: Names) -> None:
    with pytest.raises(OSError):  # noqa: PT011  the words are the system's
        await HostName(host, 1).look_up()

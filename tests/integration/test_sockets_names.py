"""Brokers over tcp that are called by name."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from zmdp_trio import Broker, open_broker, open_client, open_worker, service


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


class Names(trio.abc.HostnameResolver):
    """A name service that knows one name, and where it is."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses]

    async def getnameinfo(self, *_: Any) -> tuple[str, str]:
        raise AssertionError("nobody asks")


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    names = Names("127.0.0.1", "127.0.0.2")
    trio.socket.set_custom_hostname_resolver(names)
    yield names
    trio.socket.set_custom_hostname_resolver(None)


def port_of(broker: Broker) -> str:
    return broker.endpoints[0].rpartition(":")[2]


async def until(condition: Any) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await trio.sleep(0.01)


async def test_two_brokers_behind_one_name(names: Names) -> None:
    async with open_broker("tcp://127.0.0.1:*") as one, open_broker(f"tcp://127.0.0.2:{port_of(one)}") as two:
        name = f"tcp://brokers.example:{port_of(one)}"
        async with open_worker([echo], name, resolve=0.1) as worker, open_client(name, resolve=0.1) as client:
            peers = (worker, client)
            await until(lambda: all(sum(u.up for u in peer._machine.uplinks.values()) == 2 for peer in peers))
            for i in range(10):
                assert await client.request("echo", i) == i
            assert one.statistics().total.received == two.statistics().total.received == 5
            names.addresses = ("127.0.0.2",)
            await until(lambda: (one.statistics().clients, one.statistics().workers) == (0, 0))
            for i in range(10):
                assert await client.request("echo", i) == i
            assert two.statistics().total.received == 15


async def test_localhost_is_a_name_too() -> None:
    async with open_broker("tcp://127.0.0.1:*") as broker:
        name = f"tcp://localhost:{port_of(broker)}"
        async with open_worker([echo], name) as worker, open_client(name, broker.endpoints[0]) as client:
            await worker.wait_welcomed()
            assert await client.request("echo", 1) == 1
            assert len(client._machine.uplinks) == 1, "two words for one address"

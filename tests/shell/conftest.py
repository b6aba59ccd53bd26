"""What the tests of the shell share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

pytest.register_assert_rewrite("cluster")

from cluster import Cluster, open_cluster  # noqa: E402  only now are its asserts rewritten

from zmdp_trio import Final, service  # noqa: E402


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster that offers `echo` and `count`."""
    async with open_cluster(echo, count) as cluster:
        yield cluster


class Probe:
    """What a handler did, and when."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.left = trio.Event()
        self.left_at: float | None = None
        self.sent = 0

    def enter(self) -> None:
        self.entered.set()

    def leave(self) -> None:
        self.left_at = trio.current_time()
        self.left.set()


@pytest.fixture
def probe() -> Probe:
    return Probe()

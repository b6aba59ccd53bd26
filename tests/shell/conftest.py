"""What the tests of the shell share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("cluster")

from cluster import Cluster, Probe, count, echo, open_cluster  # noqa: E402  only now are its asserts rewritten


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster that offers `echo` and `count`."""
    async with open_cluster(echo, count) as cluster:
        yield cluster


@pytest.fixture
def probe() -> Probe:
    return Probe()

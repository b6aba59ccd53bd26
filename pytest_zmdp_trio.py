"""Fixtures and options for pytest, with pytest-trio.

pytest loads this at each start where zmdp-trio is installed.  So it stands outside of the package, and imports that,
and Trio, only when a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from zmdp_trio.testing import Cluster, Network, VirtualClock

#: Seconds between heartbeats in real time: they acknowledge what came last, and the end of a test waits for that.
HEARTBEAT = 0.5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--zmdp-transport` and `--zmdp-seed`."""
    group = parser.getgroup("zmdp-trio")
    group.addoption(
        "--zmdp-transport",
        choices=["memory", "tcp"],
        default="memory",
        help="what zmdp_cluster runs over; tests that need virtual time or network faults are skipped over tcp",
    )
    group.addoption("--zmdp-seed", type=int, default=0, help="what chance starts from, see zmdp_seed")


@pytest.fixture(scope="session")
def zmdp_transport(request: pytest.FixtureRequest) -> Literal["memory", "tcp"]:
    """What clusters run over: `memory` or `tcp`, as `--zmdp-transport` says."""
    transport: Literal["memory", "tcp"] = request.config.getoption("--zmdp-transport")
    return transport


@pytest.fixture
def zmdp_seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """The seed, from `--zmdp-seed`, of the `random` module and of Trio's scheduler while the test runs."""
    from zmdp_trio.testing import seeded

    seed: int = request.config.getoption("--zmdp-seed")
    with seeded(seed):
        yield seed


@pytest.fixture
def zmdp_clock(zmdp_transport: str, zmdp_seed: int) -> VirtualClock:
    """Virtual time for this test; over tcp it is skipped."""
    from zmdp_trio.testing import VirtualClock

    _skip_unless_in_memory(zmdp_transport, "virtual time")
    return VirtualClock()


@pytest.fixture
def _zmdp_in_memory(zmdp_transport: str) -> None:
    # A fixture of its own, since pytest-trio loses the reason where an async fixture skips.
    _skip_unless_in_memory(zmdp_transport, "network faults")


@pytest.fixture
async def zmdp_network(_zmdp_in_memory: None) -> Network:
    """The network in memory, for faults, killed peers among them; over tcp the test is skipped."""
    from zmdp_trio.testing import current_network

    return current_network()


@pytest.fixture
def zmdp_cluster(
    zmdp_transport: Literal["memory", "tcp"], zmdp_seed: int
) -> Callable[..., AbstractAsyncContextManager[Cluster]]:
    """`zmdp_trio.testing.open_cluster`, over what `--zmdp-transport` says, from the seed that `--zmdp-seed` says.

    Without `zmdp_clock`, in real time, heartbeats are half a second apart unless the test says otherwise.
    """
    from zmdp_trio.testing._fixtures import cluster_opener

    return cluster_opener(zmdp_transport, seed=zmdp_seed, real_heartbeat=HEARTBEAT)


def _skip_unless_in_memory(transport: Any, what: str) -> None:
    if transport != "memory":
        pytest.skip(f"needs {what}, which there is in memory only, not over {transport}")

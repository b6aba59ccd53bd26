"""For tests of services, with faults and with hours that take a millisecond.

from zmdp_trio.testing import Faults, VirtualClock, open_cluster, run

With pytest and pytest-trio there are fixtures, too: `zmdp_clock`, `zmdp_cluster`, `zmdp_network`.  Who writes a
transport finds its checks in `zmdp_trio.testing.transport`.
"""

from __future__ import annotations

from .._transport.memory import Hook as Hook
from .._transport.memory import Late as Late
from .._transport.memory import MemoryPort as MemoryPort
from .._transport.memory import Network as Network
from .._transport.memory import current_network as current_network
from .._transport.memory import host as host
from ._clock import VirtualClock as VirtualClock
from ._cluster import Cluster as Cluster
from ._cluster import Peer as Peer
from ._faults import Faults as Faults
from ._open import open_cluster as open_cluster
from ._run import run as run
from ._run import seeded as seeded

__all__ = [
    "Cluster",
    "Faults",
    "Hook",
    "Late",
    "MemoryPort",
    "Network",
    "Peer",
    "VirtualClock",
    "current_network",
    "host",
    "open_cluster",
    "run",
    "seeded",
]

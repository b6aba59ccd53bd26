"""What the fixtures for pytest are made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from .._chance import seed_chance
from .._service import Service
from ._clock import VirtualClock
from ._cluster import Cluster, Transport
from ._open import open_cluster


def cluster_opener(
    transport: Transport, *, seed: int, real_heartbeat: float
) -> Callable[..., AbstractAsyncContextManager[Cluster]]:
    """Return an `open_cluster` with other defaults, which seeds the run that it is called in.

    Args:
        transport: what clusters run over.
        seed: for ids and pauses.
        real_heartbeat: the seconds between heartbeats where time is real.
    """

    def opener(*services: Service[..., Any], **options: Any) -> AbstractAsyncContextManager[Cluster]:
        seed_chance(seed)
        options = {"transport": transport} | options
        if "settings" not in options and not isinstance(trio.lowlevel.current_clock(), VirtualClock):
            options = {"heartbeat": real_heartbeat} | options
        return open_cluster(*services, **options)

    return opener

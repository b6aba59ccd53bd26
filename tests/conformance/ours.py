"""Our own broker under examination.

`make interop` makes the document's table of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio
from trio.testing import MockClock

from zmdp_trio import Settings, open_broker
from zmdp_trio.conformance import Report, Target, check_broker


def strict(heartbeat: float) -> Settings:
    """Settings under which a worker that is silent while busy is given up as soon as an idle one is."""
    return Settings(heartbeat=heartbeat, legacy_busy=3 * heartbeat, drain_grace=0)


#: What is documented: `legacy_busy` at three intervals, and as it is by default.
STRICT: Final = strict(heartbeat=2.5)
DEFAULT: Final = Settings(drain_grace=0)


async def examine_ours(endpoint: str, settings: Settings, only: Collection[str] = ()) -> Report:
    """Check a broker of ours."""
    async with open_broker(endpoint, settings=settings) as broker:
        (bound,) = broker.endpoints
        return await check_broker(Target(bound, bound, settings.heartbeat), only=only)


def examine_in_memory(settings: Settings) -> Report:
    """Check it in virtual time."""
    return trio.run(examine_ours, "memory://*", settings, clock=MockClock(autojump_threshold=0))

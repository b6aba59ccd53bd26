"""Messages that are nearly right, for the machines: valid ones, so that they get far, then wrong in a place or several.

target = TARGETS["broker"](Random(seed))
for _ in range(messages):
    target.step()           # one message: nothing but a ProtocolError may come of it, which the machine takes care of
target.check()              # counters add up, and every table is within its limit
target.finish()             # everybody leaves: nothing is left
"""

from __future__ import annotations

from typing import Final

from .broker import BrokerTarget
from .dialled import ClientTarget, WorkerTarget
from .legacy import LegacyTarget
from .mistakes import HEADS as HEADS
from .mistakes import nested as nested
from .target import SETTINGS as SETTINGS
from .target import Target as Target

TARGETS: Final[dict[str, type[BrokerTarget] | type[WorkerTarget] | type[ClientTarget]]] = {
    target.name: target for target in (BrokerTarget, LegacyTarget, WorkerTarget, ClientTarget)
}

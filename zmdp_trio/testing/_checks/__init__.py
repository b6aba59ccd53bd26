"""The contract of transports, as checks."""

from __future__ import annotations

from typing import Final

from . import connections as connections
from . import endpoints as endpoints
from . import messages as messages
from . import queues as queues
from . import waiting as waiting
from .cancellation import Endurance as Endurance
from .cancellation import check_random_cancellation as check_random_cancellation
from .ends import End as End
from .ends import Transport as Transport
from .suite import Check as Check
from .suite import registered

#: Every check; run each with `await check(transport)`.
CHECKS: Final = tuple(registered)

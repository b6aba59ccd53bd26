"""Our own broker under examination over tcp.

Run as a program, this prints the report.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import trio
from examine import short
from ours import examine_ours, strict

from zmdp_trio.conformance._checks import CHECKS
from zmdp_trio.conformance._show import to_json

#: Checks that wait until somebody silent is given up: that takes longer than all the others.
PATIENT: Final = {
    "absent-after-expiry",
    "worker/expiry",
    "worker/expiry-silence",
    "worker/expiry-while-busy",
    "worker/partials-beat",
    "worker/replies-beat",
    "worker/stays",
}
#: These go one after the other, each with a silence to listen to.
ONE_BY_ONE: Final = "invalid/"
#: With this none is left out: see `make peers-soak`.
LONG: Final = "ZMDP_PEERS_SECONDS" in os.environ


def takes_long(check: str) -> bool:
    """Whether a check is left to virtual time in the normal run."""
    return check in PATIENT or check.startswith(ONE_BY_ONE)


CHOSEN: Final = {each.id for each in CHECKS if LONG or not takes_long(short(each.id))}

if __name__ == "__main__":
    # An interval in which a busy machine does not stand still.
    report = trio.run(examine_ours, "tcp://127.0.0.1:*", strict(heartbeat=1.0), CHOSEN)
    sys.stdout.write(to_json(report))

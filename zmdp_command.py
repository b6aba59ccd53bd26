"""Where the `zmdp` command begins.

That is outside the package: its import takes most of the time until there is something that Ctrl-C can end in order.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status; Ctrl-C during its import ends it without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from zmdp_trio.cli import main

    main()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)

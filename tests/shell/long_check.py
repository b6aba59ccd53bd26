"""The check of transports that takes longest, on each of ours.

Run as a program, this prints a line of JSON for each: its name, and what went wrong.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

import trio
from transport_ends import KINDS, transport_of

from zmdp_trio.testing.transport import CHECKS

(CHECK,) = (check for check in CHECKS if check.__name__ == "no_cancellation_loses_doubles_or_tears_a_message")


def say_what_comes_of_it(kind: str, folder: Path) -> None:
    error = None
    try:
        trio.run(CHECK, transport_of(kind, folder))
    except Exception:
        error = traceback.format_exc()
    sys.stdout.write(json.dumps({"kind": kind, "error": error}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            say_what_comes_of_it(kind, Path(folder))

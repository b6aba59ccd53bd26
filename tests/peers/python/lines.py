"""How a program here talks with whoever started it.

`python PROGRAM ENDPOINT OPTIONS`, with OPTIONS a JSON object; orders come in as lines of JSON, and what happens goes
out as lines of JSON.  A program ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

endpoint = sys.argv[1]
options: dict[str, Any] = json.loads(sys.argv[2])

_stdout = threading.Lock()


def say(**line: Any) -> None:
    with _stdout:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def orders() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def end_with_input() -> None:
    """Wait for the end of the input, and end the process whatever its other threads do."""
    sys.stdin.read()
    os._exit(0)


def body_of(order: dict[str, Any]) -> list[bytes]:
    """The frames of a request: as they are given, else the payload in JSON."""
    if "frames" in order:
        return [frame.encode() for frame in order["frames"]]
    return [json.dumps(order.get("payload")).encode()]


def texts(frames: list[bytes]) -> list[str]:
    return [frame.decode() for frame in frames]

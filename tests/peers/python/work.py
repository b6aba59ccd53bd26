"""What the workers do.  A service has one of these kinds, a generator of partial replies that returns the final one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import Any

Work = Generator[list[bytes], None, list[bytes]]


def _encode(value: Any) -> list[bytes]:
    return [json.dumps(value).encode()]


def echo(frames: list[bytes]) -> Work:
    yield from ()
    return frames


def count(frames: list[bytes]) -> Work:
    n = json.loads(frames[0])
    for i in range(n):
        yield _encode(i)
    return _encode(n)


def nap(frames: list[bytes]) -> Work:
    """Sleep so many seconds, and do not beat meanwhile."""
    yield from ()
    time.sleep(json.loads(frames[0]))
    return frames


KINDS: dict[str, Callable[[list[bytes]], Work]] = {"echo": echo, "count": count, "nap": nap}

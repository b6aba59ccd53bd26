"""Frames of the older Majordomo dialects, for all that reads them.

take(frames)                # nothing but a ProtocolError may come of it, and what is read comes back as it went
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from zmdp_trio._errors import ProtocolError
from zmdp_trio._wire.frames import Frame
from zmdp_trio._wire.majordomo import DIALECTS, Route, detect, is_worker

#: Characters in the longest reason: it is logged.
LONGEST_REASON: Final = 500

#: Dialects that not every message tells apart: the names of peers tell OMDP's from PIGATO's, and nothing majortomo's
#: workers from those of MDP 0.2 behind an empty frame.
ALIKE: Final = ({"omdp", "pigato"}, {"majortomo", "mdp/0.2+empty"})

T = TypeVar("T")


def attempt(read: Callable[..., T], *args: Any) -> T | None:
    """Return what a reader returns; None if it refuses."""
    try:
        return read(*args)
    except ProtocolError as error:
        reason = str(error)
    assert 0 < len(reason) < LONGEST_REASON
    return None


def take(frames: Sequence[Frame], identity: bytes = b"peer") -> int:
    """Hand frames to every decoder, and to detection; return how many could make sense of them."""
    readable = set()
    for dialect in DIALECTS.values():
        for route in Route:
            message = attempt(dialect.decode, route, frames)
            if message is not None:
                readable.add((dialect, route))
                assert dialect.decode(route, dialect.encode(route, message)) == message
    dialects = attempt(detect, identity, frames)
    worker = attempt(is_worker, frames)
    assert (dialects is None) is (worker is None)
    sides = (Route.WORKER_TO_BROKER, Route.CLIENT_TO_BROKER)
    for dialect, route in readable:
        if route in sides:
            assert dialects is not None
            assert route is sides[not worker]
            assert dialect in dialects or {dialect.name, dialects[0].name} in ALIKE
    return len(readable) + (dialects is not None)

"""Which dialect a peer speaks, by its first message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ..._errors import ProtocolError
from ..frames import Frame
from .dialect import Dialect
from .majortomo import MAJORTOMO
from .mdp01 import MDP01
from .mdp02 import MDP02, MDP02_ENVELOPED
from .omdp import OMDP
from .pigato import PIGATO

UUID: Final = rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_IS_UUID: Final = re.compile(UUID).fullmatch
_ENDS_IN_UUID: Final = re.compile(rb".*-" + UUID, re.DOTALL).fullmatch

#: Headers of clients and of workers.
CLIENTS: Final = frozenset((b"MDPC01", b"MDPC02", b"C"))
WORKERS: Final = frozenset((b"MDPW01", b"MDPW02", b"W"))


def is_worker(frames: Sequence[Frame]) -> bool:
    """Whether a message comes from a worker, of whatever dialect.

    Raises:
        ProtocolError: it is nobody's.
    """
    header = bytes(frames[1] if len(frames) > 1 and not frames[0] else frames[0])
    if header in WORKERS:
        return True
    if header in CLIENTS:
        return False
    raise ProtocolError(_strange(frames))


def detect(identity: bytes, frames: Sequence[Frame]) -> tuple[Dialect, ...]:
    """Return the dialects that a message may be of: one, or OMDP and PIGATO, which share some.

    Args:
        identity: the peer's, as a ROUTER socket puts it before its messages.
        frames: what it sent.

    Raises:
        ProtocolError: it is none that we know.
    """
    first = bytes(frames[0])
    if first == b"" and len(frames) > 1:
        header = bytes(frames[1])
        if header in (b"MDPC01", b"MDPW01"):
            return (MDP01,)
        if header == b"MDPC02" and len(frames) > 2 and bytes(frames[2]) == b"\x01":
            return (MDP02_ENVELOPED,)
        if header in (b"MDPC02", b"MDPW02"):
            return (MAJORTOMO,)
    elif first in (b"MDPC02", b"MDPW02"):
        return (MDP02,)
    elif first in (b"C", b"W"):
        return _detect_lettered(identity, frames)
    raise ProtocolError(_strange(frames))


def _detect_lettered(identity: bytes, frames: Sequence[Frame]) -> tuple[Dialect, ...]:
    """Tell PIGATO from OMDP: by UUIDs in its identity and ids, by its heartbeats, or not yet."""
    if _ENDS_IN_UUID(identity):
        return (PIGATO,)
    head = (bytes(frames[0]), bytes(frames[1]) if len(frames) > 1 else b"")
    if head == (b"C", b"2") and len(frames) > 3:
        return (PIGATO,) if _IS_UUID(bytes(frames[3])) else (OMDP,)
    if head == (b"C", b"4") and len(frames) > 2:
        return (PIGATO,) if len(frames) > 3 else (OMDP,)
    if head == (b"W", b"4"):
        return (PIGATO,) if len(frames) > 2 else (OMDP,)
    return (PIGATO, OMDP)


def _strange(frames: Sequence[Frame]) -> str:
    first = bytes(frames[0])
    if len(frames) == 1 and first.startswith(b"\xaa\xa4"):
        return "framed by zproto, as C majordomo after its tag wire-protocol-0.2 does: not supported"
    return f"no dialect begins with {first[:12]!r}"

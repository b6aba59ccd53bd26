"""Which dialect a peer speaks, by a message of its: mostly by the header.

MDP 0.2 with an empty frame before it is majortomo's, but for a client's command 01, which majortomo does not have.
(For workers the two have the same messages.)

OMDP and PIGATO have their headers in common.  In this order,

1. who has a full UUID at the end of its identity speaks PIGATO: so Node peers do, and Ruby peers, while OMDP's own
   names are short, unless they are configured;
2. a message that only one of the two has tells: a REJECT, an empty frame behind a client's address, options in a
   heartbeat, a heartbeat with a request's id;
3. a REQUEST with a full UUID for an id is PIGATO's, and so is one with an empty frame for options, which is what the
   Go client sends; any other is OMDP's;
4. a worker's heartbeat without options is OMDP's;
5. READY, DISCONNECT, and a client's plain heartbeat leave it open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ..._errors import ProtocolError
from ..frames import Frame
from . import messages as m
from .dialect import Dialect, outline
from .majortomo import MAJORTOMO
from .mdp01 import MDP01
from .mdp02 import MDP02, MDP02_ENVELOPED
from .omdp import OMDP
from .pigato import PIGATO
from .rows import Route

_UUID: Final = rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_IS_UUID: Final = re.compile(_UUID).fullmatch
_ENDS_IN_UUID: Final = re.compile(_UUID + rb"\Z").search

#: Who begins its messages with which header: behind an empty frame, and without one.
_ENVELOPED: Final = {
    b"MDPC01": Route.CLIENT_TO_BROKER,
    b"MDPW01": Route.WORKER_TO_BROKER,
    b"MDPC02": Route.CLIENT_TO_BROKER,
    b"MDPW02": Route.WORKER_TO_BROKER,
}
_BARE: Final = {
    b"MDPC02": Route.CLIENT_TO_BROKER,
    b"MDPW02": Route.WORKER_TO_BROKER,
    b"C": Route.CLIENT_TO_BROKER,
    b"W": Route.WORKER_TO_BROKER,
}
#: Bytes of a frame that are looked at: a longer one is no header.
_LOOK: Final = 8
#: What C majordomo's messages begin with after its tag wire-protocol-0.2.
_ZPROTO: Final = b"\xaa\xa4"


def is_worker(frames: Sequence[Frame]) -> bool:
    """Whether a message comes from a worker, of whatever dialect.

    Raises:
        ProtocolError: it is nobody's.
    """
    return _parse_header(frames)[2] is Route.WORKER_TO_BROKER


def detect(identity: bytes, frames: Sequence[Frame]) -> tuple[Dialect, ...]:
    """Return the dialects that a message may be of: one, or PIGATO and OMDP, which have some in common.

    The message need not be well-formed behind its header.

    Args:
        identity: the peer's, as a ROUTER socket puts it before its messages.
        frames: what it sent.

    Raises:
        ProtocolError: it is none that we know.
    """
    enveloped, header, route = _parse_header(frames)
    if header in (b"C", b"W"):
        return _detect_lettered(identity, frames, route)
    if not enveloped:
        return (MDP02,)
    if header.endswith(b"01"):
        return (MDP01,)
    if header == b"MDPC02" and len(frames) > 2 and _head(frames[2]) == b"\x01":
        return (MDP02_ENVELOPED,)
    return (MAJORTOMO,)


def _parse_header(frames: Sequence[Frame]) -> tuple[bool, bytes, Route]:
    """Return whether there is an empty frame before it, the header, and whose it is."""
    enveloped = len(frames) > 1 and len(frames[0]) == 0
    header = _head(frames[enveloped]) if frames else b""
    route = (_ENVELOPED if enveloped else _BARE).get(header)
    if route is not None:
        return enveloped, header, route
    if header.startswith(_ZPROTO):
        raise ProtocolError("framed by zproto, as C majordomo after its tag wire-protocol-0.2 does: not supported")
    raise ProtocolError(f"no dialect begins so: {outline(frames)}")


def _head(frame: Frame) -> bytes:
    """Return the beginning of a frame; all of it, if it is short."""
    return bytes(memoryview(frame)[: _LOOK + 1])


def _detect_lettered(identity: bytes, frames: Sequence[Frame], route: Route) -> tuple[Dialect, ...]:
    """Tell PIGATO from OMDP, or leave it open."""
    if _ENDS_IN_UUID(identity):
        return (PIGATO,)
    pigato, omdp = (_read(dialect, route, frames) for dialect in (PIGATO, OMDP))
    if (pigato is None) is not (omdp is None):
        return (OMDP,) if pigato is None else (PIGATO,)
    if type(pigato) is m.Request:
        options_are_empty = len(frames) > 5 and len(frames[5]) == 0
        return (PIGATO,) if _IS_UUID(pigato.id) or options_are_empty else (OMDP,)
    if type(pigato) is m.Heartbeat and route is Route.WORKER_TO_BROKER:
        return (OMDP,)
    return (PIGATO, OMDP)


def _read(dialect: Dialect, route: Route, frames: Sequence[Frame]) -> m.Message | None:
    try:
        return dialect.decode(route, frames)
    except ProtocolError:
        return None

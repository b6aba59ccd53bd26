"""Plain REQ and REP: a return address, an empty frame, and the body.

A REQ socket puts the empty frame before its message, and with ZMQ_REQ_CORRELATE a request id before that.  Each ROUTER
on the way puts the name of whom the message came from in front.  Whoever answers returns all of it as it was
(RFC 28/REQREP), and the reply finds its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._errors import ProtocolError
from .frames import Frame, Frames

DELIMITER: Final = b""
#: Bytes in the request id of ZMQ_REQ_CORRELATE.
_REQUEST_ID: Final = 4


def split(frames: Frames) -> tuple[Frames, Frames]:
    """Return the envelope, the empty frame included, and the body, of one frame at least.

    Raises:
        ProtocolError: there is no empty frame, or nothing behind it.
    """
    for position, frame in enumerate(frames, 1):
        if not len(frame):
            if position == len(frames):
                raise ProtocolError("there is nothing behind the empty frame")
            return frames[:position], frames[position:]
    raise ProtocolError("there is no empty frame, as a REQ socket sends it")


def sender(envelope: Sequence[Frame]) -> tuple[bytes, ...]:
    """Return what tells one client from others that the same connection carries: the names, without a request id."""
    names = [bytes(frame) for frame in envelope[:-1]]
    if names and len(names[-1]) == _REQUEST_ID:
        names.pop()
    return tuple(names)

"""Frames in words, and frames that are nearly right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .._errors import ProtocolError
from .._wire.frames import Frame
from .._wire.majordomo import Dialect, Route
from .._wire.majordomo.messages import Message

#: Bytes of a frame, and frames of a message, that are shown.
_BYTES: Final = 24
_FRAMES: Final = 8


def describe(frames: Sequence[Frame]) -> str:
    """Return frames as people read them: `'' 'MDPW01' 04`, text in quotes, other bytes as hex."""
    shown = [_describe_frame(bytes(frame)) for frame in frames[:_FRAMES]]
    if len(frames) > _FRAMES:
        shown.append(f"and {len(frames) - _FRAMES} more")
    return "[" + " ".join(shown) + "]"


def _describe_frame(frame: bytes) -> str:
    if len(frame) > _BYTES:
        return f"<{len(frame):,} bytes>"
    if frame.isascii() and frame.decode("ascii").isprintable():
        return f"'{frame.decode()}'"
    return frame.hex()


def understand(dialect: Dialect, route: Route, frames: Sequence[bytes]) -> Message | None:
    """Return what a message means, also where its empty frames are not as they should be; None if that is not clear.

    So a broker that leaves out one empty frame everywhere fails the checks for that frame, and not all others.
    """
    for candidate in _candidates(list(frames)):
        try:
            return dialect.decode(route, candidate)
        except ProtocolError:
            continue
    return None


def _candidates(frames: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the message as it came, and then as it may have been meant."""
    yield frames
    stripped = frames[1:] if frames[:1] == [b""] else [b"", *frames]
    yield stripped
    for each in (frames, stripped):
        # Behind the header, the command, and the client's address.
        end = 4 if each[:1] == [b""] else 3
        if len(each) > end and each[end]:
            yield [*each[:end], b"", *each[end:]]

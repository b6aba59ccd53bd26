"""ZMDP/1: one ZeroMQ message per peer and tick, holding every command that is ready for that peer.

frame 0    b"ZMDP\\x01"
frame 1    MessagePack array of commands, a BATCH first
frame 2+   large bodies, in the order in which the commands refer to them (by nil where the body would be)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import msgspec

from .._errors import ProtocolError
from . import commands as c
from .frames import UNREADABLE, Frame, Frames

#: As `protocol=` takes it.
NAME = "zmdp/1"
MAGIC = b"ZMDP\x01"

#: Bodies above this many bytes travel in a frame of their own.
INLINE = 8 * 2**10
#: Bytes of commands and bodies after which a batch is full.  The last command may overshoot it.
BATCH = 256 * 2**10
#: Largest command frame that is read: a full batch, and one command as large as can be.
MAX_COMMANDS = 4 * BATCH

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Union[c.ALL]]).decode  # type: ignore[valid-type]  # noqa: UP007
_decode_each = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_one = msgspec.msgpack.Decoder(Union[c.ALL]).decode  # noqa: UP007
_decode_tag = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_KNOWN = frozenset(cls.__struct_config__.tag for cls in c.ALL)


def encode(batch: c.Batch, commands: Sequence[c.Command]) -> Frames:
    """Return the message that carries these commands."""
    bodies: Frames = []
    plain: list[Any] = [batch]
    for command in commands:
        if command.carries_body:
            body = command.body  # type: ignore[attr-defined]
            if len(body) > INLINE:
                bodies.append(body)
                command = msgspec.structs.replace(command, body=None)
        plain.append(command)
    return [MAGIC, _encode(plain), *bodies]


def encode_inline(batch: c.Batch, commands: Sequence[c.Command]) -> Frames:
    """Return what `encode` does, faster, for commands none of whose bodies is above `INLINE`."""
    return [MAGIC, _encode([batch, *commands])]


def decode(frames: Sequence[Frame]) -> tuple[list[Any], int]:
    """Read a message.

    Returns:
        The commands, the BATCH first, and how many more were skipped because their tags are unknown.

    Raises:
        ProtocolError: whatever is wrong with it.
    """
    if len(frames) < 2 or frames[0] != MAGIC:
        raise ProtocolError("not a ZMDP/1 message")
    data = frames[1]
    if len(data) > MAX_COMMANDS:
        raise ProtocolError(f"a command frame of {len(data)} bytes is above {MAX_COMMANDS}")
    skipped = 0
    try:
        commands = _decode(data)
    except UNREADABLE as error:
        commands, skipped = _decode_known(data, error)
    if not commands or type(commands[0]) is not c.Batch:
        raise ProtocolError("the first command is not a BATCH")
    _attach_bodies(commands, frames)
    return commands, skipped


def _decode_known(data: Frame, error: Exception) -> tuple[list[Any], int]:
    """Read the commands one by one, passing over those whose tags are unknown."""
    commands = []
    skipped = 0
    try:
        for raw in _decode_each(data):
            tag = msgspec.msgpack.decode(_decode_tag(raw)[0], type=int)
            if tag in _KNOWN:
                commands.append(_decode_one(raw))
            else:
                skipped += 1
    except (*UNREADABLE, IndexError):
        raise ProtocolError(f"unreadable commands: {error}") from error
    return commands, skipped


def _attach_bodies(commands: list[Any], frames: Sequence[Frame]) -> None:
    taken = 2
    for command in commands:
        if command.carries_body and command.body is None:
            if taken == len(frames):
                raise ProtocolError("a body is missing")
            command.body = frames[taken]
            taken += 1
    if taken != len(frames):
        raise ProtocolError(f"{len(frames) - taken} frames belong to no command")

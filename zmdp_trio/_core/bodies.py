"""Bodies and errors where dialects meet: what one of them can say, put in the terms of another.

ZMDP/1 has bytes, MessagePack, and JSON, told apart by a content type.  A body of MDP is one or more frames that nobody
says anything about.  OMDP and PIGATO have JSON and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from .._errors import Code
from .._wire import commands as c
from .._wire.frames import UNREADABLE, Frame
from .._wire.majordomo import Dialect

#: Sent in place of a partial reply of nothing: null, or an empty frame, ends a Node client's stream, or the client.
STAND_IN: Final = b"{}"
#: Bytes of an error that is passed on whole; of a longer one, so many are.
LONGEST_ERROR: Final = 32 * 2**10
SHORT_ERROR: Final = 200
#: The message of an error that is some value, and no text.
NO_TEXT: Final = "the service reported an error"
#: What Node sends for a value that JSON has no text for: `JSON.stringify(undefined)`, made a string.
_NOTHING: Final = (b"", b"undefined")
_NULL: Final = b"null"
_NULL_BEGINS: Final = (b"n", b" ", b"\t", b"\n", b"\r")
_CODES: Final = frozenset(code.value for code in Code)
_BYTES, _MSGPACK, _JSON, _OPAQUE = map(int, (c.Content.BYTES, c.Content.MSGPACK, c.Content.JSON, c.Content.OPAQUE))

_read_msgpack = msgspec.msgpack.Decoder().decode
_write_msgpack = msgspec.msgpack.Encoder().encode
_read_json = msgspec.json.Decoder().decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_write_json = msgspec.json.Encoder().encode


def read(dialect: Dialect, frames: Sequence[Frame]) -> tuple[int, Any]:
    """Return the content type and the body that a message's body in a dialect stands for.

    Raises:
        ValueError: the dialect has JSON alone, and it is none.
    """
    return from_json(frames[0]) if dialect.json else from_frames(frames)


def say(dialect: Dialect, content: int, body: Frame, *, partial: bool = False) -> Sequence[Frame]:
    """Return a body as a dialect's frames; `partial` if it is a partial reply's.

    Raises:
        ValueError: it is unreadable, or JSON can't say it.
    """
    if not dialect.json:
        return to_frames(content, body)
    return ((partial_to_json if partial else to_json)(content, body),)


def from_frames(frames: Sequence[Frame]) -> tuple[int, Any]:
    """Return the content type and the body that MDP's frames stand for: several are a list of bytes."""
    if len(frames) == 1:
        return _OPAQUE, frames[0]
    return _MSGPACK, _write_msgpack([bytes(frame) for frame in frames])


def to_frames(content: int, body: Frame) -> Sequence[Frame]:
    """Return MDP's frames for a body: bytes as they are, a list of bytes as frames, any other value as JSON.

    Raises:
        ValueError: it is unreadable, or JSON can't say it.
    """
    if content != _MSGPACK:
        return (body,)
    value = _decode(body)
    if isinstance(value, bytes):
        return (value,)
    if value and isinstance(value, list) and all(type(item) is bytes for item in value):
        return value
    return (_encode(value),)


def from_json(frame: Frame) -> tuple[int, Any]:
    """Return the content type and the body that a frame of OMDP or PIGATO stands for.

    Raises:
        ValueError: it is no JSON.
    """
    if len(frame) <= len("undefined") and bytes(frame) in _NOTHING:
        return _JSON, _NULL
    _check(frame)
    return _JSON, frame


def to_json(content: int, body: Frame) -> Frame:
    """Return a body as JSON: bytes that are JSON stay as they are.

    Raises:
        ValueError: it is unreadable, or JSON can't say it.
    """
    if content == _MSGPACK:
        return _encode(_decode(body))
    _check(body)
    return body


def partial_to_json(content: int, body: Frame) -> Frame:
    """Return a partial reply as JSON that no Node client stumbles over.

    Raises:
        ValueError: as `to_json`.
    """
    text = to_json(content, body)
    return STAND_IN if bytes(memoryview(text)[:1]) in _NULL_BEGINS and bytes(text).strip() == _NULL else text


def error_to_json(error: c.Error) -> bytes:
    """Return an error as OMDP and PIGATO clients get it: code, message, and details if there are any."""
    value: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.details:
        try:
            value["details"] = msgspec.Raw(_encode(_decode(error.details)))
        except ValueError:
            pass  # the error itself matters more
    return _write_json(value)


def error_to_frame(error: c.Error) -> bytes:
    """Return an error as the last reply that an MDP client gets in its place."""
    return b'{"error":%b}' % error_to_json(error)


def error_from_json(id: int, frame: Frame) -> c.Error:
    """Return the error that a worker or a broker of OMDP or PIGATO reports, whatever JSON it is.

    One of our own form is as it says; a text is the message; any other value is the details.
    """
    code = Code.INTERNAL.value
    if len(frame) > LONGEST_ERROR:
        return c.Error(id, code, "", f"an error of {len(frame):,} bytes: {_begin(frame)}")
    try:
        value = _read_json(frame)
    except UNREADABLE:
        return c.Error(id, code, "", _begin(frame))
    if isinstance(value, str):
        return c.Error(id, code, "", value)
    if isinstance(value, dict):
        ours, message = value.get("code"), value.get("message")
        if isinstance(ours, str) and ours in _CODES and isinstance(message, str):
            return c.Error(id, ours, "", message, _pack(value.get("details")))
    details = _pack(value)
    return c.Error(id, code, "", NO_TEXT if details else bytes(frame).decode(), details)


def _begin(frame: Frame) -> str:
    return bytes(memoryview(frame)[:SHORT_ERROR]).decode(errors="replace")


def _pack(details: Any) -> bytes:
    """Return an error's details; none if they can't be said: the error itself matters more."""
    try:
        return b"" if details is None else _write_msgpack(details)
    except (*UNREADABLE, TypeError):
        return b""


def _check(text: Frame) -> None:
    try:
        _check_json(text)
    except UNREADABLE as error:
        raise ValueError(f"no JSON: {error}") from error


def _decode(body: Frame) -> Any:
    try:
        return _read_msgpack(body)
    except UNREADABLE as error:
        raise ValueError(f"unreadable MessagePack: {error}") from error


def _encode(value: Any) -> bytes:
    _check_sayable(value)
    try:
        return _write_json(value)
    except (*UNREADABLE, TypeError) as error:
        raise ValueError(f"JSON can't say it: {error}") from error


def _check_sayable(value: Any) -> None:
    """Refuse what msgspec would make something else of in JSON: bytes become text, and no number becomes null.

    Raises:
        ValueError: there is such a value, at whatever depth.
    """
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            rest.extend(item)
            rest.extend(item.values())
        elif isinstance(item, list | tuple):
            rest.extend(item)
        elif isinstance(item, bytes):
            raise ValueError("JSON can't say bytes")
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"JSON can't say {item}")
        elif isinstance(item, msgspec.msgpack.Ext):
            raise ValueError("JSON can't say a MessagePack extension")

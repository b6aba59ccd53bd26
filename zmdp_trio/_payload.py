"""Python values to bodies and back: bytes travel untouched, anything else as MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec

from ._errors import Code, InvalidArgument, RequestError
from ._wire.commands import Content
from ._wire.frames import UNREADABLE

BYTES, MSGPACK, JSON, OPAQUE = map(int, Content)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_json = msgspec.json.Decoder().decode
#: What msgspec raises for a value that it can't encode, beside its own errors.
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)

_BYTES_LIKE = (
    msgspec.inspect.AnyType,
    msgspec.inspect.BytesType,
    msgspec.inspect.ByteArrayType,
    msgspec.inspect.MemoryViewType,
)


def encode(value: Any) -> tuple[int, bytes]:
    """Return a value's content type and body.

    Raises:
        InvalidArgument: it is no bytes-like value, and MessagePack has no form for it.
    """
    if type(value) is bytes:
        return BYTES, value
    if isinstance(value, bytes | bytearray | memoryview):
        return BYTES, bytes(value)
    try:
        return MSGPACK, _encode(value)
    except _UNENCODABLE as error:
        raise InvalidArgument(f"a value of type {type(value).__name__} can't be encoded: {error}") from error


def decode(content: int, body: Any) -> Any:
    """Return the value that a body stands for.

    Raises:
        ValueError: it can't be read.
    """
    if content == MSGPACK:
        try:
            return _decode(body)
        except UNREADABLE as error:
            raise ValueError(f"unreadable MessagePack: {error}") from error
    if content in (BYTES, OPAQUE):
        return body if type(body) is bytes else bytes(body)
    if content == JSON:
        try:
            return _decode_json(body)
        except UNREADABLE as error:
            raise ValueError(f"unreadable JSON: {error}") from error
    raise ValueError(f"content type {content} is unknown")


def decode_reply(content: int, body: Any, service: str) -> Any:
    """Return the value that a reply stands for.

    Raises:
        RequestError: INTERNAL, it can't be read.
    """
    try:
        return decode(content, body)
    except ValueError as error:
        raise RequestError(f"the reply can't be read: {error}", code=Code.INTERNAL, service=service) from error


class TypedDecoder:
    """Reads bodies as one annotated type, and validates them."""

    def __init__(self, annotation: Any) -> None:
        """Make a decoder.

        Raises:
            TypeError: msgspec can't validate this annotation.
        """
        self._type = annotation
        self._msgpack = msgspec.msgpack.Decoder(annotation)
        self._json = msgspec.json.Decoder(annotation)
        self._takes_bytes = _takes_bytes(annotation)

    def __call__(self, content: int, body: Any) -> Any:
        """Return the value.

        Raises:
            ValueError: it can't be read, or does not fit; says where.
        """
        try:
            if content == MSGPACK:
                return self._msgpack.decode(body)
            if content == JSON or (content == OPAQUE and not self._takes_bytes):
                return self._json.decode(body)
            return msgspec.convert(decode(content, body), self._type, builtin_types=(bytes, bytearray, memoryview))
        except UNREADABLE as error:
            raise ValueError(str(error)) from error


def _takes_bytes(annotation: Any) -> bool:
    """Whether bytes fit an annotation as they are."""
    info = msgspec.inspect.type_info(annotation)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return any(
        isinstance(kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind, _BYTES_LIKE) for kind in kinds
    )

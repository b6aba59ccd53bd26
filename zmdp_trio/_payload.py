"""Python values to bodies and back: bytes travel untouched, anything else as MessagePack."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from ._errors import Code, InvalidArgument, RequestError
from ._wire.commands import Content
from ._wire.frames import UNREADABLE

BYTES, MSGPACK, JSON, OPAQUE = (int(each) for each in Content)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_json = msgspec.json.Decoder().decode
#: Annotations of payloads that take bytes as they are.
_TAKE_BYTES = (
    msgspec.inspect.BytesType,
    msgspec.inspect.ByteArrayType,
    msgspec.inspect.MemoryViewType,
    msgspec.inspect.AnyType,
)
#: Types of most values that are not bytes-like: to look whether they are costs as much as to encode a short one.
_COMMON: Final = frozenset((str, dict, list, int, float, bool, type(None)))
#: What msgspec raises for a value that it can't encode, beside its own errors.
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


@attrs.frozen
class Opaque:
    """A payload that came from a peer whose protocol does not say what the bytes are."""

    body: Any


def encode(value: Any) -> tuple[int, Any]:
    """Return a value's content type and body.

    Raises:
        InvalidArgument: it is no bytes-like value, and MessagePack has no form for it.
    """
    if type(value) is bytes:
        return BYTES, value
    if type(value) not in _COMMON:
        if isinstance(value, bytes | bytearray | memoryview):
            return BYTES, bytes(value)
        if type(value) is Opaque:
            return OPAQUE, value.body
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
        self._takes_bytes = _takes_bytes(msgspec.inspect.type_info(annotation))
        self._msgpack = msgspec.msgpack.Decoder(annotation)
        self._json = msgspec.json.Decoder(annotation)

    def __call__(self, content: int, body: Any) -> Any:
        """Return the value.

        Raises:
            ValueError: it can't be read, or does not fit; says where.
        """
        try:
            if content == MSGPACK:
                return self._msgpack.decode(body)
            if content == JSON:
                return self._json.decode(body)
            if content == OPAQUE and not self._takes_bytes:
                # Who has only bytes to send says "nothing" by none.
                return self._json.decode(body if len(body) else b"null")
            return msgspec.convert(decode(content, body), self._type, builtin_types=(bytes, bytearray, memoryview))
        except UNREADABLE as error:
            raise ValueError(str(error)) from error


def _takes_bytes(annotation: msgspec.inspect.Type) -> bool:
    """Whether one of the types that an annotation stands for takes bytes as they are."""
    if isinstance(annotation, msgspec.inspect.Metadata):
        return _takes_bytes(annotation.type)
    if isinstance(annotation, msgspec.inspect.UnionType):
        return any(_takes_bytes(each) for each in annotation.types)
    return isinstance(annotation, _TAKE_BYTES)

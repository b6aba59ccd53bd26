"""Rows of a dialect's table, and how they are compiled.

A row is a sequence of cells, one per frame.  Bytes stand for themselves; text names a field of the message:

    service    text in UTF-8
    id         1 to 255 bytes: the request's, chosen by the client
    client     1 to 255 bytes: a client's address at the broker
    body       one frame of JSON
    body*      one frame or more, of anything
    body*?     any number of frames; none is read as one that is empty
    error      one frame of JSON
    options?   a JSON object in a frame that may be missing
    unused?    a frame that may be there, and that nobody reads

A `?` or `*` stands only at the end.  Frames of JSON may hold what JavaScript makes of no value, which is not JSON: the
text `undefined`, or nothing at all.  That is read as `null`, and for options as none.

Rows are compiled once, at import: into a `Read`, that returns the message, or None if the frames are not this row's;
and into a `Write`.  Both are closures over what the row says, so that no message is matched against cells one by one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final

import attrs

from ..._errors import ProtocolError
from ..frames import Frame, Frames
from .messages import Message

Read = Callable[[Sequence[Frame]], Message | None]
Write = Callable[[Any], Frames]
_Get = Callable[[Sequence[Frame]], Any]

#: Bytes in the longest name of a service that is looked at.  What a broker takes is less, and a setting.
MAX_SERVICE: Final = 2**16
#: Bytes in the longest id and address.  For addresses it is ZeroMQ's own limit.
MAX_NAME: Final = 255

#: Above the number of frames in any message.
_ANY_NUMBER: Final = 2**62
#: Frames that stand for nothing where JSON should be, see above.
_UNDEFINED: Final = b"undefined"
_NULL: Final = b"null"
_EMPTY: Final = b""


class Route(enum.Enum):
    """Who says something to whom."""

    CLIENT_TO_BROKER = "client to broker"
    BROKER_TO_CLIENT = "broker to client"
    WORKER_TO_BROKER = "worker to broker"
    BROKER_TO_WORKER = "broker to worker"

    # An enum's own hash is Python code, and a route is looked up for each message.
    __hash__ = object.__hash__


@attrs.frozen
class Row:
    """One form of one message on one route."""

    route: Route
    message: type[Message]
    cells: tuple[bytes | str, ...]

    @property
    def head(self) -> tuple[bytes, ...]:
        """The fixed frames that it begins with."""
        count = next((i for i, cell in enumerate(self.cells) if type(cell) is str), len(self.cells))
        return self.cells[:count]  # type: ignore[return-value]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields without which a message has another form: a heartbeat has an id or not, for example."""
        return tuple(name for name in ("id", "client") if name in self.cells)

    def reader(self) -> Read:
        """Compile the way in."""
        least, most = self._count()
        fixed = [i for i, cell in enumerate(self.cells) if type(cell) is bytes]
        take = itemgetter(*fixed)
        expected = take(self.cells)
        make = _maker(self.message, self._getters())

        def read(frames: Sequence[Frame]) -> Message | None:
            if least <= len(frames) <= most and take(frames) == expected:
                return make(frames)
            return None

        return read

    def writer(self) -> Write:
        """Compile the way out."""
        cells = self.cells
        last = cells[-1] if type(cells[-1]) is str else ""
        if last in _TAILS:
            cells = cells[:-1]
        add = _TAILS.get(str(last))
        template: Frames = [cell if type(cell) is bytes else _EMPTY for cell in cells]
        variable = [(i, _PUTTERS[cell]) for i, cell in enumerate(cells) if type(cell) is str]

        def write(message: Any) -> Frames:
            frames: Frames = template.copy()
            for i, put in variable:
                frames[i] = put(message)
            if add is not None:
                add(frames, message)
            return frames

        return write

    def _count(self) -> tuple[int, int]:
        """Return how many frames there are, at least and at most."""
        count, last = len(self.cells), str(self.cells[-1])
        return count - last.endswith("?"), _ANY_NUMBER if "*" in last else count

    def _getters(self) -> list[_Get]:
        """Return what gets the fields out of frames, in the order in which the message's class takes them."""
        cells = {str(cell).rstrip("*?"): i for i, cell in enumerate(self.cells) if type(cell) is str}
        cls = self.message
        required = len(cls.__struct_fields__) - len(cls.__struct_defaults__)
        getters: list[_Get] = []
        needed = 0
        for n, name in enumerate(cls.__struct_fields__):
            if name in cells:
                i = cells.pop(name)
                getters.append(_GETTERS[str(self.cells[i])](i))
                needed = len(getters)
            else:
                getters.append(_constant(cls.__struct_defaults__[n - required]))
        assert cells.keys() <= {"unused"}
        return getters[:needed]


# ---- from frames to fields


def _constant(value: Any) -> _Get:
    return lambda frames: value


def _service(i: int) -> _Get:
    def get(frames: Sequence[Frame]) -> str:
        frame = frames[i]
        if len(frame) > MAX_SERVICE:
            raise ProtocolError(f"a service's name has {len(frame):,} bytes")
        try:
            return str(frame, "utf-8")
        except UnicodeDecodeError as error:
            raise ProtocolError(f"a service's name is no text: {error.reason}") from None

    return get


def _name(i: int) -> _Get:
    def get(frames: Sequence[Frame]) -> bytes:
        frame = frames[i]
        if 0 < len(frame) <= MAX_NAME:
            return frame if type(frame) is bytes else bytes(frame)
        raise ProtocolError(f"an id, or an address, has {len(frame):,} bytes")

    return get


def _frames(i: int) -> _Get:
    return lambda frames: frames[i:]


def _frames_or_none(i: int) -> _Get:
    return lambda frames: frames[i:] or [_EMPTY]


def _json(i: int) -> _Get:
    def get(frames: Sequence[Frame]) -> Frame:
        frame = frames[i]
        return frame if _is_value(frame) else _NULL

    return get


def _json_body(i: int) -> _Get:
    def get(frames: Sequence[Frame]) -> Frames:
        frame = frames[i]
        return [frame if _is_value(frame) else _NULL]

    return get


def _options(i: int) -> _Get:
    def get(frames: Sequence[Frame]) -> Frame:
        if len(frames) > i and _is_value(frame := frames[i]):
            return frame
        return _EMPTY

    return get


def _is_value(frame: Frame) -> bool:
    size = len(frame)
    return size > 0 and (size != len(_UNDEFINED) or bytes(frame) != _UNDEFINED)


_GETTERS: Final[dict[str, Callable[[int], _Get]]] = {
    "service": _service,
    "id": _name,
    "client": _name,
    "body": _json_body,
    "body*": _frames,
    "body*?": _frames_or_none,
    "error": _json,
    "options?": _options,
}


def _maker(message: type[Message], getters: Sequence[_Get]) -> Callable[[Sequence[Frame]], Message]:
    """Return what makes a message of frames.  Written out by the number of fields: a loop takes twice as long."""
    match getters:
        case []:
            return lambda frames: message()
        case [a]:
            return lambda frames: message(a(frames))
        case [a, b]:
            return lambda frames: message(a(frames), b(frames))
        case [a, b, c]:
            return lambda frames: message(a(frames), b(frames), c(frames))
        case [a, b, c, d]:
            return lambda frames: message(a(frames), b(frames), c(frames), d(frames))
        case [a, b, c, d, e]:
            return lambda frames: message(a(frames), b(frames), c(frames), d(frames), e(frames))
    raise AssertionError(f"{message.__name__} has more fields than that")


# ---- from fields to frames


def _add_body(frames: Frames, message: Any) -> None:
    frames.extend(message.body or (_EMPTY,))


def _add_options(frames: Frames, message: Any) -> None:
    if message.options:
        frames.append(message.options)


_PUTTERS: Final[dict[str, Callable[[Any], Frame]]] = {
    "service": lambda message: message.service.encode(),
    "id": attrgetter("id"),
    "client": attrgetter("client"),
    "body": lambda message: message.body[0],
    "error": attrgetter("error"),
}

_TAILS: Final[dict[str, Callable[[Frames, Any], None] | None]] = {
    "body*": _add_body,
    "body*?": _add_body,
    "options?": _add_options,
    "unused?": None,
}

"""A dialect as a table: one row per message and route, from which its encoders and decoders are made.

A row is a sequence of cells, one per frame: bytes stand for themselves, and text names a field of the message.
`body*` is one frame or more, `options?` may be missing, both only at the end.  Among the rows of one route that a
message fits, the first one counts; for sending, the first whose fields the message has.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from ..._errors import ProtocolError
from ..frames import Frame, Frames
from .messages import Message

Decode = Callable[[Sequence[Frame]], Message]
Encode = Callable[[Any], Frames]


class Route(enum.Enum):
    """Who says something to whom."""

    CLIENT_TO_BROKER = "client to broker"
    BROKER_TO_CLIENT = "broker to client"
    WORKER_TO_BROKER = "worker to broker"
    BROKER_TO_WORKER = "broker to worker"


@attrs.frozen
class Row:
    """One message on one route."""

    route: Route
    message: type[Message]
    cells: tuple[bytes | str, ...]

    def fits(self, frames: Sequence[Frame]) -> bool:
        """Whether frames may be this row's."""
        count, cells = len(frames), self.cells
        if cells[-1] == "body*":
            if count < len(cells):
                return False
        elif count != len(cells) and not (cells[-1] == "options?" and count == len(cells) - 1):
            return False
        return all(type(cell) is str or frames[i] == cell for i, cell in enumerate(cells) if i < count)

    def read(self, frames: Sequence[Frame]) -> Message:
        """Return the message that fitting frames stand for.

        Raises:
            ProtocolError: a service's name is no text.
        """
        fields: dict[str, Any] = {}
        for i, cell in enumerate(self.cells):
            if type(cell) is bytes or i == len(frames):
                continue
            if cell == "service":
                fields["service"] = _text(frames[i])
            elif cell == "body*":
                fields["body"] = frames[i:]
            elif cell == "body":
                fields["body"] = frames[i : i + 1]
            elif cell in _NAMES:
                fields[str(cell)] = bytes(frames[i])
            else:
                fields[str(cell).rstrip("?")] = frames[i]
        return self.message(**fields)

    def has_all(self, message: Message) -> bool:
        """Whether a message has what this row needs: a heartbeat has an id or not, for example."""
        return all(getattr(message, name) for name in _NAMES if name in self.cells)

    def write(self, message: Any) -> Frames:
        """Return the frames of a message."""
        frames: Frames = []
        for cell in self.cells:
            if type(cell) is bytes:
                frames.append(cell)
            elif cell == "service":
                frames.append(message.service.encode())
            elif cell == "body*":
                frames.extend(message.body)
            elif cell == "body":
                frames.append(message.body[0])
            else:
                frames.append(getattr(message, str(cell).rstrip("?")))
        return frames


#: Fields that are names, short, and kept.
_NAMES: Final = ("id", "client")


def _text(frame: Frame) -> str:
    try:
        return bytes(frame).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a service's name is no text: {error.reason}") from None


@attrs.frozen(eq=False)
class Dialect:
    """How peers of one kind talk, and what they can say.

    Attributes:
        name: as `protocol=` takes it.
        numbered: requests have ids, so that one connection may carry several at once.
        partials: there are partial replies.
        failures: there are error replies.
        json: a body is one frame of JSON; else any frames.
        concurrent: a worker may have several requests at once.
        client_beats: clients beat, so that silence tells that one is gone.
        request_beats: clients beat for each request, and workers take silence for having left.
        acknowledged: the broker answers READY and HEARTBEAT.
    """

    name: str
    rows: tuple[Row, ...] = attrs.field(repr=False)
    numbered: bool = False
    partials: bool = True
    failures: bool = False
    json: bool = False
    concurrent: bool = False
    client_beats: bool = False
    request_beats: bool = False
    acknowledged: bool = False
    _decoders: dict[Route, Decode] = attrs.field(factory=dict, init=False, repr=False)
    _encoders: dict[tuple[Route, type[Message]], Encode] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for route in Route:
            rows = [row for row in self.rows if row.route is route]
            self._decoders[route] = _decoder(self.name, route, rows)
            for message in {row.message for row in rows}:
                self._encoders[route, message] = _encoder([row for row in rows if row.message is message])

    def decode(self, route: Route, frames: Sequence[Frame]) -> Message:
        """Return the message that frames stand for, the peer's identity left out.

        Raises:
            ProtocolError: whatever is wrong with them.
        """
        return self._decoders[route](frames)

    def encode(self, route: Route, message: Message) -> Frames:
        """Return the frames of a message; KeyError if the dialect can't say it."""
        return self._encoders[route, type(message)](message)

    def can_say(self, route: Route, message: type[Message]) -> bool:
        """Whether there is a form for such a message on this route."""
        return (route, message) in self._encoders


def _decoder(name: str, route: Route, rows: Sequence[Row]) -> Decode:
    """Return what reads the frames of one route; rows are looked up by the fixed beginning that all of them have."""
    depth = min((_fixed(row) for row in rows), default=0)
    table: dict[tuple[bytes, ...], list[Row]] = {}
    for row in rows:
        table.setdefault(row.cells[:depth], []).append(row)  # type: ignore[arg-type]

    def decode(frames: Sequence[Frame]) -> Message:
        for row in table.get(tuple(map(bytes, frames[:depth])), ()):
            if row.fits(frames):
                return row.read(frames)
        raise ProtocolError(f"no {name} message from {route.value.split()[0]}: {_outline(frames)}")

    return decode


def _fixed(row: Row) -> int:
    for i, cell in enumerate(row.cells):
        if type(cell) is str:
            return i
    return len(row.cells)


def _encoder(rows: Sequence[Row]) -> Encode:
    if len(rows) == 1:
        return rows[0].write

    def encode(message: Message) -> Frames:
        for row in rows:
            if row.has_all(message):
                return row.write(message)
        return rows[-1].write(message)

    return encode


def _outline(frames: Sequence[Frame]) -> str:
    """Return a short description of frames for a log."""
    shown = [bytes(frame[:12]) if len(frame) <= 12 else f"<{len(frame):,} bytes>" for frame in frames[:6]]  # type: ignore[index]
    return f"{len(frames)} frames {shown}"

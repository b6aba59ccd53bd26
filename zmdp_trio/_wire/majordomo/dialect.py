"""A dialect: a table of rows, from which its decoders and encoders are made, and what its peers can do.

Among the rows of one route that frames fit, the first one counts.  For sending it is the first whose names the message
has, so that rows which are only read stand behind those that are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from ..._errors import ProtocolError
from ..frames import Frame, Frames
from .messages import Message
from .rows import Read, Route, Row, Write

Decode = Callable[[Sequence[Frame]], Message]

#: Frames, at the beginning of a message, that are shown in an error's text.
_SHOWN: Final = 6


@attrs.frozen(eq=False)
class Dialect:
    """How peers of one kind talk, and what they can say.

    Attributes:
        name: as `protocol=` takes it, if it is no variant.
        rows: every message, on every route, in every form.
        variant_of: the dialect that users know it by; it is detected, and answered in kind, but never chosen.
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
    variant_of: str = ""
    numbered: bool = False
    partials: bool = True
    failures: bool = False
    json: bool = False
    concurrent: bool = False
    client_beats: bool = False
    request_beats: bool = False
    acknowledged: bool = False
    _decoders: dict[Route, Decode] = attrs.field(factory=dict, init=False, repr=False)
    _encoders: dict[Route, dict[type[Message], Write]] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for route in Route:
            rows = [row for row in self.rows if row.route is route]
            self._decoders[route] = _decoder(self.name, route, rows)
            self._encoders[route] = {
                message: _encoder([row for row in rows if row.message is message])
                for message in {row.message for row in rows}
            }

    def decode(self, route: Route, frames: Sequence[Frame]) -> Message:
        """Return the message that frames stand for, the peer's identity left out.

        Raises:
            ProtocolError: whatever is wrong with them.
        """
        return self._decoders[route](frames)

    def encode(self, route: Route, message: Message) -> Frames:
        """Return the frames of a message.

        A body without frames becomes one empty frame, where a body is frames: the RFCs ask for one or more.

        Raises:
            KeyError: the dialect can't say it.
        """
        return self._encoders[route][type(message)](message)

    def decoder(self, route: Route) -> Decode:
        """Return what `decode` calls for messages of this route."""
        return self._decoders[route]

    def encoders(self, route: Route) -> Mapping[type[Message], Write]:
        """Return what `encode` calls for messages of this route."""
        return self._encoders[route]

    def can_say(self, route: Route, message: type[Message]) -> bool:
        """Whether there is a form for such a message on this route."""
        return message in self._encoders[route]


def _decoder(name: str, route: Route, rows: Sequence[Row]) -> Decode:
    """Return what reads the frames of one route.

    Rows are looked up by the last frame of the fixed beginning that all of them have: the command, or where there is
    no choice, the header.  What stands before it is the same for all, and each row looks at it itself.
    """
    last = min(len(row.head) for row in rows) - 1
    table: dict[bytes, list[Read]] = {}
    for row in rows:
        table.setdefault(row.head[last], []).append(row.reader())
    longest = max(len(cell) for row in rows for cell in row.cells if type(cell) is bytes)
    width = max(len(row.cells) for row in rows)

    def decode(frames: Sequence[Frame]) -> Message:
        try:
            readers = table[frames[last]]  # type: ignore[index]
        except (IndexError, KeyError, TypeError):
            readers = []
        for read in readers:
            message = read(frames)
            if message is not None:
                return message
        # Frames that are no bytes equal none, and may have no hash.  Small ones, which no transport of ours hands out.
        plain = [bytes(frame) if len(frame) <= longest else frame for frame in frames[:width]]
        if any(a is not b for a, b in zip(plain, frames, strict=False)):
            return decode([*plain, *frames[width:]])
        raise ProtocolError(f"no {name} message from {route.value.split()[0]}: {outline(frames)}")

    return decode


def _encoder(rows: Sequence[Row]) -> Write:
    """Return what writes a message: in the first form that it has the names for, or in the last one."""
    *forms, (_, last) = [(row.names, row.writer()) for row in rows]
    if not forms:
        return last

    def write(message: Message) -> Frames:
        for names, form in forms:
            if all(getattr(message, name) for name in names):
                return form(message)
        return last(message)

    return write


def outline(frames: Sequence[Frame]) -> str:
    """Return a short description of frames for a log; a large one is not copied."""
    shown = [repr(bytes(frame)) if len(frame) <= 12 else f"<{len(frame):,} bytes>" for frame in frames[:_SHOWN]]
    return f"{len(frames)} frames [{', '.join(shown)}{', ...' * (len(frames) > _SHOWN)}]"

"""A dialect: a table of rows, from which follow its decoders and encoders, and what its peers can do.

Among the rows of one route that frames fit, the first one counts.  For sending it is the first whose names the message
has, so that rows which are only read stand behind those that are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from ..._errors import ProtocolError
from ..frames import Frame, Frames
from . import messages as m
from .messages import Message
from .rows import Read, Route, Row, Write

Decode = Callable[[Sequence[Frame]], Message]

#: Frames, at the beginning of a message, that are shown in an error's text.
_SHOWN: Final = 6


def _fact(route: Route, message: type[Message], cell: str = "") -> Any:
    """Return a field that tells whether there is a row for such a message, with such a cell."""

    def told(dialect: Dialect) -> bool:
        rows = (row for row in dialect.rows if row.route is route and row.message is message)
        return any(not cell or cell in row.cells for row in rows)

    return attrs.field(init=False, default=attrs.Factory(told, takes_self=True))


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
        concurrent: a worker may have several requests at once, and beats to say how many.
        client_beats: clients beat, so that silence tells that one is gone.
        request_beats: clients beat for each request, and workers take silence for having left.
        acknowledged: the broker answers READY and HEARTBEAT.
        options: workers are told the options of a request.
    """

    name: str
    rows: tuple[Row, ...] = attrs.field(repr=False)
    variant_of: str = ""
    numbered: bool = _fact(Route.CLIENT_TO_BROKER, m.Request, "id")
    partials: bool = _fact(Route.BROKER_TO_CLIENT, m.Partial)
    failures: bool = _fact(Route.BROKER_TO_CLIENT, m.Failure)
    json: bool = _fact(Route.CLIENT_TO_BROKER, m.Request, "body")
    concurrent: bool = _fact(Route.WORKER_TO_BROKER, m.Heartbeat, "options?")
    client_beats: bool = _fact(Route.CLIENT_TO_BROKER, m.Heartbeat)
    request_beats: bool = _fact(Route.BROKER_TO_WORKER, m.Heartbeat, "id")
    acknowledged: bool = _fact(Route.BROKER_TO_WORKER, m.Ready)
    options: bool = _fact(Route.BROKER_TO_WORKER, m.Request, "options?")
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

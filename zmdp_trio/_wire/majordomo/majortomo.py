"""What majortomo calls 0.2: commands on the client's side are numbered like those on the worker's."""

from __future__ import annotations

from typing import Final

from .dialect import Dialect, Route, Row
from .mdp02 import ROWS, C, enveloped
from .messages import Final as FinalReply
from .messages import Partial, Request

MAJORTOMO: Final = Dialect(
    "majortomo",
    (
        Row(Route.CLIENT_TO_BROKER, Request, (b"", C, b"\x02", "service", "body*")),
        Row(Route.BROKER_TO_CLIENT, Partial, (b"", C, b"\x03", "body*")),
        Row(Route.BROKER_TO_CLIENT, FinalReply, (b"", C, b"\x04", "body*")),
        *enveloped(tuple(row for row in ROWS if row.cells[0] != C)),
    ),
)

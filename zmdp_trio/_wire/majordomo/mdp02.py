"""MDP 0.2, RFC 18; and the same behind an empty frame, as some peers send it.

What of the RFC shows in the rows:

- Where it counts "4 or more frames" for a client's REQUEST, PARTIAL, and FINAL, and "5 or more" for a worker's, a body
  has one frame or more.  What has none is refused.  (A client's header, command, and service are three frames.)
- At the worker there is "precisely one client address frame", followed by an empty one (Request and Reply Processing).
- There is no empty frame at the beginning: "clients MUST use a DEALER socket" (MDP/Client).  Peers that grew out of
  MDP 0.1 send one all the same, and expect it back: `mdp/0.2+empty`.
"""

from __future__ import annotations

from typing import Final

from .dialect import Dialect
from .messages import Disconnect, Heartbeat, Partial, Ready, Request
from .messages import Final as FinalReply
from .rows import Route, Row

C, W = b"MDPC02", b"MDPW02"

ROWS: Final = (
    Row(Route.CLIENT_TO_BROKER, Request, (C, b"\x01", "service", "body*")),
    Row(Route.BROKER_TO_CLIENT, Partial, (C, b"\x02", "service", "body*")),
    Row(Route.BROKER_TO_CLIENT, FinalReply, (C, b"\x03", "service", "body*")),
    Row(Route.WORKER_TO_BROKER, Ready, (W, b"\x01", "service")),
    Row(Route.BROKER_TO_WORKER, Request, (W, b"\x02", "client", b"", "body*")),
    Row(Route.WORKER_TO_BROKER, Partial, (W, b"\x03", "client", b"", "body*")),
    Row(Route.WORKER_TO_BROKER, FinalReply, (W, b"\x04", "client", b"", "body*")),
    Row(Route.WORKER_TO_BROKER, Heartbeat, (W, b"\x05")),
    Row(Route.BROKER_TO_WORKER, Heartbeat, (W, b"\x05")),
    Row(Route.WORKER_TO_BROKER, Disconnect, (W, b"\x06")),
    Row(Route.BROKER_TO_WORKER, Disconnect, (W, b"\x06")),
)

MDP02: Final = Dialect("mdp/0.2", ROWS)


def _enveloped(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return rows with an empty frame before each, as a REQ socket sends it."""
    return tuple(Row(row.route, row.message, (b"", *row.cells)) for row in rows)


MDP02_ENVELOPED: Final = Dialect("mdp/0.2+empty", _enveloped(ROWS), variant_of=MDP02.name)

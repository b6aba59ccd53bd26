"""MDP 0.1, RFC 7."""

from __future__ import annotations

from typing import Final

from .dialect import Dialect, Route, Row
from .messages import Disconnect, Heartbeat, Ready, Request
from .messages import Final as FinalReply

E, C, W = b"", b"MDPC01", b"MDPW01"

MDP01: Final = Dialect(
    "mdp/0.1",
    (
        Row(Route.CLIENT_TO_BROKER, Request, (E, C, "service", "body*")),
        Row(Route.BROKER_TO_CLIENT, FinalReply, (E, C, "service", "body*")),
        Row(Route.WORKER_TO_BROKER, Ready, (E, W, b"\x01", "service")),
        Row(Route.BROKER_TO_WORKER, Request, (E, W, b"\x02", "client", E, "body*")),
        Row(Route.WORKER_TO_BROKER, FinalReply, (E, W, b"\x03", "client", E, "body*")),
        Row(Route.WORKER_TO_BROKER, Heartbeat, (E, W, b"\x04")),
        Row(Route.BROKER_TO_WORKER, Heartbeat, (E, W, b"\x04")),
        Row(Route.WORKER_TO_BROKER, Disconnect, (E, W, b"\x05")),
        Row(Route.BROKER_TO_WORKER, Disconnect, (E, W, b"\x05")),
    ),
    partials=False,
)

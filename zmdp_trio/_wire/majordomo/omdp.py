"""OMDP, as zmq-omdp speaks it."""

from __future__ import annotations

from typing import Final

from .dialect import Dialect, Route, Row
from .messages import Disconnect, Failure, Heartbeat, Partial, Ready, Request
from .messages import Final as FinalReply

C, W = b"C", b"W"

OMDP: Final = Dialect(
    "omdp",
    (
        Row(Route.CLIENT_TO_BROKER, Request, (C, b"2", "service", "id", "body", "options?")),
        Row(Route.BROKER_TO_CLIENT, Partial, (C, b"6", "id", b"0", "body")),
        Row(Route.BROKER_TO_CLIENT, FinalReply, (C, b"3", "id", b"0", "body")),
        Row(Route.BROKER_TO_CLIENT, Failure, (C, b"3", "id", "error")),
        Row(Route.CLIENT_TO_BROKER, Heartbeat, (C, b"4", "id")),
        Row(Route.CLIENT_TO_BROKER, Heartbeat, (C, b"4")),
        Row(Route.WORKER_TO_BROKER, Ready, (W, b"1", "service")),
        Row(Route.BROKER_TO_WORKER, Request, (W, b"2", "client", "id", "body")),
        Row(Route.WORKER_TO_BROKER, Partial, (W, b"6", "client", "id", b"0", "body")),
        Row(Route.WORKER_TO_BROKER, FinalReply, (W, b"3", "client", "id", b"0", "body")),
        Row(Route.WORKER_TO_BROKER, Failure, (W, b"3", "client", "id", "error")),
        Row(Route.WORKER_TO_BROKER, Heartbeat, (W, b"4")),
        Row(Route.BROKER_TO_WORKER, Heartbeat, (W, b"4", "client", "id")),
        Row(Route.BROKER_TO_WORKER, Heartbeat, (W, b"4")),
        Row(Route.WORKER_TO_BROKER, Disconnect, (W, b"5")),
        Row(Route.BROKER_TO_WORKER, Disconnect, (W, b"5")),
    ),
    numbered=True,
    failures=True,
    json=True,
    client_beats=True,
    request_beats=True,
)

"""OMDP, as the Node package zmq-omdp speaks it.

Commands, and the code 0 of a success, are numbers in its source, which its ZeroMQ module sends as their digits.

- A request's options are always there, an object with `timeout` at least; its broker reads requests without as well,
  and does not pass them on to the worker.
- An error stands in the place of the code, and nothing follows it.  A reply has the code and the data.
- What JSON.stringify makes of `undefined`, by a request or a reply without data, travels as the text `undefined`.
- Its broker answers neither READY nor heartbeats; it beats to its workers, and not to its clients.

The Ruby examples in its repository, which write a command as `0x02`, are not read: their worker sends no request's id,
so that its own broker can't use it either.
"""

from __future__ import annotations

from typing import Final

from .dialect import Dialect
from .messages import Disconnect, Failure, Heartbeat, Partial, Ready, Request
from .messages import Final as FinalReply
from .rows import Route, Row

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
)

"""PIGATO, as its Node package speaks it, and the Ruby and Go packages of the same author.

Commands and codes travel as their digits: code 0 is a success, and -1 says that an error stands where the data would.

- The Node worker sends options with every reply.  With an error and a rejection they are the text `undefined`, which
  its broker passes on to the client, and nobody reads.
- The Ruby peers send no options: neither with a request or a reply, nor with a worker's heartbeat, which then is as
  short as OMDP's.  The Go client sends an empty frame for them.
- What JSON.stringify makes of `undefined`, by a request or a reply without data, travels as the text `undefined`.
- For one request, the Node client beats with `request`, while the Node broker looks for `req`.  We read both, and send
  `request`, since the other ends that broker.
"""

from __future__ import annotations

from typing import Final

from .dialect import Dialect
from .messages import Disconnect, Failure, Heartbeat, Partial, Ready, Reject, Request
from .messages import Final as FinalReply
from .rows import Route, Row

C, W, E = b"C", b"W", b""

PIGATO: Final = Dialect(
    "pigato",
    (
        Row(Route.CLIENT_TO_BROKER, Request, (C, b"2", "service", "id", "body", "options?")),
        Row(Route.BROKER_TO_CLIENT, Partial, (C, b"6", E, "id", b"0", "body", "options?")),
        Row(Route.BROKER_TO_CLIENT, FinalReply, (C, b"3", E, "id", b"0", "body", "options?")),
        Row(Route.BROKER_TO_CLIENT, Failure, (C, b"3", E, "id", b"-1", "error", "unused?")),
        Row(Route.CLIENT_TO_BROKER, Heartbeat, (C, b"4", b"request", "id")),
        Row(Route.CLIENT_TO_BROKER, Heartbeat, (C, b"4", b"req", "id")),
        Row(Route.CLIENT_TO_BROKER, Heartbeat, (C, b"4")),
        Row(Route.BROKER_TO_CLIENT, Heartbeat, (C, b"4")),
        Row(Route.WORKER_TO_BROKER, Ready, (W, b"1", "service")),
        Row(Route.BROKER_TO_WORKER, Ready, (W, b"1")),
        Row(Route.BROKER_TO_WORKER, Request, (W, b"2", "client", "service", E, "id", "body", "options?")),
        Row(Route.WORKER_TO_BROKER, Partial, (W, b"6", "client", E, "id", b"0", "body", "options?")),
        Row(Route.WORKER_TO_BROKER, FinalReply, (W, b"3", "client", E, "id", b"0", "body", "options?")),
        Row(Route.WORKER_TO_BROKER, Failure, (W, b"3", "client", E, "id", b"-1", "error", "unused?")),
        Row(Route.WORKER_TO_BROKER, Reject, (W, b"7", "client", E, "id", b"0", "error", "unused?")),
        Row(Route.WORKER_TO_BROKER, Heartbeat, (W, b"4", E, "options?")),
        Row(Route.WORKER_TO_BROKER, Heartbeat, (W, b"4")),
        Row(Route.BROKER_TO_WORKER, Heartbeat, (W, b"4", "client", E, "id")),
        Row(Route.BROKER_TO_WORKER, Heartbeat, (W, b"4")),
        Row(Route.WORKER_TO_BROKER, Disconnect, (W, b"5")),
        Row(Route.BROKER_TO_WORKER, Disconnect, (W, b"5")),
    ),
)

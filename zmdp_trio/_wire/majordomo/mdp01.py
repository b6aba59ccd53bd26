"""MDP 0.1, RFC 7.

What of the RFC shows in the rows:

- A REQUEST and a REPLY at the client have "4 or more frames", so a body has one frame or more (MDP/Client).  What has
  none is refused.
- At the worker there is "precisely one client address frame", followed by an empty one (Request and Reply Processing).
- Every command begins with an empty frame: a REQ socket adds it by itself, a DEALER must (MDP/Client), and a worker
  sends it too, so that a broker reads both alike (MDP/Worker).

The peers of the Guide, and their translations, send exactly this.
"""

from __future__ import annotations

from typing import Final

from .dialect import Dialect
from .messages import Disconnect, Heartbeat, Ready, Request
from .messages import Final as FinalReply
from .rows import Route, Row

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
)

"""What majortomo calls MDP 0.2.

It deviates from RFC 18 in that

- every message begins with an empty frame, as in MDP 0.1;
- the client's commands are numbered like the worker's: REQUEST 02, PARTIAL 03, FINAL 04;
- replies to a client carry no service;
- a worker may reply with a list of no frames, which its broker passes on.  (A request without a body its broker
  refuses, and so do we.)
"""

from __future__ import annotations

from typing import Final

from .dialect import Dialect
from .mdp02 import C, W
from .messages import Disconnect, Heartbeat, Partial, Ready, Request
from .messages import Final as FinalReply
from .rows import Route, Row

E = b""

MAJORTOMO: Final = Dialect(
    "majortomo",
    (
        Row(Route.CLIENT_TO_BROKER, Request, (E, C, b"\x02", "service", "body*")),
        Row(Route.BROKER_TO_CLIENT, Partial, (E, C, b"\x03", "body*?")),
        Row(Route.BROKER_TO_CLIENT, FinalReply, (E, C, b"\x04", "body*?")),
        Row(Route.WORKER_TO_BROKER, Ready, (E, W, b"\x01", "service")),
        Row(Route.BROKER_TO_WORKER, Request, (E, W, b"\x02", "client", E, "body*")),
        Row(Route.WORKER_TO_BROKER, Partial, (E, W, b"\x03", "client", E, "body*?")),
        Row(Route.WORKER_TO_BROKER, FinalReply, (E, W, b"\x04", "client", E, "body*?")),
        Row(Route.WORKER_TO_BROKER, Heartbeat, (E, W, b"\x05")),
        Row(Route.BROKER_TO_WORKER, Heartbeat, (E, W, b"\x05")),
        Row(Route.WORKER_TO_BROKER, Disconnect, (E, W, b"\x06")),
        Row(Route.BROKER_TO_WORKER, Disconnect, (E, W, b"\x06")),
    ),
)

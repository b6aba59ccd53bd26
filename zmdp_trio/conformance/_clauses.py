"""What RFC 7, RFC 8, and RFC 18 ask of a broker, in their own words, shortened at the dots."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import attrs


class Level(enum.Enum):
    """How strongly the text binds; SHALL counts as MUST."""

    MUST = "MUST"
    #: Stated without one of the key words, as the form of a command is; it binds like MUST.
    STATED = "stated"
    SHOULD = "SHOULD"
    #: Left to the other side, so that the broker has to live with it.
    MAY = "MAY"


@attrs.frozen(eq=False)
class Clause:
    """A sentence of one or two RFCs.

    Attributes:
        level: how strongly it binds.
        section: where it stands.
        text: what it says, by the number of the RFC.
        why: why it can't be tested from outside; empty where it can.
    """

    level: Level
    section: str
    text: Mapping[int, str]
    why: str = ""


def _both(level: Level, section: str, text: str, text18: str = "", why: str = "") -> Clause:
    """Return a clause of RFC 7 and of RFC 18, which may put it in other words."""
    return Clause(level, section, {7: text, 18: text18 or text}, why)


def _later(level: Level, section: str, text: str, why: str = "") -> Clause:
    """Return a clause of RFC 18 alone."""
    return Clause(level, section, {18: text}, why)


def _mmi(level: Level, section: str, text: str, why: str = "") -> Clause:
    """Return a clause of RFC 8."""
    return Clause(level, section, {8: text}, why)


_TOPOLOGY: Final = "Overall Topology"
_ROUTER: Final = "ROUTER Addressing"
_CLIENT: Final = "MDP/Client"
_WORKER: Final = "MDP/Worker"
_OPENING: Final = "Opening and Closing a Connection"
_PROCESSING: Final = "Request and Reply Processing"
_BEATING: Final = "Heartbeating"
_NAMESPACE: Final = "Namespace"
_SERVICES: Final = "Default services"

# ---- topology and addressing

ONE_AT_A_TIME: Final = _both(Level.STATED, _TOPOLOGY, "Workers will handle at most one request a time")
ONE_REPLY: Final = Clause(
    Level.STATED, _TOPOLOGY, {7: "Workers ... will issue exactly one reply for each successful request."}
)
FAIR: Final = _both(Level.SHOULD, _TOPOLOGY, "The broker SHOULD serve clients on a fair basis")
ROUTER: Final = _both(
    Level.MUST,
    _ROUTER,
    "The broker MUST use a ROUTER socket to accept requests from clients, and connections from workers.",
)

# ---- clients

REPEAT: Final = _both(Level.STATED, _CLIENT, "Repeat: C: REQUEST B: REPLY", "Repeat: C: REQUEST B: *PARTIAL B: FINAL")
REPLY_FORM: Final = _both(
    Level.STATED,
    _CLIENT,
    "A REPLY command consists of a multipart message of 4 or more frames, formatted on the wire as follows",
    "A FINAL command consists of a multipart message of 4 or more frames, formatted on the wire as follows",
)
PARTIAL_FORM: Final = _later(
    Level.STATED,
    _CLIENT,
    "A PARTIAL command consists of a multipart message of 4 or more frames, formatted on the wire as follows",
)
BODY: Final = _both(
    Level.STATED,
    _CLIENT,
    "Frames 3+: Request body (opaque binary) ... Frames 3+: Reply body (opaque binary)",
)
AFTER_FINAL: Final = Clause(
    Level.MUST,
    _CLIENT,
    {18: "After a FINAL command, the broker SHALL not send any further commands to the client."},
)
SYNCHRONOUS: Final = Clause(
    Level.STATED, _CLIENT, {7: "MDP/Client is a strictly synchronous dialog initiated by the client"}
)
SERVICE_NAME: Final = _both(
    Level.STATED,
    _CLIENT,
    "The service name is a 0MQ string that matches the service name specified by a worker in its READY command",
)
QUEUE: Final = _both(
    Level.SHOULD,
    _CLIENT,
    "The broker SHOULD queue client requests for which no service has been registered",
)

# ---- workers

WORKER_REQUEST_FORM: Final = _both(
    Level.STATED,
    _WORKER,
    "A REQUEST command consists of a multipart message of 6 or more frames, formatted on the wire as follows",
    "A REQUEST command consists of a multipart message of 5 or more frames, formatted on the wire as follows",
)
HEARTBEAT_FORM: Final = _both(
    Level.STATED,
    _WORKER,
    "A HEARTBEAT command consists of a multipart message of 3 frames, formatted on the wire as follows",
    "A HEARTBEAT command consists of a multipart message of 2 frames, formatted on the wire as follows",
)
DISCONNECT_FORM: Final = _both(
    Level.STATED,
    _WORKER,
    "A DISCONNECT command consists of a multipart message of 3 frames, formatted on the wire as follows",
    "A DISCONNECT command consists of a multipart message of 2 frames, formatted on the wire as follows",
)
HEADER: Final = _both(
    Level.STATED,
    _OPENING,
    "every MDP command includes the protocol header to allow proper validation of all messages that a peer receives",
)
MANY_WORKERS: Final = _both(
    Level.MAY, _OPENING, "One worker handles precisely one service, and many workers MAY handle the same service."
)
NO_RESPONSE: Final = _both(Level.STATED, _OPENING, "There is no response to a READY.")
LEAVE_ANY_TIME: Final = _both(
    Level.MAY, _OPENING, "The worker MAY send DISCONNECT at any time, including before READY."
)
AFTER_DISCONNECT: Final = _both(
    Level.MUST,
    _OPENING,
    "When the broker receives DISCONNECT from a worker it MUST send no further commands to that worker.",
)
UNEXPECTED: Final = _both(
    Level.MUST,
    _OPENING,
    "The broker MUST respond to any valid but unexpected command by sending DISCONNECT and then no further commands "
    "to that worker.",
)
PARTIAL_UNEXPECTED: Final = Clause(UNEXPECTED.level, UNEXPECTED.section, {18: UNEXPECTED.text[18]})
INVALID: Final = _both(
    Level.SHOULD,
    _OPENING,
    "The broker SHOULD respond to invalid messages by dropping them and treating that peer as invalid.",
)
REGISTER_AGAIN: Final = _both(
    Level.STATED,
    _OPENING,
    "This mechanism allows workers to re-register after a broker failure and recovery.",
)
PARTIALS: Final = _later(
    Level.MUST,
    _PROCESSING,
    "The worker SHALL send zero or more PARTIAL commands for a single REQUEST, followed by exactly one FINAL command.",
)
ADDRESS: Final = _both(
    Level.MUST,
    _PROCESSING,
    "The REQUEST and the REPLY commands MUST contain precisely one client address frame. This frame MUST be followed "
    "by an empty (zero sized) frame.",
    "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client address frame. This frame MUST be "
    "followed by an empty (zero sized) frame.",
)
ADDRESSED: Final = _both(
    Level.STATED,
    _PROCESSING,
    "That ROUTER socket also expects a client address to be prepended to each reply message sent to a client.",
)

# ---- heartbeats

BEAT: Final = _both(
    Level.MUST,
    _BEATING,
    "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals.",
)
EXPIRE: Final = _both(
    Level.MUST,
    _BEATING,
    'A peer MUST consider the other peer "disconnected" if no heartbeat arrives within some multiple of that interval '
    "(usually 3-5).",
)
STOP_SENDING: Final = _both(
    Level.SHOULD,
    _BEATING,
    "If the broker detects that the worked has disconnected, it SHOULD stop sending it messages of any type.",
)
ANY_COMMAND_BEATS: Final = _both(Level.STATED, _BEATING, "Any received command except DISCONNECT acts as a heartbeat.")
PARTIALS_BEAT: Final = Clause(ANY_COMMAND_BEATS.level, ANY_COMMAND_BEATS.section, {18: ANY_COMMAND_BEATS.text[18]})
NEEDLESS_BEATS: Final = _both(
    Level.SHOULD,
    _BEATING,
    "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands.",
)

# ---- MMI

INTERNAL: Final = _mmi(
    Level.MUST,
    _NAMESPACE,
    'An MMI broker implementation MUST handle all services that start with "mmi." internally.',
)
RESERVED: Final = _mmi(
    Level.MUST, _NAMESPACE, "It MUST disconnect any workers that attempt to register services in this namespace."
)
FOUND: Final = _mmi(
    Level.MUST,
    _SERVICES,
    'mmi.service ... responds with "200" (Found) if there is at least one worker registered for the service',
)
ABSENT: Final = _mmi(
    Level.MUST, _SERVICES, 'mmi.service ... or "404" (Not found) if there are no workers registered for the service.'
)
UNIMPLEMENTED: Final = _mmi(
    Level.MUST,
    _SERVICES,
    'Any unimplemented services in the "mmi." namespace MUST result in a reply "501" (Not implemented).',
)

_OTHER_SIDE: Final = "binds the other side, which is this tool here"

#: What no peer of a broker can find out, and why.
UNTESTABLE: Final[Sequence[tuple[str, Clause]]] = (
    (
        "broker/sockets",
        _both(
            Level.MAY,
            _TOPOLOGY,
            "The broker MAY open two sockets (ports), one front-end for clients, and one back-end for workers.",
            why="either is right; name the second one with --workers",
        ),
    ),
    (
        "broker/order",
        _both(
            Level.MAY,
            _TOPOLOGY,
            "MAY deliver requests to workers on any basis, including round robin and least-recently used.",
            why="every order is right",
        ),
    ),
    (
        "broker/resend",
        _both(
            Level.MAY,
            "Goals",
            "Allow the broker to recover from dead or disconnected workers by resending requests to other workers.",
            why="allowed, and not asked for",
        ),
    ),
    (
        "client/socket",
        Clause(
            Level.SHOULD,
            _CLIENT,
            {7: "Clients SHOULD use a REQ socket when implementing a synchronous request-reply pattern."},
            _OTHER_SIDE,
        ),
    ),
    ("client/socket", _later(Level.MUST, _CLIENT, "Clients MUST use a DEALER socket.", _OTHER_SIDE)),
    (
        "client/envelope",
        Clause(
            Level.MUST, _CLIENT, {7: "In that case the clients MUST create the empty frame 0 explicitly."}, _OTHER_SIDE
        ),
    ),
    (
        "client/handles-partials",
        _later(
            Level.MUST,
            _CLIENT,
            "The client MUST be prepared to handle zero or more PARTIAL commands from the broker.",
            _OTHER_SIDE,
        ),
    ),
    (
        "client/recovery",
        _both(
            Level.MAY,
            _CLIENT,
            "Clients MAY use any suitable strategy for recovering from a non-responsive broker.",
            why=_OTHER_SIDE,
        ),
    ),
    (
        "client/queue-expiry",
        _both(
            Level.SHOULD,
            _CLIENT,
            "... and SHOULD expire these requests after a reasonable and configurable time",
            why="the time is for the broker's owner to choose, and need not be told to anybody",
        ),
    ),
    (
        "worker/socket",
        _both(
            Level.MUST,
            _OPENING,
            "One worker MUST connect to exactly one broker using a single ØMQ DEALER (XREQ) socket.",
            "One worker MUST connect to exactly one broker using a single ØMQ DEALER socket.",
            why=_OTHER_SIDE,
        ),
    ),
    ("worker/one-ready", _both(Level.MUST, _OPENING, "The worker MUST NOT send a further READY.", why=_OTHER_SIDE)),
    (
        "worker/assumes",
        _both(
            Level.SHOULD,
            _OPENING,
            "The worker SHOULD assume the registration succeeded until or unless it receives a DISCONNECT",
            why=_OTHER_SIDE,
        ),
    ),
    (
        "worker/starts-over",
        _both(
            Level.MUST,
            _OPENING,
            "it MUST close its socket, and reconnect to the broker on a new socket.",
            why=_OTHER_SIDE,
        ),
    ),
    (
        "worker/broker-leaves",
        _both(
            Level.MAY,
            _OPENING,
            "The broker MAY send DISCONNECT at any time, by definition after it has received at least one command from "
            "the worker.",
            why="nobody but the broker knows when it wants to; what comes before any command, no worker hears of",
        ),
    ),
    (
        "worker/expires-broker",
        _both(
            Level.SHOULD,
            _BEATING,
            "If the worker detects that the broker has disconnected, it SHOULD restart a new conversation.",
            why=_OTHER_SIDE,
        ),
    ),
)

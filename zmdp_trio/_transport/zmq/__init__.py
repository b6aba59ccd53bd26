"""Ports over ZeroMQ; the only importer of pyzmq."""

from __future__ import annotations

import itertools
import math
import os
import socket as sockets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EADDRINUSE, EADDRNOTAVAIL, ECONNREFUSED, EEXIST, EINVAL, ENODEV, ENOENT
from typing import Final

import zmq

from .._seam import EndpointError, Options, Port
from ._context import SharedContext
from ._dealer import MONITORED as MONITORED_BY_DEALER
from ._dealer import DealerPort
from ._monitor import Monitor
from ._router import MONITORED as MONITORED_BY_ROUTER
from ._router import RouterPort
from ._silence import KNOWN

#: Messages per peer that wait in libzmq.  Small, because it counts messages and not bytes: what a slow peer has not
#: taken waits with us, where it is measured, can be cancelled, and becomes one batch.
SEND_QUEUE: Final = 16
#: Messages per peer that wait to be received.  Not small: while this is full libzmq does not read, not even
#: heartbeats, and a process that is busy for a while would be taken for dead.
RECEIVE_QUEUE: Final = 1000
#: Milliseconds that a closed port's messages may still take to leave.  Less where there is one peer alone: if that is
#: gone, and libzmq has not noticed yet, the whole time is spent in vain.
LINGER: Final = 1000
LINGER_DIALLED: Final = 250
#: Milliseconds for a TCP connection to be accepted, and for the ZMTP handshake after it.
CONNECT_TIMEOUT: Final = 5000
HANDSHAKE_TIMEOUT: Final = 5000
#: Milliseconds until libzmq may reconnect by itself: 12 days, and a lost port is disconnected long before.  Not -1, "do
#: not reconnect", and not IMMEDIATE: with either, libzmq throws away what it received before the connection was lost.
NEVER: Final = 2**30

#: What libzmq means, where the system's own words for it would mislead: "No such device" for a host name.
_TCP_REASONS: Final = {
    EINVAL: "malformed; expected tcp://host:port, and a number for the port",
    ENODEV: "the host name does not resolve to an address of this machine",
    EADDRNOTAVAIL: "not an address of this machine",
}

_inproc_names = itertools.count(1)


def listen(*endpoints: str, options: Options) -> Port:
    """Bind one ROUTER to all the endpoints."""
    with _opening(zmq.ROUTER, options, MONITORED_BY_ROUTER, endpoints) as parts:
        socket = parts[1]
        # An unknown or a full peer is an error then, and not silence.
        socket.set(zmq.ROUTER_MANDATORY, 1)
        _tell_patience(socket, options)
        return RouterPort(*parts, tuple(_bind(socket, endpoint, options) for endpoint in endpoints), options)


def dial(endpoint: str, options: Options) -> Port:
    """Connect one DEALER to the endpoint."""
    with _opening(zmq.DEALER, options, MONITORED_BY_DEALER, (endpoint,)) as parts:
        socket = parts[1]
        if endpoint.startswith("inproc:"):
            socket.set(zmq.ROUTING_ID, b"inproc-%d" % next(_inproc_names))  # see SharedContext.part
        elif options.routing_id:
            socket.set(zmq.ROUTING_ID, options.routing_id)
        socket.set(zmq.LINGER, LINGER_DIALLED)
        socket.set(zmq.RECONNECT_IVL, NEVER)
        socket.set(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT)
        _allow_ipv6(socket, endpoint)
        socket.connect(endpoint)
        return DealerPort(*parts, (endpoint,))


@contextmanager
def _opening(
    kind: int, options: Options, monitored: int, endpoints: tuple[str, ...]
) -> Iterator[tuple[SharedContext, zmq.Socket[bytes], Monitor]]:
    """Provide a port's parts; release them if it comes to nothing, and say why."""
    with _translating(", ".join(endpoints)), ExitStack() as undo:
        shared = SharedContext.acquire()
        undo.callback(shared.release)
        socket: zmq.Socket[bytes] = shared.context.socket(kind)
        undo.callback(socket.close)
        _configure(socket, options)
        monitor = Monitor(shared.context, socket, monitored)
        undo.callback(monitor.close)
        yield shared, socket, monitor
        undo.pop_all()


@contextmanager
def _translating(endpoint: str) -> Iterator[None]:
    """Turn what libzmq and the system raise into an `EndpointError`."""
    try:
        yield
    except (zmq.ZMQError, OSError) as exc:
        reason = _TCP_REASONS.get(exc.errno or 0) if endpoint.startswith("tcp:") else None
        raise EndpointError(f"{endpoint}: {reason or zmq.strerror(exc.errno or 0)}") from exc


def _configure(socket: zmq.Socket[bytes], options: Options) -> None:
    socket.set(zmq.SNDHWM, SEND_QUEUE)
    socket.set(zmq.RCVHWM, RECEIVE_QUEUE)
    socket.set(zmq.LINGER, LINGER)
    socket.set(zmq.MAXMSGSIZE, options.max_frame)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT)
    if options.heartbeat < math.inf:
        socket.set(zmq.HEARTBEAT_IVL, _milliseconds(options.heartbeat))
        socket.set(zmq.HEARTBEAT_TIMEOUT, _milliseconds(options.silence))


def _tell_patience(socket: zmq.Socket[bytes], options: Options) -> None:
    """Have the other sides cut off a connection over which no PING comes any more.

    That costs them a timer for each connection.  So a bound port tells it its peers, who have one, and not they it.
    """
    if options.heartbeat < math.inf:
        socket.set(zmq.HEARTBEAT_TTL, min(_milliseconds(options.silence), 6_553_599))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _bind(socket: zmq.Socket[bytes], endpoint: str, options: Options) -> str:
    if endpoint == "inproc://*":
        endpoint = f"inproc://zmdp-{next(_inproc_names)}"
    _allow_ipv6(socket, endpoint)
    if options.heartbeat < math.inf:
        # Of what binds from now on: see `_silence`.
        watched = KNOWN and endpoint.startswith("tcp:")
        socket.set(zmq.HEARTBEAT_TIMEOUT, 0 if watched else _milliseconds(options.silence))
    with _translating(endpoint):
        _bind_patiently(socket, endpoint)
    bound = bytes(socket.get(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
    if endpoint == "ipc://*":
        # libzmq makes a folder where TMPDIR says, or else in the working folder, and names it relative to that.
        bound = "ipc://" + os.path.abspath(bound.removeprefix("ipc://"))
    return bound


def _bind_patiently(socket: zmq.Socket[bytes], endpoint: str) -> None:
    for patience in (0.005, 0.01, 0.02, None):
        try:
            if endpoint.startswith("ipc://"):
                _check_path(endpoint)
            socket.bind(endpoint)
            return
        except (zmq.ZMQError, OSError) as exc:
            if exc.errno != EADDRINUSE or patience is None:
                raise
            # Perhaps by a port that was closed just now: libzmq closes in threads of its own, a moment later.
            time.sleep(patience)


def _allow_ipv6(socket: zmq.Socket[bytes], endpoint: str) -> None:
    # Only where it was asked for: otherwise libzmq would look for `localhost` at ::1 alone.
    socket.set(zmq.IPV6, int("[" in endpoint))


def _check_path(endpoint: str) -> None:
    """Refuse a path that is taken: libzmq would delete whatever is there, also the socket of a live broker."""
    path = endpoint.removeprefix("ipc://")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(EEXIST, os.strerror(EEXIST))
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) not in (ECONNREFUSED, ENOENT):
            raise OSError(EADDRINUSE, os.strerror(EADDRINUSE))

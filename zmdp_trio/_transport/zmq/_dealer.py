"""A dialled port: one DEALER socket with one peer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from errno import EAGAIN, EINPROGRESS
from typing import Final

import trio
import zmq

from ..._wire.frames import Frame, Frames
from .._seam import DIALLED, Connected, Lost, PeerGone, Received
from ._context import SharedContext
from ._monitor import Monitor
from ._port import BY_REFERENCE, DONTWAIT, EVENTS, POLLOUT, ZmqPort

MONITORED: Final = int(
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
)


class DealerPort(ZmqPort):
    """The dialled side of a network."""

    __slots__ = ("_connected", "_events", "_lost", "_told")

    def __init__(
        self, shared: SharedContext, socket: zmq.Socket[bytes], monitor: Monitor, endpoints: tuple[str, ...]
    ) -> None:
        super().__init__(shared, socket, monitor, endpoints)
        self._connected = False
        #: Why the connection ended, and whether that was told.
        self._lost: Lost | None = None
        self._told = False
        #: What is to be told of the connection before the next message.
        self._events: list[Received] = []
        if endpoints[0].startswith("inproc:"):
            self._connect()  # nothing will tell, and messages wait for the other side to bind

    @trio.lowlevel.enable_ki_protection
    def receive(self) -> Sequence[Received]:
        received: list[Received] = []
        if self._monitor.news:
            self._read_monitor()
        if self._events:
            received, self._events = self._events, received
        self._take_all(received)
        if self._lost and not self._told:
            self._untold = bool(received)
            if not received:
                self._told = True
                received.append((DIALLED, self._lost))
                with suppress(zmq.ZMQError):  # there may be nothing left to disconnect
                    self._socket.disconnect(self._endpoints[0])
        return received

    def _ask_events(self) -> int:
        events = self._get(EVENTS)
        if self._refused and events & POLLOUT:
            self._refused = False
            self._nudge()
        return events

    def _take(self, received: list[Received]) -> int:
        recv = self._recv
        frame = recv(DONTWAIT, False)
        if not self._connected:
            self._connect()
            received += self._events
            self._events.clear()
        frames: Frames = [frame.bytes]
        received.append((DIALLED, frames))
        large = 0
        while frame.more:
            frame = recv(DONTWAIT, False)
            frames.append(frame.bytes)
            if len(frame) >= BY_REFERENCE:
                large += len(frame)
        return large

    def _connect(self) -> None:
        if not self._connected:
            self._connected = True
            self._events.append((DIALLED, Connected()))

    def _read_monitor(self) -> None:
        for event, value in self._monitor.drain():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connect()
            elif self._lost is None:
                self._lost = Lost(_reason(event, value))

    def _neighbour_closed(self, other: ZmqPort) -> None:
        if isinstance(other, DealerPort):
            return  # another one of those that dialled
        self._lost = self._lost or Lost("connection lost")
        self._nudge()

    @trio.lowlevel.enable_ki_protection
    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        if peer != DIALLED or self._lost:
            raise PeerGone(str(self._lost.reason) if self._lost else "a dialled port has only one peer")
        if not frames:
            raise ValueError("a message has at least one frame")
        if not self._connected:
            return False
        return self._offer(frames[0], frames[1:])


def _reason(event: int, value: int) -> str:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return f"handshake refused: not authorised (ZAP status {value})"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return f"handshake failed: the other side does not speak ZMTP as expected (error {value:#x})"
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        # libzmq tells the last errno that it saw; when time ran out, that is "nothing to read" or "not connected yet".
        if value in (EAGAIN, EINPROGRESS):
            return "handshake failed: no answer"
        return f"handshake failed: {os.strerror(value) if value else 'connection closed'}"
    if event == zmq.EVENT_CLOSED:
        return "connection refused"
    if event == zmq.EVENT_CONNECT_RETRIED:
        return "connection failed: the host can't be resolved"  # otherwise another event comes first
    return "connection lost"

"""A bound port: one ROUTER socket with many peers.

How the end of a peer's connection is noticed: the first message of a peer carries, as a property, the file descriptor
of its connection; the socket's monitor tells when the connection on a descriptor begins and ends.  Both come on
separate queues, and descriptors are reused at once, so the monitor is read before a new peer is entered:
what it said by then happened before that peer's connection, or is about it.
"""

from __future__ import annotations

import math
import select
from collections import deque
from collections.abc import Sequence
from errno import EHOSTUNREACH
from typing import Final, TypeAlias

import trio
import zmq

from ..._wire.frames import Frame, Frames
from .._seam import Lost, Options, PeerGone, Received
from ._context import SharedContext
from ._monitor import Monitor
from ._port import BY_REFERENCE, DONTWAIT, EVENTS, ZmqPort
from ._silence import KNOWN, cut, silence

MONITORED: Final = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
_ENDED: Final = Lost("connection lost")
#: Stands for the descriptor of a connection that has none.
_INPROC: Final = -1
_SRCFD: Final = int(zmq.SRCFD)
#: A descriptor, and the peers that are entered for it: by their list it is told from the next connection there.
Connection: TypeAlias = tuple[int, list[bytes]]
#: Rounds in each heartbeat interval in which connections are looked at, and how many in one go: half a millisecond's.
ROUNDS: Final = 4
AT_ONCE: Final = 128


class RouterPort(ZmqPort):
    """The bound side of a network."""

    __slots__ = ("_descriptors", "_ended", "_peers", "_rounds", "_signal", "_watch")

    def __init__(
        self,
        shared: SharedContext,
        socket: zmq.Socket[bytes],
        monitor: Monitor,
        endpoints: tuple[str, ...],
        options: Options,
    ) -> None:
        super().__init__(shared, socket, monitor, endpoints)
        #: The descriptor of each peer that has sent something.
        self._peers: dict[bytes, int] = {}
        #: The peers of each connection that stands: one, none before its first message, more while in doubt.
        self._descriptors: dict[int, list[bytes]] = {}
        #: Peers whose loss is told as soon as all their messages were.
        self._ended: dict[bytes, None] = {}
        self._signal = select.poll()
        self._signal.register(self._fd, select.POLLIN)
        #: The connections to look at in each of the next rounds, if the kernel is asked: see `_watch_silence`.
        self._rounds: deque[list[Connection]] = deque()
        self._watch = trio.CancelScope()
        if KNOWN and options.heartbeat < math.inf:
            self._rounds.extend([] for _ in range(ROUNDS * (options.misses + 1)))
            trio.lowlevel.spawn_system_task(self._watch_silence, options, name=f"watch silence at {self!r}")

    async def _watch_silence(self, options: Options) -> None:
        """Cut off the connections over which nothing came for too long, not even answers to libzmq's PINGs.

        One that brought something a while ago is not looked at before the rest of its time has passed.
        """
        interval = options.heartbeat / ROUNDS
        # As libzmq would: the last PING that was answered may be an interval old.
        patience = options.silence + options.heartbeat - interval
        with self._watch:
            while True:
                wanted = trio.current_time() + interval
                await trio.sleep_until(wanted)
                if trio.current_time() > wanted + options.heartbeat:
                    # We were stopped, and sent no PINGs; or blocked, and took nothing.  Whoever lives answers by then.
                    await trio.sleep(options.heartbeat)
                due = self._rounds.popleft()
                self._rounds.append([])
                for number, connection in enumerate(due, 1):
                    if self._closed:
                        return
                    left = self._look_at(connection, patience)
                    if left is not None:
                        later = min(math.ceil(left / interval), len(self._rounds))
                        self._rounds[later - 1].append(connection)
                    if number % AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()

    def _look_at(self, connection: Connection, patience: float) -> float | None:
        """Cut off a connection if it was silent for too long.

        Returns:
            The seconds for which it certainly need not be; None if it has ended, or is none of TCP.
        """
        descriptor, _ = connection
        if not self._stands(connection):
            return None
        try:
            left = patience - silence(descriptor)
            if left > 0:
                return left
            self._read_monitor()
            self._nudge()  # of what that told, `receive` is to hear
            # It may have ended, and the descriptor be somebody else's by now.
            if self._stands(connection) and silence(descriptor) >= patience:
                cut(descriptor)
        except OSError:
            return None
        return patience

    def _stands(self, connection: Connection) -> bool:
        descriptor, peers = connection
        return self._descriptors.get(descriptor) is peers

    def close(self) -> None:
        self._watch.cancel()
        super().close()

    @trio.lowlevel.enable_ki_protection
    def receive(self) -> Sequence[Received]:
        received: list[Received] = []
        if self._monitor.news:
            self._read_monitor()  # before EVENTS: then nothing that came before a loss is overlooked
        self._take_all(received)
        if self._ended and not received:
            received.extend((peer, _ENDED) for peer in self._ended)
            self._ended.clear()
        self._untold = bool(self._ended)
        return received

    def _ask_events(self) -> int:
        if self._refused and self._signal.poll(0):
            # Perhaps word that a full peer has room: the send that was refused need not have looked, for libzmq does
            # so once in a millisecond, and EVENTS are about to use it up.
            self._nudge()
        return self._get(EVENTS)

    def _take(self, received: list[Received]) -> int:
        recv = self._recv
        peer = recv(DONTWAIT)
        head = recv(DONTWAIT, False)
        if peer not in self._peers or (peer[0] and self._peers[peer] != _INPROC):
            # libzmq's own names start with zero and stand for one connection; a name that a peer chose may come back.
            self._enter(peer, head, received)
        frames: Frames = [head.bytes]
        received.append((peer, frames))
        if not head.more:
            return 0
        frame = recv(DONTWAIT, False)
        frames.append(frame.bytes)
        large = 0
        while frame.more:
            frame = recv(DONTWAIT, False)
            size = len(frame)
            if size < BY_REFERENCE:
                # Also because a small frame keeps the whole buffer alive that libzmq read it into.
                frames.append(frame.bytes)
            else:
                frames.append(frame)
                large += size
        return large

    def _enter(self, peer: bytes, head: zmq.Frame, received: list[Received]) -> None:
        """Note which connection a peer's message came on."""
        try:
            descriptor = head.get(_SRCFD)
        except zmq.ZMQError:
            if self._shared.has(peer):
                self._peers[peer] = _INPROC
            else:
                self._ended[peer] = None
            return
        self._read_monitor()
        if self._peers.get(peer) == descriptor:
            return
        if peer in self._ended and not peer[0]:
            return  # its last words: whose descriptor this is by now does not matter
        standing = self._descriptors.get(descriptor)
        if standing is None:
            self._ended[peer] = None  # the connection is over already
            return
        if peer in self._ended:
            del self._ended[peer]
            received.append((peer, _ENDED))
        # Somebody else may be entered here: one whose connection ended, and whose descriptor was used again, before we
        # had read its last message.  Which one is alive can't be told, so both count as such until the descriptor is
        # closed; libzmq itself tells whoever sends to the dead one.
        standing.append(peer)
        self._peers[peer] = descriptor

    def _read_monitor(self) -> None:
        for event, descriptor in self._monitor.drain():
            if event == zmq.EVENT_ACCEPTED:
                peers = self._descriptors[descriptor] = []
                if self._rounds:
                    self._rounds[-1].append((descriptor, peers))
            elif event == zmq.EVENT_DISCONNECTED:
                self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        for peer in self._descriptors.pop(descriptor, ()):
            if self._peers.get(peer) == descriptor:
                del self._peers[peer]
                self._ended[peer] = None

    def _neighbour_closed(self, other: ZmqPort) -> None:
        if self._peers.pop(other._name, None) is not None:
            self._ended[other._name] = None
            self._nudge()

    @trio.lowlevel.enable_ki_protection
    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        if not frames:
            raise ValueError("a message has at least one frame")
        if peer not in self._peers:
            raise PeerGone(f"no peer {peer.hex()!r}")
        try:
            return self._offer(peer, frames)
        except zmq.ZMQError as exc:
            if exc.errno == EHOSTUNREACH:
                raise PeerGone(f"peer {peer.hex()!r} can't be reached") from None
            raise

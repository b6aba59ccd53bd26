"""What bound and dialled ports have in common: waiting, waking, and closing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import trio
import zmq

from ..._wire.frames import Frame
from .._seam import Received
from ._context import SharedContext
from ._monitor import Monitor

#: Messages that one `receive` takes at most, so that a flood on one port does not starve the run's other tasks.
BATCH: Final = 256
#: Bytes of large frames after which `receive` takes no more.
BATCH_BYTES: Final = 8 * 2**20
#: Messages that have come alone, one after the other, after which the next one is taken to be alone as well.
ALONE: Final = 4
#: Bytes from which a frame that came is passed on as a `zmq.Frame`; a copy of less is cheaper.
BY_REFERENCE: Final = 32 * 2**10
#: Bytes from which a `bytes` object is lent to libzmq.  Getting it back costs 10 microseconds; a copy of this size is
#: fresh memory from the kernel, page by page, and cost up to 200.
LENT: Final = 128 * 2**10
#: Seconds after which a refused message is offered again without a sign from libzmq, see `ZmqPort._wait_for_room`: at
#: first, and at last, when there was nothing but refusals for half a second.
FIRST_RETRY: Final = 0.005
LAST_RETRY: Final = 0.25

# Plain integers and the C methods: pyzmq's enums and its Python layer cost more than libzmq itself.
DONTWAIT: Final = int(zmq.DONTWAIT)
DONTWAIT_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)


class ZmqPort:
    """One ZeroMQ socket and its monitor.

    libzmq's file descriptor is edge-triggered: it is readable from the moment that libzmq's threads have left word
    for the socket until the socket was next used or asked for its EVENTS, whatever there is to read then.  So a
    wait for it is safe only right after EVENTS were seen to be empty, which is what `settled` means.
    """

    __slots__ = (
        "_again",
        "_alone",
        "_closed",
        "_endpoints",
        "_fd",
        "_get",
        "_monitor",
        "_name",
        "_patience",
        "_quiet",
        "_recalled",
        "_recv",
        "_refused",
        "_retry",
        "_send",
        "_shared",
        "_socket",
        "_untold",
        "_woken",
    )

    def __init__(
        self, shared: SharedContext, socket: zmq.Socket[bytes], monitor: Monitor, endpoints: tuple[str, ...]
    ) -> None:
        self._shared = shared
        self._socket = socket
        self._monitor = monitor
        self._endpoints = endpoints
        self._fd = socket.fileno()
        raw: Any = super(zmq.Socket, socket)
        self._get: Callable[[int], int] = raw.get
        self._recv: Callable[..., Any] = raw.recv
        self._send: Callable[..., Any] = raw.send
        #: Whether `wait` is to return at once: at first, after a nudge, and where more messages are than were taken.
        self._again = True
        #: Whether `wait` has returned, and nothing was received since.
        self._woken = False
        #: How many messages in a row have come alone, as far as that matters.
        self._alone = 0
        #: Whether nothing was there to receive when we last looked, and nothing was sent since.
        self._quiet = False
        #: Whether the next `receive` has a loss to tell, whatever the socket says.
        self._untold = False
        #: Whether a send was refused since `wait` last returned.
        self._refused = False
        #: Seconds that `wait` would now take before it has a refused message offered again.
        self._retry = FIRST_RETRY
        #: Seconds that `wait` does take at most; 0 while nobody waits.
        self._patience = 0.0
        #: Whether `recall` was called since `wait` last returned.
        self._recalled = False
        self._closed = False
        #: What a peer calls us, if we chose that ourselves.
        self._name = bytes(socket.get(zmq.ROUTING_ID))
        shared.join(self)
        trio.lowlevel.spawn_system_task(monitor.watch, self._nudge, name=f"watch {self!r}")

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._endpoints

    async def wait(self) -> bool:
        if self._again or self._closed:
            await trio.lowlevel.checkpoint()
        else:
            try:
                if self._refused:
                    await self._wait_for_room()
                else:
                    self._patience = math.inf
                    await trio.lowlevel.wait_readable(self._fd)
            except trio.ClosedResourceError:
                pass  # a nudge, a recall, or the port was closed
            finally:
                self._patience = 0.0
        if self._closed:
            _refuse_closed()
        recalled, self._recalled = self._recalled, False
        if recalled and not self._again:
            return False
        self._again = self._refused = False
        self._woken = True
        return True

    async def _wait_for_room(self) -> None:
        # That a full peer of a ROUTER has room again can't be asked, only tried.  Mostly the descriptor tells; but if
        # EVENTS were read after the send that was refused, they may have swallowed the news.
        self._patience = self._retry
        with trio.move_on_after(self._retry) as scope:
            await trio.lowlevel.wait_readable(self._fd)
        if scope.cancelled_caught:
            self._retry = min(2 * self._retry, LAST_RETRY)

    def recall(self) -> None:
        if not self._closed:
            self._recalled = True
            trio.lowlevel.notify_closing(self._fd)

    def settled(self) -> bool:
        if self._untold:
            return False
        if not self._quiet and self._ask_events() & POLLIN:
            self._alone = 0
        else:
            self._quiet = True
        return self._quiet

    def _ask_events(self) -> int:
        """Return EVENTS; whatever they use up is minded."""
        raise NotImplementedError

    def _take_all(self, received: list[Received]) -> None:
        """Receive messages until there are none or they are many.

        EVENTS cost a system call or two, an empty recv() an exception, which is as much as two of them.  So where
        messages come alone, the one that woke us is received unasked, and whether there is another is left to
        `settled`, which most often has a send to mind as well.  Where not, EVENTS are asked while there may be one
        message or two, and only a longer row is read to its bitter end.
        """
        woken, self._woken = self._woken, False
        try:
            if woken and self._alone >= ALONE and not self._refused:
                self._take(received)
                self._quiet = False
                return
            self._quiet = not self._ask_events() & POLLIN
            if self._quiet:
                return
            self._take(received)
            self._quiet = not self._get(EVENTS) & POLLIN
            if self._quiet:
                self._alone += 1
            else:
                self._alone = 0
                self._take_batch(received)
        except zmq.Again:
            self._quiet = True

    def _take_batch(self, received: list[Received]) -> None:
        """Receive many messages, or until Again is raised."""
        large = 0
        for _ in range(BATCH - 1):
            large += self._take(received)
            if large > BATCH_BYTES:
                break
        self._again = True

    def _take(self, received: list[Received]) -> int:
        """Receive one message; return the bytes in its large frames.

        Raises:
            zmq.Again: there is none.
        """
        raise NotImplementedError

    def _offer(self, first: Frame, rest: Sequence[Frame]) -> bool:
        """Send a message, or tell that there is no room for it."""
        send = self._send
        self._quiet = False
        try:
            send(first, DONTWAIT_MORE if rest else DONTWAIT)
        except zmq.Again:
            self._refused = True
            if self._patience > self._retry:
                # Whoever waits would wait too long.
                self._nudge()
            return False
        self._retry = FIRST_RETRY
        if rest:
            # libzmq takes a message whole, with its first part: what follows can't be refused.
            for frame in rest[:-1]:
                send(frame, DONTWAIT_MORE, len(frame) < LENT or type(frame) is not bytes)
            frame = rest[-1]
            send(frame, DONTWAIT, len(frame) < LENT or type(frame) is not bytes)
        return True

    def _nudge(self) -> None:
        """Have `wait` return soon."""
        self._again = True
        # Wakes the task that waits for the descriptor, at no cost to the waits that are never disturbed.
        trio.lowlevel.notify_closing(self._fd)

    def _neighbour_closed(self, other: ZmqPort) -> None:
        """Take note that a port at one of our inproc endpoints is no more."""
        raise NotImplementedError

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._refused = False
        self._get = self._recv = self._send = _refuse_closed
        self._shared.part(self)
        trio.lowlevel.notify_closing(self._fd)
        self._monitor.close()
        self._socket.close()
        self._shared.release()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {' '.join(self._endpoints)} {state}>"


def _refuse_closed(*args: object) -> NoReturn:
    raise trio.ClosedResourceError("this port was closed")

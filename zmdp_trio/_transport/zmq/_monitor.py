"""What a socket's monitor tells: connections that began and ended, by file descriptor."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Final

import trio
import zmq

_EVENT: Final = struct.Struct("=HI")
_serial = itertools.count(1)


class Monitor:
    """The connection events of one socket, in order."""

    __slots__ = ("_fd", "_pair", "_watched", "news")

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], watched: zmq.Socket[bytes], events: int) -> None:
        address = f"inproc://zmdp-monitor-{next(_serial)}"
        self._watched = watched
        self._pair: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        # libzmq's I/O thread blocks, and every connection with it, while a monitor's queue is full.
        self._pair.set(zmq.RCVHWM, 0)
        self._pair.set(zmq.LINGER, 0)
        self._fd = self._pair.fileno()
        try:
            watched.monitor(address, events)
            self._pair.connect(address)
        except zmq.ZMQError:
            self._pair.close()  # the caller closes the watched socket, and with it the monitor
            raise
        #: Whether `drain` has something to give; kept by `watch`, so that a busy port need not ask.
        self.news = False

    async def watch(self, tell: Callable[[], None]) -> None:
        """Call `tell` when there is news, until `close`."""
        while not self._pair.closed:
            # Before the first wait, too: libzmq signals nothing to a socket that was never read.
            if not self.news and self._readable():
                self.news = True
                tell()
            with contextlib.suppress(trio.ClosedResourceError):  # `close` was called
                await trio.lowlevel.wait_readable(self._fd)

    def drain(self) -> Iterator[tuple[int, int]]:
        """Yield what happened since the last time: (event, value)."""
        self.news = False
        while self._readable():
            event, value = _EVENT.unpack(self._pair.recv(zmq.DONTWAIT))
            self._pair.recv(zmq.DONTWAIT)  # the endpoint, which for a bound socket is our own
            yield event, value

    def _readable(self) -> bool:
        return bool(int(self._pair.get(zmq.EVENTS)) & zmq.POLLIN)

    def close(self) -> None:
        """Stop; call it before the watched socket is closed."""
        trio.lowlevel.notify_closing(self._fd)
        # First the sending side: libzmq's I/O thread would block for ever on a monitor that has no reader.
        self._watched.disable_monitor()
        self._pair.close()

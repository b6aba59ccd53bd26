"""The one ZeroMQ context of a Trio run: made by its first port, ended after its last."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import trio
import zmq

if TYPE_CHECKING:
    from ._port import ZmqPort

#: Sockets that one context may hold; libzmq's own limit of 1023 is soon reached by a process full of clients.
_MAX_SOCKETS: Final = 16_384

#: File descriptors that libzmq needs to start its threads, and a few more.
_DESCRIPTORS: Final = 10

#: Bytes of freed memory that a process may keep: what one link's window holds.
KEPT: Final = 8 * 2**20

_current: trio.lowlevel.RunVar[SharedContext | None] = trio.lowlevel.RunVar("zmdp_zmq_context", None)


class SharedContext:
    """A context and the number of ports that use it."""

    __slots__ = ("_inproc", "_pid", "_users", "context")

    def __init__(self) -> None:
        _check_descriptors()
        keep_freed_memory()
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._pid = os.getpid()
        self._users = 0
        #: The ports at each inproc endpoint.  libzmq tells nobody when one of them closes, so we do.
        self._inproc: defaultdict[str, dict[ZmqPort, None]] = defaultdict(dict)

    @classmethod
    def acquire(cls) -> SharedContext:
        """Join the context of the running Trio run.

        Raises:
            RuntimeError: this is a forked child of the process that the run was started in.
            OSError: there are not enough file descriptors left.
        """
        shared = _current.get()
        if shared is None:
            shared = cls()
            _current.set(shared)
        if shared._pid != os.getpid():
            raise RuntimeError("ZeroMQ does not survive fork(): start a new Trio run, or a new process, instead")
        shared._users += 1
        return shared

    def release(self) -> None:
        """Leave the context; the last one to leave ends it, without waiting for it."""
        self._users -= 1
        if self._users or self._pid != os.getpid():
            return
        _current.set(None)
        # term() blocks until what was sent has left or its linger has passed.  Not a daemon: the interpreter waits
        # for it at exit, so a program's last message is not lost.
        threading.Thread(target=self.context.term, name="zmdp-zmq-term").start()

    def join(self, port: ZmqPort) -> None:
        """Have a port with inproc endpoints told when those that it is connected with close."""
        for endpoint in port.endpoints:
            if endpoint.startswith("inproc:"):
                self._inproc[endpoint][port] = None

    def has(self, name: bytes) -> bool:
        """Tell whether the inproc port of that name is still open."""
        return any(port._name == name for ports in self._inproc.values() for port in ports)

    def part(self, port: ZmqPort) -> None:
        """Tell those that a port is connected with through inproc endpoints that it closes."""
        for endpoint in port.endpoints:
            neighbours = self._inproc.get(endpoint)
            if neighbours is not None:
                neighbours.pop(port, None)
                for neighbour in neighbours:
                    neighbour._neighbour_closed(port)
                if not neighbours:
                    del self._inproc[endpoint]


def _check_descriptors() -> None:
    """Fail where libzmq would abort the process: it does when its threads' descriptors are not to be had."""
    with ExitStack() as opened:
        for _ in range(_DESCRIPTORS):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def keep_freed_memory() -> None:
    """Have the C library keep memory that large messages leave, for the next ones.

    glibc gives freed memory back to the kernel, to get it again page by page: some 10 of the 40 microseconds that a
    worker needed for 64 KiB.  How much it keeps follows from the largest block that was ever mapped and freed, see
    M_MMAP_THRESHOLD in mallopt(3): twice as much.  What is never touched costs nothing.
    """
    bytes(KEPT // 2)

"""A stream through a bare ROUTER, between two DEALERs that know it: blocking pyzmq, and not a look at what passes.

It queues up to HWM, and checks nothing.  Frames are copied, or lent by libzmq and to it, and HWM is, as was fastest
for it in a trial of each.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import zmq
from end import Figures, Tally, obey_in_turn, run, say, wait_for_end

MIB = 2**20


@attrs.frozen
class Way:
    """How chunks of some size pass fastest."""

    hwm: int
    #: Whether frames are copied out of, and into, libzmq's memory.
    produced_by_copy: bool
    relayed_by_copy: bool
    consumed_by_copy: bool

    @classmethod
    def of(cls, options: dict[str, Any]) -> Way:
        """Return what was fastest for chunks of the size that is asked for."""
        if options["size"] < 8192:
            return cls(1000, True, True, True)
        return cls(1000, False, False, True) if options["size"] < MIB else cls(16, False, False, False)

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        """Return a socket that queues as much."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        socket.set_hwm(self.hwm)
        return socket

    def dial(self, address: str, name: bytes) -> zmq.Socket[bytes]:
        """Return a DEALER that the relay knows by name."""
        socket = self.socket(zmq.DEALER)
        socket.set(zmq.ROUTING_ID, name)
        socket.connect(address)
        socket.send(b"hello")
        return socket


def for_ever(call: Callable[[], object]) -> None:
    """Run this in a thread until the benchmark is done with us."""
    threading.Thread(target=call, daemon=True).start()
    wait_for_end()
    os._exit(0)


def be_broker(options: dict[str, Any]) -> None:
    """Pass on what the producer sends."""
    way = Way.of(options)
    router = way.socket(zmq.ROUTER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    router.bind("tcp://127.0.0.1:*")
    say(address=router.getsockopt_string(zmq.LAST_ENDPOINT))

    def relay() -> None:
        peers = {router.recv_multipart()[0]}
        while len(peers) < 2:
            peers.add(router.recv_multipart()[0])
        router.send_multipart([b"producer", b"go"])
        recv, send, lent = router.recv, router.send, not way.relayed_by_copy
        while True:
            recv()
            if lent:
                frame = recv(copy=False)
                send(b"consumer", zmq.SNDMORE)
                send(frame, copy=False)
            else:
                chunk = recv()
                send(b"consumer", zmq.SNDMORE)
                send(chunk)

    for_ever(relay)


def be_worker(options: dict[str, Any]) -> None:
    """Be the producer."""
    way = Way.of(options)
    socket = way.dial(options["address"], b"producer")
    say(address=options["address"])

    def produce() -> None:
        socket.recv()
        chunk, send, copied = bytes(options["size"]), socket.send, way.produced_by_copy
        while True:
            send(chunk, 0, copied)

    for_ever(produce)


def be_client(options: dict[str, Any]) -> None:
    """Be the consumer."""
    way = Way.of(options)
    socket = way.dial(options["address"], b"consumer")
    say()

    def chunks() -> Iterator[object]:
        recv, lent = socket.recv, not way.consumed_by_copy
        while True:
            yield recv(copy=False) if lent else recv()

    def streams(seconds: float, size: int, go_on: bool) -> Figures:
        assert size == options["size"]
        tally = Tally(seconds)
        tally.read_and_block(chunks())
        return tally.figures()

    obey_in_turn(sys.stdin.readline, {"streams": streams})
    os._exit(0)


run({"broker": be_broker, "worker": be_worker, "client": be_client})

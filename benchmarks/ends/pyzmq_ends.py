"""What there is without a framework: an echo between bare pyzmq sockets, and zmq_proxy.

The sockets block, nothing is checked, and only the first frames say whose a message is.
"""

from __future__ import annotations

import os
import sys
import threading
from time import perf_counter
from typing import Any

import zmq
from end import Figures, Tally, obey_in_turn, run, say, wait_for_end

context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()


def bound(kind: int) -> tuple[zmq.Socket[bytes], str]:
    """Return a socket that listens, and where."""
    socket = context.socket(kind)
    socket.set_hwm(0)  # a ROUTER drops what is above the mark
    socket.bind("tcp://127.0.0.1:*")
    return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)


def echo(socket: zmq.Socket[bytes]) -> None:
    while True:
        socket.send_multipart(socket.recv_multipart())


def for_ever(call: Any, *args: Any) -> None:
    """Run this in a thread until the benchmark is done with us."""
    threading.Thread(target=call, args=args, daemon=True).start()
    wait_for_end()
    os._exit(0)


def be_broker(options: dict[str, Any]) -> None:
    """Be zmq_proxy, which is in C."""
    front, front_address = bound(zmq.ROUTER)
    back, back_address = bound(zmq.DEALER)
    say(address=front_address, back=back_address)
    for_ever(zmq.proxy, front, back)


def be_worker(options: dict[str, Any]) -> None:
    """Answer what comes through a proxy, or else clients that are connected here."""
    if "back" in options:
        socket, address = context.socket(zmq.DEALER), options["address"]
        socket.connect(options["back"])
    else:
        socket, address = bound(zmq.ROUTER)
    say(address=address)
    for_ever(echo, socket)


def be_client(options: dict[str, Any]) -> None:
    """Make requests; replies come in their order."""
    socket = context.socket(zmq.DEALER)
    socket.connect(options["address"])

    def requests(seconds: float, in_flight: int, size: int) -> Figures:
        payload = b"x" * size
        asked: list[float] = []
        tally = Tally(seconds)
        for _ in range(in_flight):
            asked.append(perf_counter())
            socket.send_multipart([payload])
        answered = 0
        while answered < len(asked):
            socket.recv_multipart()
            now = perf_counter()
            tally.latencies.append(now - asked[answered])
            answered += 1
            if now < tally.end:
                asked.append(now)
                socket.send_multipart([payload])
        return tally.figures()

    assert requests(0, 1, 5)["count"] == 1
    say()
    obey_in_turn(sys.stdin.readline, {"requests": requests})
    os._exit(0)


run({"broker": be_broker, "worker": be_worker, "client": be_client})

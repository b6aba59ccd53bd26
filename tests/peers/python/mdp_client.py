"""An MDP client, after the letter of RFC 7 or 18: one request at a time.  What the RFC does not allow ends it."""

from __future__ import annotations

import zmq
from lines import body_of, endpoint, options, orders, say, texts
from mdp import VERSIONS

VERSION = VERSIONS[options["version"]]


def request(socket: zmq.Socket[bytes], service: bytes, body: list[bytes]) -> None:
    # A REQ socket adds the empty frame by itself.
    socket.send_multipart([VERSION.client, *VERSION.client_request, service, *body])


def receive(socket: zmq.Socket[bytes], service: bytes) -> tuple[bool, list[bytes]]:
    """Return whether this was the last reply, and its body."""
    header, *rest = socket.recv_multipart()
    assert header == VERSION.client, header
    last = True
    if VERSION.client_final:
        command, *rest = rest
        assert command in (VERSION.client_partial, VERSION.client_final), command
        last = command == VERSION.client_final
    name, *body = rest
    assert name == service, name
    assert body
    return last, body


def main() -> None:
    socket = zmq.Context.instance().socket(zmq.REQ if VERSION.route else zmq.DEALER)
    socket.linger = 0
    socket.connect(endpoint)
    for order in orders():
        service = order["service"].encode()
        request(socket, service, body_of(order))
        last = False
        while not last:
            last, body = receive(socket, service)
            say(id=order["id"], event="final" if last else "partial", frames=texts(body))
    socket.close()


main()

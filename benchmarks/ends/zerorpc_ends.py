"""zerorpc on gevent: a server, and a client with greenlets; no broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
import zerorpc
from end import CHUNKS, Figures, Tally, obey_in_turn, run, say, spread, wait_for_end


class Services:
    """What the server offers."""

    def echo(self, payload: bytes) -> bytes:
        """Return what came."""
        return payload

    @zerorpc.stream  # type: ignore[untyped-decorator]
    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield chunks of so many bytes: the server serves nobody else if it is left in the middle of endless ones."""
        chunk = bytes(size)
        for _ in range(CHUNKS):
            yield chunk


def in_thread(call: Any) -> Any:
    """Let gevent go on while something blocks."""
    return gevent.get_hub().threadpool.apply(call)


def be_worker(options: dict[str, Any]) -> None:
    """Serve."""
    server = zerorpc.Server(Services())
    server.bind("tcp://127.0.0.1:*")
    (address,) = [endpoint.decode().rstrip("\0") for endpoint in [server._events._socket.LAST_ENDPOINT]]
    gevent.spawn(server.run)
    say(address=address)
    in_thread(wait_for_end)


def be_client(options: dict[str, Any]) -> None:
    """Make requests, as many clients."""
    clients = [zerorpc.Client(options["address"], timeout=60) for _ in range(options["clients"])]
    for client in clients:
        assert client.echo(b"hello") == b"hello"
    say()

    def requests(seconds: float, in_flight: int, size: int) -> Figures:
        payload = b"x" * size
        tally = Tally(seconds)
        askers = [
            gevent.spawn(tally.keep_asking_and_block, partial(client.echo, payload))
            for client in spread(in_flight, clients)
        ]
        gevent.joinall(askers, raise_error=True)
        return tally.figures()

    def streams(seconds: float, size: int, go_on: bool) -> Figures:
        tally = Tally(seconds)
        tally.read_to_the_end(lambda: clients[0].chunks(size))
        return tally.figures()

    obey_in_turn(lambda: in_thread(sys.stdin.readline), {"requests": requests, "streams": streams})


run({"worker": be_worker, "client": be_client})

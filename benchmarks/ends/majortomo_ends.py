"""majortomo: its broker, workers and clients, which block: each has a thread."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import zmq
from end import CHUNKS, Figures, Tally, obey_in_turn, run, say, spread, wait_for_end
from majortomo import Client, Worker
from majortomo.broker import Broker
from majortomo.worker import WorkerRequestsIterator

Frames = list[bytes]


def in_thread(call: Callable[[], object]) -> None:
    threading.Thread(target=call, daemon=True).start()


class TalkativeBroker(Broker):  # type: ignore[misc]
    """Says where it listens."""

    def bind(self) -> None:
        super().bind()
        say(address=self._socket.getsockopt_string(zmq.LAST_ENDPOINT))


def be_broker(options: dict[str, Any]) -> None:
    """Route requests."""
    in_thread(TalkativeBroker("tcp://127.0.0.1:*").run)
    wait_for_end()
    os._exit(0)


def be_worker(options: dict[str, Any]) -> None:
    """Serve, as many workers of each service."""
    for _ in range(options["workers"]):
        in_thread(lambda: serve(options["address"], "echo", lambda body: ([], body)))
    in_thread(lambda: serve(options["address"], "chunks", chunks))
    say(address=options["address"])
    wait_for_end()
    os._exit(0)


def serve(address: str, service: str, work: Callable[[Frames], tuple[Iterable[Frames], Frames]]) -> None:
    requests = WorkerRequestsIterator(Worker(address, service))
    for body in requests:
        partials, final = work(body)
        for each in partials:
            requests.send_reply_partial(each)
        requests.send_reply_final(final)


def chunks(body: Frames) -> tuple[Iterable[Frames], Frames]:
    chunk = [bytes(int(body[0]))]
    return (chunk for _ in range(CHUNKS - 1)), chunk


def be_client(options: dict[str, Any]) -> None:
    """Make requests, as many clients, which may have one request at a time."""
    clients: list[Any] = []

    def ask(client: Any, payload: bytes) -> Frames:
        client.send("echo", payload)
        frames: Frames = client.recv_all_as_list()
        return frames

    def more_clients(number: int) -> None:
        while len(clients) < number:
            client = Client(options["address"])
            client.connect()
            clients.append(client)
            assert ask(client, b"hello") == [b"hello"]

    def requests(seconds: float, in_flight: int, size: int) -> Figures:
        payload = b"x" * size
        more_clients(in_flight)
        with ThreadPoolExecutor(in_flight) as pool:
            tally = Tally(seconds)
            askers = [
                pool.submit(tally.keep_asking_and_block, partial(ask, client, payload))
                for client in spread(in_flight, clients[:in_flight])
            ]
        for each in askers:
            each.result()
        return tally.figures()

    def stream(size: int) -> Iterator[Frames]:
        clients[0].send("chunks", b"%d" % size)
        yield from clients[0].recv_all()

    def streams(seconds: float, size: int, go_on: bool) -> Figures:
        tally = Tally(seconds)
        tally.read_to_the_end(lambda: stream(size))
        return tally.figures()

    more_clients(options["clients"])
    say()
    obey_in_turn(sys.stdin.readline, {"requests": requests, "streams": streams})
    os._exit(0)


run({"broker": be_broker, "worker": be_worker, "client": be_client})

"""MDP workers, after the letter of RFC 7 or 18, one for each service, in a thread of its own.

They beat between requests, not while they work.  What the RFC does not allow ends the process.
"""

from __future__ import annotations

import os
import threading
import time
import traceback

import zmq
from lines import end_with_input, endpoint, options, say, texts
from mdp import VERSIONS
from work import KINDS

VERSION = VERSIONS[options["version"]]
HEARTBEAT = options.get("heartbeat", 2.5)
LIVENESS = 3


class Worker:
    def __init__(self, service: str, kind: str) -> None:
        self.service = service
        self.work = KINDS[kind]

    def run(self) -> None:
        while True:
            self.connect()
            self.serve()
            self.socket.close(linger=0)
            say(event="disconnect", service=self.service)

    def connect(self) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(endpoint)
        self.heard = False
        self.send(VERSION.ready, self.service.encode())

    def send(self, command: bytes, *frames: bytes) -> None:
        self.socket.send_multipart([*VERSION.route, VERSION.worker, command, *frames])
        self.next_beat = time.monotonic() + HEARTBEAT

    def serve(self) -> None:
        """Serve until the broker says DISCONNECT, or nothing for so long that it must be gone."""
        last_heard = time.monotonic()
        while time.monotonic() < last_heard + LIVENESS * HEARTBEAT:
            if self.socket.poll(max(0, int((self.next_beat - time.monotonic()) * 1000))):
                if not self.take(self.socket.recv_multipart()):
                    return
                last_heard = time.monotonic()
            if time.monotonic() >= self.next_beat:
                self.send(VERSION.heartbeat)

    def take(self, message: list[bytes]) -> bool:
        """Act on a message; return whether the connection goes on."""
        start = len(VERSION.route)
        assert tuple(message[:start]) == VERSION.route, message
        header, command, *rest = message[start:]
        assert header == VERSION.worker, header
        if not self.heard:
            self.heard = True
            say(event="connect", service=self.service)
        if command == VERSION.disconnect:
            return False
        if command == VERSION.request:
            client, empty, *body = rest
            assert empty == b""
            assert body
            self.answer(client, body)
        else:
            assert command == VERSION.heartbeat, command
            assert not rest
        return True

    def answer(self, client: bytes, body: list[bytes]) -> None:
        say(event="request", service=self.service, frames=texts(body))
        work = self.work(body)
        while True:
            try:
                partial = next(work)
            except StopIteration as end:
                self.send(VERSION.final, client, b"", *end.value)
                return
            if VERSION.partial:
                self.send(VERSION.partial, client, b"", *partial)


def run(worker: Worker) -> None:
    try:
        worker.run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


for service, kind in options["services"].items():
    threading.Thread(target=run, args=(Worker(service, kind),), daemon=True).start()
end_with_input()

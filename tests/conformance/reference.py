"""A small broker that keeps RFC 7, RFC 8, and RFC 18 to the letter, for the tests of the checks.

It is written from the texts alone and shares no code with the product but the transport, so that a mistake in the
product's codecs is not made here again.  What the tests spoil is a method of its own.
"""

from __future__ import annotations

import attrs
import trio

from zmdp_trio._transport import Lost, Options, PeerGone, Port, attend, listen

Message = list[bytes]

READY, REQUEST, PARTIAL, FINAL, HEARTBEAT, DISCONNECT = (
    "ready",
    "request",
    "partial",
    "final",
    "heartbeat",
    "disconnect",
)


@attrs.frozen(eq=False)
class Version:
    """One version of MDP: its headers, whether a message begins with an empty frame, and its workers' commands."""

    client: bytes
    worker: bytes
    envelope: tuple[bytes, ...]
    commands: dict[bytes, str]
    #: What stands between header and service on the client's side: for a request, and for replies.
    asking: tuple[bytes, ...]
    answering: dict[str, tuple[bytes, ...]]

    def byte(self, command: str) -> bytes:
        return next(byte for byte, name in self.commands.items() if name == command)


V01 = Version(
    b"MDPC01",
    b"MDPW01",
    (b"",),
    {b"\x01": READY, b"\x02": REQUEST, b"\x03": FINAL, b"\x04": HEARTBEAT, b"\x05": DISCONNECT},
    (),
    {FINAL: ()},
)
V02 = Version(
    b"MDPC02",
    b"MDPW02",
    (),
    {
        b"\x01": READY,
        b"\x02": REQUEST,
        b"\x03": PARTIAL,
        b"\x04": FINAL,
        b"\x05": HEARTBEAT,
        b"\x06": DISCONNECT,
    },
    (b"\x01",),
    {PARTIAL: (b"\x02",), FINAL: (b"\x03",)},
)


class Invalid(Exception):
    """A message is none."""


@attrs.define(eq=False)
class Waiting:
    """A request."""

    client: bytes
    version: Version
    service: bytes
    body: Message


@attrs.define(eq=False)
class Known:
    """A worker, registered or gone."""

    name: bytes
    version: Version
    service: bytes
    heard: float
    told: float
    work: Waiting | None = None
    gone: bool = False


class Broker:
    """A broker on one port."""

    versions = (V01, V02)
    misses: float = 4

    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        self.heartbeat = heartbeat
        self.port: Port = listen(*endpoints, options=Options())
        self.ended = trio.CancelScope()
        self.outbox: dict[bytes, list[Message]] = {}
        self.workers: dict[bytes, Known] = {}
        self.queues: dict[bytes, list[Waiting]] = {}

    async def run(self, *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self.ended:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(attend, self.port, self.turn)
                    task_status.started(self.port.endpoints)
                    while True:
                        await trio.sleep(self.heartbeat / 4)
                        self.tick()
                        self.turn()
        finally:
            self.port.close()

    def end(self) -> None:
        self.ended.cancel()

    # ---- the socket

    def turn(self) -> None:
        self.flush()
        while received := self.port.receive():
            for peer, what in received:
                if isinstance(what, list):
                    self.receive(peer, [bytes(frame) for frame in what])
                elif isinstance(what, Lost):
                    self.forget(peer)
            self.flush()

    def receive(self, peer: bytes, frames: Message) -> None:
        try:
            self.dispatch(peer, frames)
        except Invalid:
            self.invalid(peer)

    def send(self, peer: bytes, frames: Message) -> None:
        self.outbox.setdefault(peer, []).append(frames)

    def flush(self) -> None:
        for peer, messages in list(self.outbox.items()):
            try:
                while messages and self.port.send(peer, messages[0]):
                    del messages[0]
            except PeerGone:
                self.forget(peer)

    # ---- what comes

    def dispatch(self, peer: bytes, frames: Message) -> None:
        for version in self.versions:
            start = len(version.envelope)
            if tuple(frames[:start]) != version.envelope or len(frames) <= start:
                continue
            if frames[start] == version.client:
                return self.from_client(peer, version, frames[start + 1 :])
            if frames[start] == version.worker:
                return self.from_worker(peer, version, frames[start + 1 :])
        raise Invalid

    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        start = len(version.asking)
        if tuple(frames[:start]) != version.asking or len(frames) < start + 2:
            raise Invalid
        request = Waiting(peer, version, frames[start], frames[start + 1 :])
        self.check_name(request.service)
        if request.service.startswith(b"mmi."):
            self.to_client(request, FINAL, [self.inquire(request.service, request.body[0])])
        else:
            self.enqueue(request)
            self.hand_out(request.service)

    def enqueue(self, request: Waiting) -> None:
        self.queues.setdefault(request.service, []).append(request)

    def check_name(self, name: bytes) -> None:
        try:
            name.decode()
        except UnicodeDecodeError:
            raise Invalid from None

    def inquire(self, service: bytes, name: bytes) -> bytes:
        if service != b"mmi.service":
            return b"501"
        return b"200" if any(each.service == name and not each.gone for each in self.workers.values()) else b"404"

    def from_worker(self, peer: bytes, version: Version, frames: Message) -> None:
        command = version.commands.get(frames[0] if frames else b"", "")
        sizes = {READY: (2, 2), HEARTBEAT: (1, 1), DISCONNECT: (1, 1), FINAL: (4, 10**6), PARTIAL: (4, 10**6)}
        least, most = sizes.get(command, (1, 0))
        if not least <= len(frames) <= most or (command in (FINAL, PARTIAL) and frames[2] != b""):
            raise Invalid
        worker = self.workers.get(peer)
        if worker and worker.gone:
            return
        getattr(self, f"on_{command}")(peer, version, worker, frames[1:])

    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.check_name(rest[0])
        if worker or rest[0].startswith(b"mmi."):
            return self.unexpected(peer, version)
        now = trio.current_time()
        self.workers[peer] = Known(peer, version, rest[0], now, now)
        self.hand_out(rest[0])

    def on_partial(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.on_reply(peer, version, worker, rest, PARTIAL)

    def on_final(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.on_reply(peer, version, worker, rest, FINAL)

    def on_reply(self, peer: bytes, version: Version, worker: Known | None, rest: Message, kind: str) -> None:
        if worker is None or not self.holds(worker, rest[0]) or worker.work is None:
            return self.unexpected(peer, version)
        worker.heard = trio.current_time()
        self.to_client(worker.work, kind, rest[2:])
        if kind == FINAL:
            worker.work = None
            self.hand_out(worker.service)

    def holds(self, worker: Known, client: bytes) -> bool:
        return worker.work is not None and worker.work.client == client

    def on_heartbeat(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if worker is None:
            return self.unexpected(peer, version)
        worker.heard = trio.current_time()

    def on_disconnect(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.give_up(peer, version)

    # ---- what goes out

    def hand_out(self, service: bytes) -> None:
        queue = self.queues.get(service, [])
        free = [each for each in self.workers.values() if self.is_free(each) and each.service == service]
        for worker, request in zip(free, list(queue), strict=False):
            # Versions are kept apart, as the RFCs know nothing of each other.
            if worker.version is request.version:
                queue.remove(request)
                self.give(worker, request)

    def give(self, worker: Known, request: Waiting) -> None:
        worker.work = request
        self.to_worker(worker, REQUEST, [request.client, b"", *request.body])

    def is_free(self, worker: Known) -> bool:
        return not worker.gone and worker.work is None

    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        version = request.version
        prefix = [*version.envelope, version.client, *version.answering[kind]]
        self.send(request.client, [*prefix, request.service, *body])

    def to_worker(self, worker: Known, command: str, rest: Message) -> None:
        worker.told = trio.current_time()
        version = worker.version
        self.send(worker.name, [*version.envelope, version.worker, version.byte(command), *rest])

    def unexpected(self, peer: bytes, version: Version) -> None:
        self.to_worker(self.give_up(peer, version), DISCONNECT, [])

    def invalid(self, peer: bytes) -> None:
        worker = self.workers.get(peer)
        if worker and not worker.gone:
            self.give_up(peer, worker.version)

    def give_up(self, peer: bytes, version: Version) -> Known:
        """Remember a worker as gone, so that nothing more is taken from it, or sent to it."""
        now = trio.current_time()
        self.workers[peer] = Known(peer, version, b"", now, now, gone=True)
        return self.workers[peer]

    def forget(self, peer: bytes) -> None:
        self.workers.pop(peer, None)
        self.outbox.pop(peer, None)
        for queue in self.queues.values():
            queue[:] = [each for each in queue if each.client != peer]

    # ---- time

    def tick(self) -> None:
        now = trio.current_time()
        for worker in [each for each in self.workers.values() if not each.gone]:
            if now - worker.heard > self.misses * self.heartbeat:
                self.expire(worker)
            elif now - worker.told >= self.heartbeat:
                self.beat(worker)

    def expire(self, worker: Known) -> None:
        self.give_up(worker.name, worker.version)

    def beat(self, worker: Known) -> None:
        self.to_worker(worker, HEARTBEAT, [])

"""Write vectors.json: run it from the repository's root after a change of the protocol, and read the difference.

The messages of `valid` and `invalid` are packed here, by hand, and not by the code that they are to test; the
conversations are what the machines say.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "core"))

VECTORS = Path(__file__).with_name("vectors.json")
MAGIC = b"ZMDP\x01"


# ---- MessagePack, the least of it


def pack(value: Any) -> bytes:
    """Return the shortest form of a value."""
    if value is None or value is False or value is True:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return pack_int(value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        return head(len(value.encode()), 0xA0, 31, b"\xd9\xda\xdb") + value.encode()
    if isinstance(value, bytes):
        return head(len(value), 0, -1, b"\xc4\xc5\xc6") + value
    if isinstance(value, list):
        return head(len(value), 0x90, 15, b"\x00\xdc\xdd") + b"".join(map(pack, value))
    assert isinstance(value, dict)
    return head(len(value), 0x80, 15, b"\x00\xde\xdf") + b"".join(pack(each) for pair in value.items() for each in pair)


def pack_int(value: int) -> bytes:
    """Return the shortest form of a whole number."""
    if -32 <= value < 128:
        return struct.pack(">b" if value < 0 else ">B", value)
    for code, form in (("B", 0xCC), ("H", 0xCD), ("I", 0xCE), ("Q", 0xCF)):
        if 0 <= value < 256 ** struct.calcsize(">" + code):
            return bytes([form]) + struct.pack(">" + code, value)
    return b"\xd3" + struct.pack(">q", value)


def head(size: int, fix: int, most: int, forms: bytes) -> bytes:
    """Return what stands before the parts of a value."""
    if size <= most:
        return bytes([fix + size])
    if forms[0] and size < 2**8:
        return bytes([forms[0], size])
    return forms[1:2] + struct.pack(">H", size) if size < 2**16 else forms[2:3] + struct.pack(">I", size)


# ---- messages

#: A counted BATCH.
ONE = [0, 1, 0, False]
LIMITS = [64 * 2**20, 16 * 2**10, 255]
SESSION = bytes(range(16))


def message(*commands: Any, frames: tuple[bytes, ...] = ()) -> list[bytes]:
    """Return the frames that hold these commands."""
    return [MAGIC, pack(list(commands)), *frames]


def canonical() -> list[tuple[str, str, list[bytes]]]:
    """Messages as our peers send them."""
    hello = [1, 1, SESSION, "client", b"", LIMITS, 2.5, []]
    request = [4, 1, "echo", 0, b"hi", 64, 2**20, 30.0, 60.0, None, 0, None, None, "", b"", 0, ""]
    caller = bytes(range(16, 32))
    return [
        ("batch", "an acknowledgement alone: batches up to 7 have arrived", message([0, 0, 7, False])),
        ("batch-resend", "an acknowledgement that asks for batches after 7", message([0, 0, 7, True])),
        ("hello-client", "a client greets", message([0, 0, 0, False], [*hello, None])),
        (
            "hello-resume",
            "a client greets again, and has batches up to 5",
            message([0, 0, 5, False], [*hello[:4], b"epoch", *hello[5:], None]),
        ),
        (
            "hello-worker",
            "a worker greets, and offers two services",
            message([0, 0, 0, False], [*hello, [["echo", 100], ["count", 32]]]),
        ),
        ("hello-worker-drained", "a worker greets, and offers nothing", message([0, 0, 0, False], [*hello, []])),
        (
            "welcome",
            "a broker's answer",
            message([0, 0, 0, False], [2, 1, "broker", b"epoch", False, LIMITS, 2.5, ["a feature"]]),
        ),
        ("slots", "a lease is changed", message(ONE, [3, "echo", 5])),
        ("request", "a request with its body inline", message(ONE, request)),
        (
            "request-everything",
            "a request with every field in use, as a broker sends it to a worker",
            message(
                ONE,
                [
                    *(4, 2**62, "sum", 1, pack([1, 2]), 2**48, 2**48, 0.25, 5.0, {"h": "é"}, 3),
                    *("key", "worker", "client", caller, 2**62, "sum@^1.2"),
                ],
            ),
        ),
        (
            "request-out-of-band",
            "a request with a body above 8 KiB, in a frame of its own",
            message(ONE, [*request[:4], None, *request[5:]], frames=(b"a" * 8193,)),
        ),
        (
            "request-inline-most",
            "a body of 8 KiB goes inline",
            message(ONE, [*request[:4], b"a" * 8192, *request[5:]]),
        ),
        ("request-infinite", "no deadline, said by infinity", message(ONE, [*request[:7], math.inf, *request[8:]])),
        ("partial", "a partial reply", message(ONE, [5, 1, 0, b"part"])),
        ("partial-out-of-band", "a large partial reply", message(ONE, [5, 1, 0, None], frames=(b"b" * 9000,))),
        ("final", "the final reply, JSON", message(ONE, [6, 1, 2, b'{"a": 1}'])),
        ("final-empty", "the final reply, an empty body", message(ONE, [6, 1, 0, b""])),
        ("final-out-of-band", "a large final reply", message(ONE, [6, 1, 0, None], frames=(b"c" * 9000,))),
        (
            "error",
            "an error with details",
            message(ONE, [7, 1, "NOT_FOUND", "", "no such row", pack({"row": 7})]),
        ),
        ("error-plain", "an error without details", message(ONE, [7, 1, "UNAVAILABLE", "worker-lost", "gone", b""])),
        ("cancel", "the caller has left", message(ONE, [8, 1])),
        ("credit", "more partial replies may be sent", message(ONE, [9, 1, 32, 500_000, None])),
        ("credit-left", "and the deadline was moved", message(ONE, [9, 1, 0, 0, 12.5])),
        ("reject", "the wrong worker was asked", message(ONE, [10, 1])),
        ("heartbeat", "a sign of life of the session", message(ONE, [11, []])),
        (
            "heartbeat-held",
            "of three requests, one with its time left, one that has run again",
            message(ONE, [11, [[1, None, None], [2, 3.5, None], [3, None, 1]]]),
        ),
        ("drain", "no more requests, please", message(ONE, [12])),
        ("drained", "there will be none", message(ONE, [13])),
        ("goodbye", "a plain leave", message(ONE, [14, "", False])),
        ("goodbye-refused", "a peer is cut off", message([0, 0, 0, False], [14, "greet first", True])),
        ("wanted", "three requests wait for more slots than this worker leases", message(ONE, [18, "echo", 3])),
        (
            "claim",
            "a client claims a request of which it has three partial replies",
            message(ONE, [15, 7, "echo", 3, 61, 2**20 - 100, 12.5, None]),
        ),
        (
            "claim-key",
            "one with a key, of which it reads no partial replies",
            message(ONE, [15, 2**62, "echo", None, 64, 2**20, None, "key"]),
        ),
        (
            "holdings",
            "what a worker has: a request that runs; one of a version, with a key, that runs; one that ended 0.5 s ago",
            message(
                ONE,
                [
                    16,
                    [
                        [caller, 7, "echo", None, None, None, ""],
                        [caller, 8, "sum@^1.2", "key", [1, 3, 0x6C09FF9D], None, "sum@1.3.0"],
                        [caller, 9, "sum", "key 2", [0, 0, 0], 0.5, ""],
                    ],
                ],
            ),
        ),
        ("holdings-none", "nothing, which our workers leave unsaid", message(ONE, [16, []])),
        (
            "resume",
            "a worker is to go on with a request whose caller has three partial replies",
            message(ONE, [17, 12, caller, 7, 3, 61, 2**20 - 100, 12.5]),
        ),
        (
            "resume-outcome",
            "or to send its outcome only, without a deadline",
            message(ONE, [17, 13, caller, 8, None, 64, 2**20, None]),
        ),
        (
            "several",
            "a batch of several commands, with bodies inline and out of band in turn",
            message(
                [0, 300, 299, False],
                [5, 1, 0, b"small"],
                [5, 2, 0, None],
                [6, 1, 0, b""],
                [8, 9],
                [6, 2, 1, None],
                frames=(b"d" * 10_000, b"e" * 20_000),
            ),
        ),
    ]


def tolerated() -> list[tuple[str, str, list[bytes], int]]:
    """Messages that must be read, though our peers don't send them so; and how many commands are skipped."""
    batch = pack(ONE)
    return [
        ("unknown-tag", "a command of an unknown tag is skipped", message(ONE, [99, "new", {"a": [1]}], [8, 1]), 1),
        ("unknown-tags", "so are any others: below 0, large, without fields", message(ONE, [-1], [2**63, None]), 2),
        ("unknown-tag-first", "the BATCH is the first command that is known", message([99, 1], ONE), 1),
        (
            "unknown-extension",
            "an extension type, where it is skipped",
            [MAGIC, b"\x92" + batch + b"\x92\x63\xd4\x01\x00"],
            1,
        ),
        (
            "unknown-tag-with-nil",
            "a skipped command has no frames",
            message(ONE, [99, None], [6, 1, 0, None], frames=(b"x",)),
            1,
        ),
        (
            "missing-fields",
            "trailing fields are left out",
            message(
                [0, 1, 0],
                [4, 1, "echo", 0, b"", 1, 1],
                [7, 1, "INTERNAL", "", ""],
                [9, 1, 1, 1],
                [11],
                [14],
                [15, 1, "echo", 0, 1, 1],
                [17, 1, b"caller", 1, 0, 1, 1],
            ),
            0,
        ),
        ("missing-left", "in parts of a command, too", message(ONE, [11, [[1]]], [16, [[b"caller", 1, "echo"]]]), 0),
        (
            "extra-fields",
            "more fields than the table has are skipped",
            message(
                [*ONE, "new"],
                [8, 1, 2, 3],
                [12, None],
                [11, [[1, None, None, "new"]]],
                [16, [[b"caller", 1, "echo", None, None, None, "", "new"]], "new"],
            ),
            0,
        ),
        ("second-batch", "a BATCH further on means nothing", message(ONE, [0, 5, 5, True], [8, 1]), 0),
        (
            "integers-for-floats",
            "an integer will do for a float",
            message(ONE, [4, 1, "echo", 0, b"", 1, 1, 5, 60]),
            0,
        ),
        (
            "short-floats",
            "and 32 bits",
            [MAGIC, b"\x92" + batch + b"\x98\x04\x01\xa4echo\x00\xc4\x00\x01\x01\xca" + struct.pack(">f", 1.5)],
            0,
        ),
        ("long-integers", "integers longer than need be", [MAGIC, b"\x92" + batch + b"\x92\x08\xcd\x00\x01"], 0),
        (
            "repeated-header",
            "of two values of one header, the last counts",
            [MAGIC, b"\x92" + batch + b"\x9a\x04\x01\xa4echo\x00\xc4\x00\x01\x01\xc0\xc0\x82\xa1a\xa1b\xa1a\xa1c"],
            0,
        ),
        ("unknown-content", "any integer is a content type", message(ONE, [6, 1, -5, b"?"]), 0),
        ("small-out-of-band", "a small body in a frame of its own", message(ONE, [6, 1, 0, None], frames=(b"hi",)), 0),
        ("empty-out-of-band", "an empty one", message(ONE, [6, 1, 0, None], frames=(b"",)), 0),
        ("large-inline", "a large body inline", message(ONE, [6, 1, 0, b"f" * 9000]), 0),
    ]


def malformed() -> list[tuple[str, str, list[bytes]]]:
    """Messages that must be refused."""
    batch = pack(ONE)
    return [
        ("no-frames", "one empty frame", [b""]),
        ("one-frame", "frame 0 alone", [MAGIC]),
        ("other-magic", "another layout", [b"ZMDP\x02", pack([ONE])]),
        ("delimiter", "an empty frame first, as a REQ socket sends it", [b"", *message(ONE)]),
        ("empty-frame-1", "no MessagePack", [MAGIC, b""]),
        ("truncated", "half of it", [MAGIC, pack([ONE, [8, 1]])[:-1]]),
        ("trailing", "something behind the array", [MAGIC, pack([ONE]) + b"\xc0"]),
        ("not-an-array", "a map", [MAGIC, pack({})]),
        ("no-commands", "an empty array", message()),
        ("no-batch", "the first command is no BATCH", message([8, 1])),
        ("batch-second", "a BATCH behind another command", message([8, 1], ONE)),
        ("batch-too-short", "BATCH without `received`", message([0, 1])),
        ("command-no-array", "a command that is no array", message(ONE, 5)),
        ("command-empty", "a command without a tag", message(ONE, [])),
        ("tag-str", "a tag that is no integer", message(ONE, ["CANCEL", 1])),
        ("tag-float", "a tag that is a float", message(ONE, [8.0, 1])),
        ("missing-required", "a field without a default is missing", message(ONE, [9, 1, 1])),
        ("nil-for-int", "nil where the table has none", message(ONE, [8, None])),
        ("float-for-int", "a float for an integer", message(ONE, [8, 1.0])),
        ("bool-for-int", "true for an integer", message(ONE, [8, True])),
        ("int-for-bool", "1 for true", message([0, 1, 0, 1])),
        ("str-for-bin", "a str for a body", message(ONE, [6, 1, 0, "text"])),
        ("bin-for-str", "bin for a service's name", message(ONE, [3, b"echo", 1])),
        ("not-utf-8", "a str that is no UTF-8", [MAGIC, b"\x92" + batch + b"\x93\x03\xa1\xff\x01"]),
        ("negative-id", "an id below 0", message(ONE, [8, -1])),
        ("large-id", "an id above 2^62", message(ONE, [8, 2**62 + 1])),
        ("large-credit", "an amount above 2^48", message(ONE, [9, 1, 2**48 + 1, 0])),
        ("negative-time", "seconds below 0", message(ONE, [9, 1, 0, 0, -1.0])),
        ("nan-time", "seconds that are no number", message(ONE, [9, 1, 0, 0, math.nan])),
        ("nil-header", "a header without a value", message(ONE, [4, 1, "e", 0, b"", 1, 1, None, None, {"a": None}])),
        (
            "short-limits",
            "a part with too few fields",
            message([0, 0, 0], [1, 1, SESSION, "n", b"", [1, 2], 2.5, [], None]),
        ),
        ("short-payload", "a payload's mark of two numbers", message(ONE, [16, [[b"c", 1, "e", "k", [1, 2], None]]])),
        ("long-payload", "and of four", message(ONE, [16, [[b"c", 1, "e", "k", [1, 2, 3, 4], None]]])),
        ("payload-in-text", "and one that is text", message(ONE, [16, [[b"c", 1, "e", "k", ["1", "2", "3"], None]]])),
        ("negative-received", "a number of partial replies below 0", message(ONE, [15, 1, "echo", -1, 0, 0])),
        ("body-missing", "nil for a body, and no frame", message(ONE, [6, 1, 0, None])),
        ("frame-too-many", "a frame that no body refers to", message(ONE, [6, 1, 0, b""], frames=(b"x",))),
        ("good-then-bad", "one bad command spoils the message", message(ONE, [8, 1], [8])),
        ("unknown-then-bad", "also beside one that is skipped", message(ONE, [99], [8])),
        ("commands-too-large", "frame 1 above 1 MiB", [MAGIC, b"\x00" * (2**20 + 1)]),
    ]


# ---- conversations

Script = Callable[["Recorder"], None]


class Recorder:
    """Has machines talk, and takes it down."""

    def __init__(self, name: str, description: str, settings: dict[str, Any] | None = None) -> None:
        self.document: dict[str, Any] = {
            "name": name,
            "description": description,
            "settings": settings or {},
            "machines": {},
            "connections": {},
            "steps": [],
        }
        self.players: dict[str, Any] = {}

    def machine(self, name: str, **what: Any) -> None:
        self.document["machines"][name] = what

    def connect(self, at: float, peer: str, broker: str = "broker") -> str:
        connection = f"{peer}-{broker}-{len(self.document['connections']) + 1}"
        self.document["connections"][connection] = {"peer": peer, "broker": broker}
        self._event({"at": at, "event": "connected", "connection": connection}, peer)
        return connection

    def lose(self, at: float, connection: str) -> None:
        ends = self.document["connections"][connection]
        self._event({"at": at, "event": "lost", "connection": connection}, ends["peer"], ends["broker"])

    def time(self, at: float, machine: str) -> None:
        self._event({"at": at, "event": "time", "machine": machine}, machine)

    def _event(self, step: dict[str, Any], *machines: str) -> None:
        self.document["steps"].append(step)
        for machine in machines:
            if (player := self._player(machine)) is not None:
                player.event(step)
        self._run(step["at"])

    def say(self, at: float, connection: str, *commands: Any, by: str | None = None) -> None:
        by = by or self.document["connections"][connection]["peer"]
        self._player(by).act(connection, list(commands), at)
        self._run(at)

    def raw(self, at: float, connection: str, frames: list[bytes]) -> None:
        ends = self.document["connections"][connection]
        self._pass_on(at, connection, ends["peer"], ends["broker"], frames)
        self._run(at)

    def _player(self, name: str) -> Any:
        from test_protocol_vectors import Player

        if self.document["machines"][name]["role"] == "stranger":
            return None
        if name not in self.players:
            self.players[name] = Player(self.document, name)
        return self.players[name]

    def _run(self, at: float) -> None:
        moved = True
        while moved:
            moved = False
            for name, player in list(self.players.items()):
                for connection, queue in list(player.out.items()):
                    while queue:
                        ends = self.document["connections"][connection]
                        other = ends["peer"] if ends["broker"] == name else ends["broker"]
                        self._pass_on(at, connection, name, other, queue.popleft())
                        moved = True

    def _pass_on(self, at: float, connection: str, source: str, target: str, frames: list[bytes]) -> None:
        from test_protocol_vectors import bytes_to_json, command_to_json

        from zmdp_trio._errors import ProtocolError
        from zmdp_trio._wire import zmdp1

        step = {"at": at, "from": source, "to": target, "connection": connection}
        step["frames"] = [bytes_to_json(frame) for frame in frames]
        try:
            step["commands"] = [command_to_json(command) for command in zmdp1.decode(frames)[0]]
        except ProtocolError:
            pass
        self.document["steps"].append(step)
        if (player := self._player(target)) is not None:
            player.receive(step)


def conversations() -> list[dict[str, Any]]:
    """Have the machines talk about this and that."""
    from zmdp_trio._wire import commands as c

    def start(name: str, description: str, services: dict[str, int] | None = None, **settings: Any) -> Recorder:
        recorder = Recorder(name, description, settings)
        recorder.machine("broker", role="broker", epoch="0123456789abcdef")
        recorder.machine("client", role="client", session="c1" * 16)
        recorder.machine("worker", role="worker", session="d1" * 16, services=services or {"echo": 10})
        return recorder

    def request(id: int, service: str = "echo", body: bytes = b"hi", **fields: Any) -> c.Request:
        return c.Request(id, service, 0, body, 0, 0, **fields)

    done = []

    r = start("call", "greetings, a request, its partial and final replies, and goodbyes", credit_messages=2)
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1, left=30.0, timeout=60.0, headers={"traceparent": "00-0-0-00"}))
    r.say(1.1, worker, c.Partial(1, 0, b"one"), c.Partial(1, 0, b"two"))
    r.say(1.2, client, c.Credit(1, 0, 0))
    r.say(1.3, worker, c.Partial(1, 0, b"three"), c.Final(1, 1, b"\xc0"))
    r.say(1.4, client, c.Goodbye())
    r.say(1.5, worker, c.Goodbye())
    done.append(r.document)

    r = start(
        "cancel", "the caller leaves while the handler streams; the slot is free when the worker says so", {"echo": 1}
    )
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1), request(2))
    r.say(1.1, worker, c.Partial(1, 0, b"one"))
    r.say(1.2, client, c.Cancel(1))
    r.say(1.3, worker, c.Error(1, "CANCELLED", "cancelled", "cancelled"))
    r.say(1.4, client, c.Cancel(2))
    r.say(1.5, worker, c.Error(2, "CANCELLED", "cancelled", "cancelled"))
    done.append(r.document)

    r = start(
        "cancel-waiting", "a request that waits for a slot is dropped, and its worker never hears of it", {"echo": 1}
    )
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1), request(2))
    r.say(1.1, client, c.Cancel(2))
    r.say(1.2, worker, c.Final(1, 0, b"done"))
    done.append(r.document)

    r = start("reject", "one worker rejects a request, another one runs it; the next one is rejected by both")
    r.machine("worker2", role="worker", session="d2" * 16, services={"echo": 10})
    worker, worker2, client = r.connect(0.0, "worker"), r.connect(0.0, "worker2"), r.connect(0.1, "client")
    r.say(1.0, client, request(1))
    r.say(1.1, worker, c.Reject(1))
    r.say(1.2, worker2, c.Final(1, 0, b"done"))
    r.say(1.3, client, request(2))
    r.say(1.4, worker, c.Reject(2))
    r.say(1.5, worker2, c.Reject(2))
    done.append(r.document)

    r = start("errors", "an error of a handler, one of the broker, and a service that never appears")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(0.2, client, request(1), request(2, worker="nobody"), request(3, "nobody"))
    r.say(0.3, worker, c.Error(1, "NOT_FOUND", "", "no such row", pack({"row": 7})))
    r.time(1.2, "broker")
    done.append(r.document)

    services = {"files.*": 1, "calc@1.2.0": 1, "calc@1.3.0": 1}
    r = start("routing", "a wildcard, and the highest version with a free slot; a range that can't be read", services)
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(0.2, client, request(1, "files.read"), request(2, "calc@^1.2"), request(3, "calc@^1.2"))
    r.say(0.3, worker, c.Final(1, 0, b"a"), c.Final(2, 0, b"b"), c.Final(3, 0, b"c"))
    r.say(0.4, client, request(4, "calc@latest"))
    done.append(r.document)

    r = start("worker-lost", "a lost worker: one request may run again, the other may not")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1), request(2, retry=1))
    r.lose(1.1, worker)
    worker = r.connect(1.5, "worker")
    r.say(1.6, worker, c.Final(2, 0, b"done"))
    done.append(r.document)

    r = start("resume", "a client's connection is lost with replies on the way; it comes back and has them sent again")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1))
    r.say(1.1, worker, c.Partial(1, 0, b"one"))
    r.lose(1.2, client)
    r.say(1.3, worker, c.Partial(1, 0, b"two"))
    client = r.connect(1.4, "client")
    r.say(1.5, worker, c.Final(1, 0, b"done"))
    done.append(r.document)

    r = start("too-late", "a client comes back when the broker has forgotten it: a new session")
    client = r.connect(0.1, "client")
    r.lose(1.0, client)
    r.time(20.0, "broker")
    r.connect(20.1, "client")
    done.append(r.document)

    r = start("heartbeats", "time left, signs of life, and acknowledgements")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1, left=10.0))
    r.say(1.5, client, c.Heartbeat([c.Held(1, 20.0)]))
    r.say(2.0, worker, c.Heartbeat([c.Held(1)]))
    for at, machine in ((2.5, "broker"), (2.5, "worker"), (2.6, "client"), (5.0, "broker")):
        r.time(at, machine)
    done.append(r.document)

    r = start(
        "leases",
        "a second broker comes: the lease at the first one shrinks, and only then the second one gets its part",
    )
    r.machine("broker2", role="broker", epoch="fedcba9876543210")
    del r.document["machines"]["client"]
    r.connect(0.0, "worker")
    r.connect(1.0, "worker", "broker2")
    done.append(r.document)

    r = start("demand", "a broker without a slot asks for one, and gets the other's, which is idle", {"echo": 1})
    r.machine("broker2", role="broker", epoch="fedcba9876543210")
    r.connect(0.0, "worker")
    second, client = r.connect(0.1, "worker", "broker2"), r.connect(0.2, "client", "broker2")
    r.say(1.0, client, request(1))
    r.say(1.1, second, c.Final(1, 0, b"done"))
    done.append(r.document)

    r = start("drain", "a worker leaves in order: what was on the way is run")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1))
    r.say(1.1, worker, c.Drain())
    r.say(1.2, worker, c.Final(1, 0, b"done"))
    r.say(1.3, worker, c.Goodbye())
    done.append(r.document)

    r = start("broker-drain", "a broker that drains ends what it has, and refuses what is new")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1))
    r.say(1.1, client, c.Drain(), by="broker")
    r.say(1.2, client, request(2))
    r.say(1.3, worker, c.Final(1, 0, b"done"))
    done.append(r.document)

    r = start("large", "bodies out of band, in both directions")
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1, body=b"a" * 8193), request(2, body=b"small"), request(3, body=b"b" * 9000))
    r.say(1.1, worker, c.Final(3, 0, b"b" * 9000), c.Final(2, 0, b"small"), c.Final(1, 0, b"a" * 8193))
    done.append(r.document)

    r = start("key", "two clients ask with one key: one execution, whose end both get, and a third one later")
    r.machine("client2", role="client", session="c2" * 16)
    worker, client, client2 = r.connect(0.0, "worker"), r.connect(0.1, "client"), r.connect(0.1, "client2")
    r.say(1.0, client, request(1, key="k"))
    r.say(1.1, client2, request(1, key="k"))
    r.say(1.2, worker, c.Partial(1, 0, b"one"), c.Final(1, 0, b"done"))
    r.say(1.3, client2, request(2, key="k"))
    done.append(r.document)

    def restart(recorder: Recorder) -> None:
        """Start another broker in place of the one that was there: nobody hears from that one again."""
        recorder.machine("restarted", role="broker", epoch="fedcba9876543210", replaces="broker")

    r = start(
        "restart",
        "a broker is restarted with a reply on the way: the caller claims its request, the worker holds it and goes on",
    )
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(0.5, client, request(1))
    r.say(0.6, worker, c.Final(1, 0, b"done"))
    r.say(1.0, client, request(2, left=30.0))
    r.say(1.1, worker, c.Partial(2, 0, b"one"))
    r.lose(1.2, client)
    r.say(1.3, worker, c.Partial(2, 0, b"two"))
    r.lose(1.4, worker)
    restart(r)
    client = r.connect(2.0, "client", "restarted")
    worker = r.connect(2.1, "worker", "restarted")
    r.say(2.2, worker, c.Partial(1, 0, b"three"), c.Final(1, 0, b"done"))
    done.append(r.document)

    r = start("restart-lost", "no worker comes back with what is claimed: one request is lost, one runs again")
    r.machine("worker2", role="worker", session="d2" * 16, services={"echo": 10})
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1), request(2, retry=1))
    r.lose(1.1, client)
    r.lose(1.1, worker)
    restart(r)
    client = r.connect(2.0, "client", "restarted")
    worker2 = r.connect(2.1, "worker2", "restarted")
    r.time(12.0, "restarted")
    r.say(12.1, worker2, c.Final(1, 0, b"done"))
    done.append(r.document)

    r = start(
        "restart-key", "a worker still has the outcome of a key: others get it when its first caller had its time"
    )
    r.machine("client2", role="client", session="c2" * 16)
    worker, client = r.connect(0.0, "worker"), r.connect(0.1, "client")
    r.say(1.0, client, request(1, key="k"))
    r.say(1.5, worker, c.Partial(1, 0, b"one"), c.Final(1, 0, b"done"))
    r.lose(1.75, client)
    r.lose(1.75, worker)
    restart(r)
    worker = r.connect(2.0, "worker", "restarted")
    client2 = r.connect(2.1, "client2", "restarted")
    r.say(2.2, client2, request(1, key="k"))
    r.time(7.0, "restarted")
    done.append(r.document)

    hello = next(frames for name, _, frames in canonical() if name == "hello-client")
    for name, description, frames in (
        ("greet-first", "a command before the greeting", [message(ONE, [8, 1])]),
        (
            "short-session",
            "a session id of 15 bytes",
            [message([0, 0, 0], [1, 1, b"s" * 15, "n", b"", LIMITS, 2.5, [], None])],
        ),
        ("reserved-partial", "a partial reply from a client", [hello, message(ONE, [5, 1, 0, b""])]),
        ("twice", "two requests with one id", [hello, message(ONE, *[[4, 1, "echo", 0, b"", 1, 1]] * 2)]),
        ("false-acknowledgement", "more is acknowledged than was sent", [hello, message([0, 1, 5, False])]),
        ("unreadable", "a message that can't be read", [hello, [MAGIC, b"\xc1"]]),
    ):
        r = Recorder(f"breach-{name}", f"{description}: the peer is cut off")
        r.machine("broker", role="broker", epoch="0123456789abcdef")
        r.machine("stranger", role="stranger")
        r.document["breaches"] = {"broker": 1}
        stranger = r.connect(0.0, "stranger")
        for each in frames:
            r.raw(0.1, stranger, each)
        r.raw(0.2, stranger, hello)
        done.append(r.document)
    return done


def main() -> None:
    # The test reads the file when it is imported, so there has to be one.
    if not VECTORS.exists():
        VECTORS.write_text('{"valid": [], "invalid": [], "conversations": []}')
    from test_protocol_vectors import bytes_to_json, command_to_json

    from zmdp_trio._wire import zmdp1

    def row(name: str, description: str, frames: list[bytes]) -> dict[str, Any]:
        return {"name": name, "description": description, "frames": [bytes_to_json(frame) for frame in frames]}

    valid = []
    for name, description, frames, *skipped in [*canonical(), *tolerated()]:
        commands = [command_to_json(command) for command in zmdp1.decode(frames)[0]]
        extra = {"canonical": not skipped, "skipped": skipped[0] if skipped else 0, "commands": commands}
        valid.append(row(name, description, frames) | extra)
    document = {
        "about": [
            "ZMDP/1 test vectors: see ../protocol.md. Written by make_vectors.py.",
            "Bytes are hex, or {byte, times} where they are many and the same; in commands, {bin: hex}.",
            "valid: frames that decode to these commands, bodies put in; `skipped` counts unknown tags.",
            "canonical: our own encoder makes these frames of the commands. invalid: frames that must be refused.",
            "conversations: what each machine says when this happens; `at` is in seconds; `breaches` counts what each",
            "machine takes for an error of its peer; a broker that `replaces` another is started in its place.",
        ],
        "valid": valid,
        "invalid": [row(*each) for each in malformed()],
        "conversations": conversations(),
    }
    VECTORS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

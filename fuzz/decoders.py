"""Coverage-guided fuzzing of what reads bytes from the network: decoders of messages and payloads, and a broker.

    python -m fuzz.decoders [--seconds 60] [--corpus build/fuzz] [messages] [payloads] [broker] [majordomo]

It needs Atheris (the extra `fuzz`), which brings libFuzzer.  The corpus begins with the vectors of docs/protocol, or
with the golden frames of the older dialects, and grows from run to run.  An input is a byte that says how many frames
follow out of band, or how a payload is to be read, and then the bytes; for the older dialects it is the peer's name and
its frames, each behind its length.  What fails is written to the corpus's folder, and the exit code is not 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

from . import ROOT

# What is instrumented must be imported here first, not by the tests' own modules.
with atheris.instrument_imports(include=["zmdp_trio._wire", "zmdp_trio._payload", "zmdp_trio._core"]):
    from zmdp_trio import _payload
    from zmdp_trio._core.broker import BrokerMachine
    from zmdp_trio._errors import ProtocolError, RequestError
    from zmdp_trio._settings import DEFAULTS
    from zmdp_trio._wire import commands as c
    from zmdp_trio._wire import zmdp1

from fuzzing.frames import take
from golden import DETECTION, MALFORMED, VECTORS
from stage import check_counters

#: Bytes in the longest input that libFuzzer tries.
LONGEST = 4096


def read_message(data: bytes) -> None:
    """Whatever comes, it is a ProtocolError, or commands that come back as they went."""
    frames = [zmdp1.MAGIC, data[1:], *[b"a body"] * (data[0] % 4 if data else 0)]
    try:
        commands, skipped = zmdp1.decode(frames)
    except ProtocolError:
        return
    assert type(commands[0]) is c.Batch
    assert skipped >= 0
    again, none = zmdp1.decode(zmdp1.encode(commands[0], commands[1:]))
    assert again == commands
    assert none == 0


def read_payload(data: bytes) -> None:
    """Whatever comes, it is a value, or the error that a caller or a handler gets."""
    content = data[0] % 4 if data else 0
    with contextlib.suppress(ValueError):
        _payload.decode(content, data[1:])
    with contextlib.suppress(RequestError):
        _payload.decode_reply(content, data[1:], "service")


def read_as_broker(data: bytes) -> None:
    """Whatever a client, or a worker, says after its greeting, the broker goes on, and keeps count."""
    broker = BrokerMachine(name="fuzzed", epoch=b"epoch", settings=DEFAULTS)
    limits = c.Limits.of(DEFAULTS)
    frames = [zmdp1.MAGIC, data[1:], *[b"a body"] * (data[0] % 4 if data else 0)]
    for peer, offers in ((b"client", None), (b"worker", [c.Offer("echo", 2)])):
        hello = c.Hello(1, peer * 3, peer.decode(), b"", limits, 2.5, [], offers)
        broker.receive(peer, zmdp1.encode(c.Batch(0, 0), [hello]), now=0.0)
    for peer in (b"client", b"worker"):
        broker.receive(peer, list(frames), now=1.0)
    for now in (2.0, 100.0):
        broker.handle_timer(now=now)
        for link in broker.take_dirty():
            link.scheduled = False
            while link.peer is not None and link.next_batch() is not None:
                link.batch_sent()
        check_counters(broker)


def read_frames(data: bytes) -> None:
    """Whatever comes, it is a ProtocolError, or a message of an older dialect that comes back as it went."""
    identity, *frames = split(data) or [b""]
    take(frames, identity)


def split(data: bytes) -> list[bytes]:
    """Return frames that stand one after the other, each behind a byte with its length."""
    frames = []
    while data:
        end = 1 + data[0]
        frames.append(data[1:end])
        data = data[end:]
    return frames


def message_seeds() -> Iterator[bytes]:
    vectors = json.loads((ROOT / "docs" / "protocol" / "vectors.json").read_text())
    for vector in (*vectors["valid"], *vectors["invalid"]):
        frames = vector["frames"]
        # Frames that are written as a rule, not as bytes, are larger than what is tried here.
        if len(frames) > 1 and isinstance(frames[1], str) and len(frames[1]) < LONGEST:
            yield bytes([len(frames) - 2]) + bytes.fromhex(frames[1])


def payload_seeds() -> Iterator[bytes]:
    values: list[Any] = [None, True, -1, 1.5, "text", [1, [2]], {"a": {"b": None}}, 2**64 - 1, b"bytes"]
    for value in values:
        content, body = _payload.encode(value)
        yield bytes([content]) + bytes(body)
    yield bytes([c.Content.JSON]) + b'{"a": [1, 2.5, "text", null, true]}'


def frame_seeds() -> Iterator[bytes]:
    seeds = [(b"peer", vector.frames) for vector in (*VECTORS, *MALFORMED)]
    seeds += [(first.identity, first.frames) for first in DETECTION]
    for identity, frames in seeds:
        yield b"".join(bytes([len(frame)]) + frame for frame in (identity, *frames))


DECODERS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "messages": (read_message, message_seeds),
    "payloads": (read_payload, payload_seeds),
    "broker": (read_as_broker, message_seeds),
    "majordomo": (read_frames, frame_seeds),
}


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one decoder in this process, which libFuzzer ends."""
    read, seeds = DECODERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(seeds()):
        (folder / f"seed-{n}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], read)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each decoder")
    parser.add_argument("--corpus", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("decoders", nargs="*", metavar="decoder", help=" ".join(DECODERS))
    args = parser.parse_args()
    names = args.decoders or list(DECODERS)
    if unknown := set(names) - set(DECODERS):
        parser.error(f"no such decoder: {' '.join(unknown)}")
    if len(names) == 1:
        fuzz(names[0], args.seconds, args.corpus / names[0])
    common = [sys.executable, "-m", "fuzz.decoders", f"--seconds={args.seconds}", f"--corpus={args.corpus}"]
    return max(subprocess.run([*common, name], cwd=ROOT, check=False).returncode for name in names)


if __name__ == "__main__":
    sys.exit(main())

"""Streams of chunks of 16 bytes, one stream of 10,000 after the other."""

from __future__ import annotations

from case import Case, load

#: Who streams so that everything arrives: not PIGATO, which has no flow control.
STREAMERS = ("zmdp-trio", "grpc.aio", "zerorpc", "majortomo", "zmdp-trio, ipc", "zmdp-trio, inproc")

CASES = [
    Case(
        name="stream-16",
        title="a stream of chunks of 16 bytes",
        subjects={name: load(name, "streams", size=16) for name in STREAMERS},
        figure="per_second",
    )
]

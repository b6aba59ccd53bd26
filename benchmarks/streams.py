"""One stream, for as long as the turn lasts: chunks a second, and bytes."""

from __future__ import annotations

from case import Case, Target, load

#: Who streams so that everything arrives: not PIGATO, which has no flow control.
STREAMERS = ("zmdp-trio", "grpc.aio", "zerorpc", "majortomo", "zmdp-trio, ipc", "zmdp-trio, inproc")

CASES = [
    Case(
        name="stream-16",
        title="a stream of chunks of 16 bytes",
        subjects={name: load(name, "streams", size=16) for name in STREAMERS},
        figure="per_second",
        note="One stream for as long as the turn, with flow control on and all settings as they are; zerorpc and "
        "majortomo, which cannot leave a stream, read one of 10,000 chunks after the other.",
        targets=(Target("grpc.aio", at_least=10),),
    ),
    *(
        Case(
            name=name,
            title=f"a stream of chunks of {title}",
            subjects={
                each: load(each, "streams", system={"size": size}, size=size)
                for each in ("zmdp-trio", "bare relay", "grpc.aio")
            },
            figure="mib_per_second",
            note="The relay is a ROUTER between two DEALERs, three processes of blocking pyzmq, which queue up to HWM "
            "and check nothing; its frames are copied or lent, and its HWM is, as was fastest for it in a trial.",
            targets=(Target("bare relay", at_least=0.7),),
            beyond=1.5,
        )
        for name, title, size in (("bulk-64k", "64 KiB", 65_536), ("bulk-1m", "1 MiB", 2**20))
    ),
]

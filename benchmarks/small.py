"""Requests of 16 bytes, and what changes with their number in flight, their size, and the number of peers."""

from __future__ import annotations

from case import Case, Measure, Target, load

SIZE = 16

#: Who carries requests.
OVER_TCP = (
    "zmdp-trio",
    "nats-py",
    "nats-py, uvloop",
    "grpc.aio",
    "zerorpc",
    "PIGATO",
    "majortomo",
    "zmq_proxy",
    "zmq_proxy, pyzmq",
    "bare echo",
)

#: One machine, and nothing but ours.
NEARBY = ("zmdp-trio, ipc", "zmdp-trio, inproc")

#: By how much ours is to be ahead, with 100 requests in flight.
AHEAD_OF = {"nats-py": 1.2, "grpc.aio": 5, "zerorpc": 7, "PIGATO": 3}

#: Whom the plots show.
PLOTTED = ("zmdp-trio", "nats-py", "nats-py, uvloop", "grpc.aio", "zerorpc", "PIGATO", "zmq_proxy")

IN_FLIGHT = (3, 10, 30, 300, 1000)
SIZES = (1024, 8192, 65536)

#: One of each is what the case with 100 in flight has.
PEERS = (10, 100)


def requests(
    names: tuple[str, ...], in_flight: int, *, size: int = SIZE, peers: int | None = None
) -> dict[str, Measure]:
    system = {"clients": peers, "workers": peers} if peers else None
    return {name: load(name, "requests", system=system, in_flight=in_flight, size=size) for name in names}


CASES = [
    Case(
        name="requests-100",
        title="requests of 16 bytes, 100 in flight",
        subjects=requests(OVER_TCP + NEARBY, 100),
        figure="per_second",
        targets=tuple(Target(name, at_least=ratio) for name, ratio in AHEAD_OF.items()),
        plots={"in flight": 100, "size": SIZE, "peers": 1},
    ),
    Case(
        name="requests-1",
        title="requests of 16 bytes, one at a time",
        subjects=requests(OVER_TCP + NEARBY, 1),
        figure="p50_us",
        targets=(
            Target("nats-py", at_most=1.25),
            Target("zmdp-trio, ipc", at_least=1),
            Target("zmdp-trio, inproc", at_least=1),
        ),
        plots={"in flight": 1},
    ),
    *(
        Case(
            name=f"in-flight-{number}",
            title=f"requests of 16 bytes, {number} in flight",
            subjects=requests(PLOTTED, number),
            figure="per_second",
            seconds=0.4,
            rounds=2,
            plots={"in flight": number},
        )
        for number in IN_FLIGHT
    ),
    *(
        Case(
            name=f"size-{size}",
            title=f"requests of {size} bytes, 100 in flight",
            subjects=requests(PLOTTED, 100, size=size),
            figure="per_second",
            seconds=0.4,
            rounds=2,
            plots={"size": size},
        )
        for size in SIZES
    ),
    *(
        Case(
            name=f"peers-{number}",
            title=f"requests of 16 bytes, 100 in flight, {number} clients and {number} workers",
            subjects=requests(PLOTTED, 100, peers=number),
            figure="per_second",
            seconds=0.4,
            beyond=2.0,
            rounds=2,
            plots={"peers": number},
        )
        for number in PEERS
    ),
]

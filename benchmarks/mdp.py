"""What a request costs in the middle: over our own protocol, and over MDP 0.2, beside zmq_proxy and a bare pyzmq loop.

Over MDP 0.2 the ends are in C (ends/load.c), so whatever is in the middle is what is measured: each client has one
request outstanding.  CPU is what the process in the middle takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import trio
import zmq
from case import Case, Figures, Measure, Target, load
from peers import BUILD, OURS, Stage, compiled
from processes import answer, start

from zmdp_trio import open_broker

#: Clients, and workers.
ENDS = 100

#: Requests for each second that a turn is to last, which is about what it takes.
RATE = 20_000


async def broker_main(pipe: Connection) -> None:
    """Be our broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        pipe.send([broker.endpoints[0]])
        await answer(pipe)


def bound(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> tuple[zmq.Socket[bytes], str]:
    """Return a socket that listens, and where."""
    socket = context.socket(kind)
    socket.bind("tcp://127.0.0.1:*")
    return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)


async def in_thread(pipe: Connection, endpoints: list[str], loop: Callable[[], object]) -> None:
    """Run a loop that never ends beside what the benchmark asks."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: trio.to_thread.run_sync(loop, abandon_on_cancel=True))
        pipe.send(endpoints)
        await answer(pipe)
        nursery.cancel_scope.cancel()


async def bare_main(pipe: Connection) -> None:
    """Be the least that a broker for MDP 0.2 in Python can do: no heartbeats, no checks, one service."""
    router, endpoint = bound(zmq.Context(), zmq.ROUTER)

    def forward() -> None:
        idle: list[bytes] = []
        waiting: list[list[bytes]] = []
        while True:
            message = router.recv_multipart()
            if message[1] == b"MDPC02":
                waiting.append(message)
            elif message[2] == b"\x01":
                idle.append(message[0])
            elif message[2] == b"\x04":
                router.send_multipart([message[3], b"MDPC02", b"\x03", b"echo", *message[5:]])
                idle.append(message[0])
            while idle and waiting:
                request = waiting.pop()
                router.send_multipart([idle.pop(), b"MDPW02", b"\x02", request[0], b"", *request[4:]])

    await in_thread(pipe, [endpoint], forward)


async def proxy_main(pipe: Connection) -> None:
    """Be zmq_proxy."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    front, front_endpoint = bound(context, zmq.ROUTER)
    back, back_endpoint = bound(context, zmq.DEALER)
    await in_thread(pipe, [front_endpoint, back_endpoint], partial(zmq.proxy, front, back))


def through(main: Callable[..., Any], kind: str) -> Measure:
    """Return what runs the load through one of them, in a process of its own.

    Args:
        main: of the process in the middle; it says where it listens.
        kind: `mdp`, or `plain` for what does not read messages.
    """

    async def measure(stage: Stage, seconds: float) -> Figures:
        process = start(main)
        endpoints = await process.receive()
        before = await process.ask("cpu")
        requests = int(RATE * seconds)
        command = [str(BUILD / "load"), kind, *endpoints, str(ENDS), str(ENDS), str(requests)]
        run = await trio.run_process(command, capture_stdout=True)
        spent = await process.ask("cpu") - before
        process.pipe.close()
        figures: Figures = json.loads(run.stdout)
        figures["count"] = figures.pop("requests")
        return figures | {"broker_us": 1e6 * spent / requests}

    return measure


def middle(name: str, clients: int) -> Measure:
    """Return what keeps 100 requests in flight, of so many clients to as many workers."""
    system = {"clients": clients, "workers": clients}
    return load(name, "requests", system=system, in_flight=100, size=16)


CASES = [
    Case(
        name="broker-pipelined",
        title="CPU per request in the middle, 100 in flight: ours from one client, zmq_proxy's from a hundred",
        subjects={OURS: middle(OURS, 1), "zmq_proxy": through(proxy_main, "plain")},
        figure="broker_us",
        note="Over ZMDP/1, pipelined, beside zmq_proxy between a hundred clients in C with a request each and as many "
        "workers in C, where libzmq has nothing to batch. The next two cases have the same load at both.",
        targets=(Target("zmq_proxy", at_most=0.5),),
        beyond=2.0,
        needs=(compiled("load"),),
    ),
    *(
        Case(
            name=f"broker-{number}",
            title=f"CPU per request in the middle, 100 in flight, {peers}",
            note=note,
            subjects={name: middle(name, number) for name in (OURS, "zmq_proxy", "nats-py")},
            figure="broker_us",
            targets=(Target("zmq_proxy", at_most=0.5),),
            beyond=beyond,
        )
        for number, peers, note, beyond in (
            (
                1,
                "one client and one worker",
                "Over ZMDP/1, pipelined. zmq_proxy's ends are in C. Between two peers libzmq sends many small messages "
                "with one call, and zmq_proxy does not look at them.",
                1.4,
            ),
            (
                ENDS,
                f"{ENDS} clients and {ENDS} workers",
                "The same with a request of each client in flight, each client with a connection of its own, so that "
                "neither has much to batch.",
                3.0,
            ),
        )
    ),
    Case(
        name="mdp-100",
        title="MDP 0.2, 100 clients in C with a request each, 100 workers in C",
        subjects={
            OURS: through(broker_main, "mdp"),
            "bare pyzmq loop": through(bare_main, "mdp"),
            "zmq_proxy": through(proxy_main, "plain"),
        },
        figure="per_second",
        note="The ends are in C. The bare loop is pyzmq that forwards between clients and workers of one service, "
        "without heartbeats or checks; zmq_proxy routes nothing, and has ends that send as many frames.",
        targets=(Target("bare pyzmq loop", at_least=0.8),),
        beyond=2.5,
        needs=(compiled("load"),),
    ),
]

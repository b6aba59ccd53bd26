"""MDP 0.2 through our broker, beside a bare loop that only forwards, and zmq_proxy, which does not even route.

    python benchmarks/mdp.py [--rounds 5] [--requests 60000] [--workers 100] [--clients 100] [--json]

The ends are in C (ends/load.c): each client has one request outstanding.  The three take turns, round by round, since
figures depend on what else the machine does: compare the ratios.  CPU is user plus system time of the process in the
middle, divided by the requests.  Needs a C compiler and libzmq's headers (Debian: gcc and libzmq3-dev).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio
import zmq
from processes import Process, answer, start

from zmdp_trio import open_broker

ENDS = Path(__file__).parent / "ends" / "load.c"


async def broker_main(pipe: Connection) -> None:
    """Be our broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        pipe.send([broker.endpoints[0]])
        await answer(pipe)


def bound(context: zmq.Context[Any], kind: int) -> tuple[Any, str]:
    """Return a socket that listens, and where."""
    socket = context.socket(kind)
    socket.bind("tcp://127.0.0.1:*")
    return socket, socket.getsockopt(zmq.LAST_ENDPOINT).decode()


async def in_thread(pipe: Connection, endpoints: list[str], loop: Callable[[], None]) -> None:
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
    context: zmq.Context[Any] = zmq.Context()
    front, front_endpoint = bound(context, zmq.ROUTER)
    back, back_endpoint = bound(context, zmq.DEALER)
    await in_thread(pipe, [front_endpoint, back_endpoint], lambda: zmq.proxy(front, back))


MIDDLES: dict[str, tuple[Callable[..., Any], str]] = {
    "zmdp-trio": (broker_main, "mdp"),
    "bare loop": (bare_main, "mdp"),
    "zmq_proxy": (proxy_main, "plain"),
}


def build(folder: str) -> Path:
    """Compile the ends."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("no C compiler; on Debian: apt-get install gcc libzmq3-dev")
    program = Path(folder) / "load"
    built = subprocess.run([compiler, "-O2", "-o", program, ENDS, "-lzmq", "-lpthread"], capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"{built.stderr}\nDoes libzmq have its headers here?  On Debian: apt-get install gcc libzmq3-dev")
    return program


async def measure(program: Path, name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run the load through one of them, in a process of its own."""
    main, kind = MIDDLES[name]
    middle: Process = start(main)
    endpoints = await middle.receive()
    before = await middle.ask("cpu")
    numbers = [str(number) for number in (options.workers, options.clients, options.requests)]
    run = await trio.run_process([program, kind, *endpoints, *numbers], capture_stdout=True)
    spent = await middle.ask("cpu") - before
    middle.pipe.close()
    figures: dict[str, float] = json.loads(run.stdout)
    return figures | {"cpu_us": 1e6 * spent / options.requests}


async def main(options: argparse.Namespace) -> None:
    """Let them take turns, and compare."""
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        for number in range(options.rounds):
            rounds.append({})
            for name in MIDDLES:
                figures = rounds[-1][name] = await measure(program, name, options)
                if not options.json:
                    sys.stdout.write(f"round {number + 1}  {name:<10} {line(figures)}\n")
    ours = {
        name: [each["zmdp-trio"]["per_second"] / each[name]["per_second"] for each in rounds]
        for name in MIDDLES
        if name != "zmdp-trio"
    }
    if options.json:
        json.dump({"cpus": os.cpu_count(), "rounds": rounds, "ratios": ours}, sys.stdout)
        return
    for name, ratios in ours.items():
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        sys.stdout.write(f"zmdp-trio / {name}: median {statistics.median(ratios):.2f} ({spread})\n")


def line(figures: dict[str, float]) -> str:
    """Return figures for people."""
    rate, cpu, p50, p99 = (figures[key] for key in ("per_second", "cpu_us", "p50_us", "p99_us"))
    return f"{rate:>8,.0f}/s   p50 {p50:>6,.0f} us, p99 {p99:>6,.0f} us   CPU {cpu:.1f} us per request"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn")
    parser.add_argument("--requests", type=int, default=60_000, help="requests in each turn")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    trio.run(main, parser.parse_args())

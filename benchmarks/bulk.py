"""One stream: chunks a second beside grpc.aio, and bytes a second beside a bare relay that only forwards frames.

    python benchmarks/bulk.py [--rounds 5] [--seconds 1] [--sizes 16 65536 1048576] [--json]

Ours has client, broker, and worker in a process each, over tcp, with every setting as it is: its flow control is on.
The relay is a ROUTER between two DEALERs, three processes of blocking pyzmq, which queue up to HWM and check nothing;
its frames are copied or lent, and its HWM is, as was fastest for it in a trial of each.  grpc.aio has no broker.  All
take turns, round by round.  CPU is that of all processes of a subject (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import attrs
import case
import trio
import zmq
from processes import Process, start
from rounds import Figures, Measure, machine, ratios, shown, spread, take_turns

from zmdp_trio import open_broker, open_client, open_worker, service

OURS, RELAY, GRPC = "zmdp-trio", "bare relay", "grpc.aio"
#: Seconds that a stream runs before it is measured.
WARM_UP = 0.4
MIB = 2**20


@attrs.frozen
class Way:
    """How the relay does its best with chunks of some size."""

    hwm: int
    #: Whether frames are copied out of, and into, libzmq's memory.
    produced_by_copy: bool
    relayed_by_copy: bool
    consumed_by_copy: bool

    @classmethod
    def for_chunks(cls, size: int) -> Way:
        """Return what was fastest for chunks of this size."""
        if size < 8192:
            return cls(1000, True, True, True)
        return cls(1000, False, False, True) if size < MIB else cls(16, False, False, False)


# ---- what is measured, in processes of their own


@service("chunks")
async def chunks(size: int) -> AsyncIterator[bytes]:
    """Yield chunks without end."""
    chunk = bytes(size)
    while True:
        yield chunk


async def broker_main(pipe: Connection) -> None:
    """Be our broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        pipe.send(broker.endpoints[0])
        await trio.sleep_forever()


async def worker_main(pipe: Connection, endpoint: str) -> None:
    """Be our worker."""
    async with open_worker([chunks], endpoint) as worker:
        await worker.wait_welcomed()
        pipe.send("ready")
        await trio.sleep_forever()


async def client_main(pipe: Connection, endpoint: str, size: int, seconds: float) -> None:
    """Be our client: tell when the stream is warm, and how many chunks came in how many seconds."""
    async with open_client(endpoint) as client, client.stream("chunks", size) as stream:
        count, warm = 0, time.perf_counter() + WARM_UP
        async for _ in stream:
            count += 1
            if (now := time.perf_counter()) >= warm:
                break
        pipe.send("warm")
        count, begun = 0, now
        async for _ in stream:
            count += 1
            if (now := time.perf_counter()) >= begun + seconds:
                break
        pipe.send((count, now - begun))
        await trio.sleep_forever()


def dial(endpoint: str, name: bytes, way: Way) -> zmq.Socket[bytes]:
    """Return a DEALER that the relay knows by name."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.set(zmq.ROUTING_ID, name)
    limit(socket, way)
    socket.connect(endpoint)
    socket.send(b"hello")
    return socket


def limit(socket: zmq.Socket[bytes], way: Way) -> None:
    socket.set(zmq.SNDHWM, way.hwm)
    socket.set(zmq.RCVHWM, way.hwm)


async def relay_main(pipe: Connection, way: Way) -> None:
    """Pass on what comes, until we are killed."""
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    limit(router, way)
    router.bind("tcp://127.0.0.1:*")
    pipe.send(router.get(zmq.LAST_ENDPOINT).decode().rstrip("\0"))
    peers = {router.recv_multipart()[0]}
    while len(peers) < 2:
        peers.add(router.recv_multipart()[0])
    router.send_multipart([b"producer", b"go"])
    recv, send, copy = router.recv, router.send, way.relayed_by_copy
    while True:
        recv()
        frame = recv(copy=copy)
        send(b"consumer", zmq.SNDMORE)
        send(frame, copy=copy)


async def producer_main(pipe: Connection, endpoint: str, size: int, way: Way) -> None:
    """Send chunks, until we are killed."""
    socket = dial(endpoint, b"producer", way)
    socket.recv()
    chunk, send, copy = bytes(size), socket.send, way.produced_by_copy
    while True:
        send(chunk, copy=copy)


async def consumer_main(pipe: Connection, endpoint: str, way: Way, seconds: float) -> None:
    """Be for the relay what `client_main` is for us."""
    socket = dial(endpoint, b"consumer", way)
    recv, copy = socket.recv, way.consumed_by_copy
    warm = time.perf_counter() + WARM_UP
    while (now := time.perf_counter()) < warm:
        recv(copy=copy)
    pipe.send("warm")
    count, begun = 0, now
    while (now := time.perf_counter()) < begun + seconds:
        recv(copy=copy)
        count += 1
    pipe.send((count, now - begun))
    await trio.sleep_forever()


async def grpc_server_main(pipe: Connection) -> None:
    """Be grpc.aio's server, of bytes as they are."""
    import grpc

    async def produce(request: bytes, context: Any) -> AsyncIterator[bytes]:
        chunk = bytes(int(request))
        while True:
            yield chunk

    async def serve() -> None:
        server = grpc.aio.server()
        handlers = {"chunks": grpc.unary_stream_rpc_method_handler(produce)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(serve())


async def grpc_client_main(pipe: Connection, address: str, size: int, seconds: float) -> None:
    """Be for grpc.aio what `client_main` is for us."""
    import grpc

    async def read() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_stream("/bench/chunks")(b"%d" % size)
            warm = time.perf_counter() + WARM_UP
            async for _ in call:
                if (now := time.perf_counter()) >= warm:
                    break
            pipe.send("warm")
            count, begun = 0, now
            async for _ in call:
                count += 1
                if (now := time.perf_counter()) >= begun + seconds:
                    break
            pipe.send((count, now - begun))

    asyncio.run(read())
    await trio.sleep_forever()


# ---- measuring


@contextmanager
def running() -> Iterator[list[Process]]:
    """Provide a list of processes, which are killed at the end."""
    processes: list[Process] = []
    try:
        yield processes
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)


async def ours(size: int, seconds: float) -> Figures:
    """Measure one stream of ours."""
    with running() as processes:
        processes.append(start(broker_main))
        endpoint = await processes[0].receive()
        processes.append(start(worker_main, endpoint))
        await processes[1].receive()
        processes.append(start(client_main, endpoint, size, seconds))
        return await figures_of(processes, size)


async def relay(size: int, seconds: float) -> Figures:
    """Measure the relay."""
    way = Way.for_chunks(size)
    with running() as processes:
        processes.append(start(relay_main, way))
        endpoint = await processes[0].receive()
        processes.append(start(producer_main, endpoint, size, way))
        processes.append(start(consumer_main, endpoint, way, seconds))
        return await figures_of(processes, size)


async def grpc_aio(size: int, seconds: float) -> Figures:
    """Measure grpc.aio."""
    with running() as processes:
        processes.append(start(grpc_server_main))
        address = await processes[0].receive()
        processes.append(start(grpc_client_main, address, size, seconds))
        return await figures_of(processes, size)


async def figures_of(processes: list[Process], size: int) -> Figures:
    """Return what the last process finds, and the CPU of all meanwhile."""
    await processes[-1].receive()
    before = sum(map(cpu_seconds, processes))
    count, seconds = await processes[-1].receive()
    spent = sum(map(cpu_seconds, processes)) - before
    return {
        "per_second": count / seconds,
        "mib_per_second": count / seconds * size / MIB,
        "cpu_us": 1e6 * spent / count,
    }


def cpu_seconds(process: Process) -> float:
    """CPU that a process has used: Linux has a clock for each, see clock_getcpuclockid(3)."""
    return time.clock_gettime(~process.pid << 3 | 2)


async def main(options: argparse.Namespace) -> None:
    """Let them take turns with chunks of each size, and compare."""
    tell = (lambda line: None) if options.json else sys.stdout.write
    measures = {OURS: ours, RELAY: relay}
    if importlib.util.find_spec("grpc") is not None:
        measures[GRPC] = grpc_aio
    results = {}
    for size in options.sizes:
        tell(f"chunks of {size:,} bytes\n")
        subjects: dict[str, Measure] = {
            name: functools.partial(measure, size, options.seconds) for name, measure in measures.items()
        }
        rounds = await take_turns(subjects, options.rounds, tell)
        rates = {name: spread([each[name]["per_second"] for each in rounds]) for name in subjects}
        compared = ratios(rounds, "per_second", OURS)
        results[size] = {"rounds": rounds, "per_second": rates, "ratios": compared}
        for name, rate in rates.items():
            tell(f"{name:<14} {shown(rate)} chunks a second\n")
        for name, ratio in compared.items():
            tell(f"{OURS} / {name}: {shown(ratio)}\n")
    if options.json:
        json.dump(machine() | {"sizes": results}, sys.stdout)


def turn(measure: Callable[[int, float], Awaitable[Figures]], size: int) -> case.Measure:
    """Return what takes a turn in `make bench`."""
    return lambda stage, seconds: measure(size, seconds)


CASES = [
    case.Case(
        name=name,
        title=f"a stream of chunks of {title}",
        subjects={OURS: turn(ours, size), RELAY: turn(relay, size), GRPC: turn(grpc_aio, size)},
        figure="mib_per_second",
    )
    for name, title, size in (("bulk-64k", "64 KiB", 65_536), ("bulk-1m", "1 MiB", MIB))
]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each turn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 65_536, MIB], help="bytes in a chunk")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    trio.run(main, parser.parse_args())

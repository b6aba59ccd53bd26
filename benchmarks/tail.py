"""The tail of small requests: at half of our top rate, and, at a lower rate, beside a stream of 64 KiB chunks.

The load is open: requests are due at even intervals, whether earlier ones were answered or not, and a latency runs
from the moment that its request was due.  A pacemaker, a process of its own, says when, at most 2,000 times a second:
at higher rates several requests are due at one word, and count from their own moments still, so what they wait for it,
0.25 ms in the mean, is in the figures.  The stream goes from the worker that answers the requests, through the broker
or the proxy, to a reader in a process of its own: either at a rate that is the same for both, or as fast as it goes.
zmq_proxy's ends are loops on bare pyzmq sockets, with HWM as it is by default; ours have every setting as it is.  The
top rate is that of 100 requests in flight.  Every process calls `gc.freeze` when it is set up, as `zmdp broker` and
`zmdp worker` do: otherwise a full collection, now and then, looks at all that was imported, for some 30 ms.
"""

from __future__ import annotations

import gc
import os
import signal
import statistics
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import trio
import zmq
from case import Case, Figures, Measure, Target
from peers import OURS, Stage
from processes import Process, start

from zmdp_trio import Client, open_broker, open_client, open_worker, service

PROXY = "zmq_proxy"
#: Requests a second beside the streams, and chunks a second of the paced one.
BESIDE, CHUNKS = 2000.0, 1000.0
CHUNK = bytes(65_536)
#: Stands for a stream without pace.
AS_FAST_AS_IT_GOES = 0.0
#: Seconds between two words of the pacemaker's at least, as in `zmdp bench`.  With a word for each of 29,000 requests a
#: second, pacemaker and client took so much of two cores (175 percent were busy, 140 are with this) that the median was
#: 2.0 ms instead of 1.5.
BURST = 0.0005
#: Requests in flight while the top rate is found.
IN_FLIGHT = 100
#: Seconds before anything is measured.
WARM_UP = 0.3
NUMBER = struct.Struct("d")
#: 16 bytes: when a request was due, for the proxy's client to know.
PAYLOAD = struct.Struct("d8x")


# ---- the pacemaker


async def pacemaker_main(pipe: Connection, fifo: str, rate: float, count: int) -> None:
    """Say when the first request is due, and write a byte for each that is."""
    out = os.open(fifo, os.O_WRONLY)
    begin = time.perf_counter() + 0.05
    os.write(out, NUMBER.pack(begin))
    written, now = 0, 0.0
    while written < count:
        moment = max(begin + written / rate, now + BURST)
        time.sleep(max(0.0, moment - time.perf_counter()))  # noqa: ASYNC251  it is alone
        now = time.perf_counter()
        due = min(int((now - begin) * rate) + 1, count)
        if due > written:
            os.write(out, bytes(due - written))
            written = due
    await trio.sleep_forever()


def hear_pacemaker(fifo: str) -> int:
    """Return a descriptor that is readable when requests are due; it stays open when the pacemaker ends."""
    return os.open(fifo, os.O_RDWR | os.O_NONBLOCK)


# ---- ours


@service("echo")
async def echo(payload: bytes) -> bytes:
    """Return what came."""
    return payload


@service("chunks")
async def chunks(rate: float) -> AsyncIterator[bytes]:
    """Yield chunks without end, so many a second."""
    begin, sent = trio.current_time(), 0
    while True:
        if rate:
            await trio.sleep_until(begin + sent / rate)
        yield CHUNK
        sent += 1


async def broker_main(pipe: Connection) -> None:
    """Be our broker."""
    async with open_broker("tcp://127.0.0.1:*") as broker:
        gc.freeze()
        pipe.send((broker.endpoints[0], broker.endpoints[0]))
        await trio.sleep_forever()


async def worker_main(pipe: Connection, endpoint: str) -> None:
    """Be our worker."""
    async with open_worker([echo, chunks], endpoint) as worker:
        await worker.wait_welcomed()
        gc.freeze()
        pipe.send("ready")
        await trio.sleep_forever()


async def client_main(pipe: Connection, endpoint: str, fifo: str) -> None:
    """Be our client: obey `top` and `paced`."""
    async with open_client(endpoint) as client:
        await client.request("echo", bytes(16))
        gc.freeze()
        pipe.send("ready")
        due = hear_pacemaker(fifo)
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            order, *arguments = pipe.recv()
            if order == "top":
                pipe.send(await find_top_rate(client, *arguments))
            else:
                pipe.send(await ask_when_due(client, due, *arguments))


async def find_top_rate(client: Client, seconds: float) -> float:
    """Return how many requests a second are answered while so many are in flight."""
    done = 0
    begun = time.perf_counter()

    async def ask_on() -> None:
        nonlocal done
        while time.perf_counter() < begun + seconds:
            await client.request("echo", bytes(16))
            done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(ask_on)
    return done / (time.perf_counter() - begun)


async def ask_when_due(client: Client, due: int, rate: float, count: int) -> list[float]:
    """Return the latencies of requests that are made when the pacemaker says so."""
    latencies = []

    async def ask(moment: float) -> None:
        await client.request("echo", bytes(16))
        latencies.append(time.perf_counter() - moment)

    await trio.lowlevel.wait_readable(due)
    (begin,) = NUMBER.unpack(os.read(due, NUMBER.size))
    asked = 0
    async with trio.open_nursery() as nursery:
        while asked < count:
            await trio.lowlevel.wait_readable(due)
            for _ in os.read(due, 4096):
                nursery.start_soon(ask, begin + asked / rate)
                asked += 1
    return latencies


async def reader_main(pipe: Connection, endpoint: str, rate: float) -> None:
    """Read our stream, and tell how many chunks came whenever asked."""
    count = 0

    async def tell() -> None:
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            pipe.recv()
            pipe.send(count)

    async with open_client(endpoint) as client, client.stream("chunks", rate) as stream, trio.open_nursery() as nursery:
        await anext(stream)
        gc.freeze()
        pipe.send("ready")
        nursery.start_soon(tell)
        async for _ in stream:
            count += 1


# ---- zmq_proxy's


def dial(endpoint: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(endpoint)
    return socket


async def proxy_main(pipe: Connection) -> None:
    """Be zmq_proxy."""
    gc.freeze()
    endpoints = []
    sockets: list[zmq.Socket[bytes]] = []
    for kind in (zmq.ROUTER, zmq.DEALER):
        sockets.append(zmq.Context.instance().socket(kind))
        sockets[-1].bind("tcp://127.0.0.1:*")
        endpoints.append(sockets[-1].getsockopt_string(zmq.LAST_ENDPOINT))
    pipe.send(endpoints)
    zmq.proxy(*sockets)


async def proxy_worker_main(pipe: Connection, endpoint: str) -> None:
    """Answer what is behind the proxy; whoever sends a number gets a stream of so many chunks a second."""
    socket = dial(endpoint)
    gc.freeze()
    pipe.send("ready")
    reader, rate, begin, sent = b"", 0.0, 0.0, 0
    while True:
        wait = None if not reader else max(0.0, begin + sent / rate - time.perf_counter()) if rate else 0.0
        if socket.poll(None if wait is None else int(1000 * wait) + bool(wait), zmq.POLLIN):
            peer, payload = socket.recv_multipart()
            if len(payload) == NUMBER.size:
                reader, (rate,), begin = peer, NUMBER.unpack(payload), time.perf_counter()
            else:
                socket.send_multipart([peer, payload])
        elif reader and socket.poll(0, zmq.POLLOUT):
            socket.send_multipart([reader, CHUNK])
            sent += 1


async def proxy_client_main(pipe: Connection, endpoint: str, fifo: str) -> None:
    """Be the proxy's client: obey `paced`."""
    socket = dial(endpoint)
    socket.send(PAYLOAD.pack(0.0))
    socket.recv()
    gc.freeze()
    pipe.send("ready")
    due = hear_pacemaker(fifo)
    while True:
        _, rate, count = pipe.recv()
        pipe.send(ask_proxy_when_due(socket, due, rate, count))


def ask_proxy_when_due(socket: zmq.Socket[bytes], due: int, rate: float, count: int) -> list[float]:
    """Be `ask_when_due`, through the proxy."""
    latencies: list[float] = []
    poller = zmq.Poller()
    poller.register(due, zmq.POLLIN)
    poller.poll()
    (begin,) = NUMBER.unpack(os.read(due, NUMBER.size))
    poller.register(socket, zmq.POLLIN)
    asked = 0
    while len(latencies) < count:
        ready = dict(poller.poll())
        if due in ready:
            for _ in os.read(due, 4096):
                socket.send(PAYLOAD.pack(begin + asked / rate))
                asked += 1
        if socket in ready:
            (moment,) = PAYLOAD.unpack(socket.recv())
            latencies.append(time.perf_counter() - moment)
    return latencies


async def proxy_reader_main(pipe: Connection, endpoint: str, rate: float) -> None:
    """Be `reader_main`, through the proxy."""
    socket = dial(endpoint)
    socket.send(NUMBER.pack(rate))
    socket.recv()
    gc.freeze()
    pipe.send("ready")
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(pipe.fileno(), zmq.POLLIN)
    count = 0
    while True:
        ready = dict(poller.poll())
        if socket in ready:
            socket.recv(copy=False)
            count += 1
        if pipe.fileno() in ready:
            pipe.recv()
            pipe.send(count)


# ---- measuring


@attrs.frozen
class System:
    """What stands in the middle, and the ends."""

    middle: Callable[..., Any]
    worker: Callable[..., Any]
    client: Callable[..., Any]
    reader: Callable[..., Any]


SYSTEMS = {
    OURS: System(broker_main, worker_main, client_main, reader_main),
    PROXY: System(proxy_main, proxy_worker_main, proxy_client_main, proxy_reader_main),
}


class Running(AsyncExitStack):
    """A system's processes, from the first to the last; killed at the end."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._system = system
        folder = self.enter_context(tempfile.TemporaryDirectory())
        self._fifo = str(Path(folder) / "due")
        os.mkfifo(self._fifo)
        self._front = ""

    def start(self, main: Callable[..., Any], *args: Any) -> Process:
        """Start a process, to be killed at the end."""
        process = start(main, *args)
        self.callback(os.kill, process.pid, signal.SIGKILL)
        return process

    async def open(self) -> Process:
        """Start all but the reader, and return the client."""
        self._front, back = await self.start(self._system.middle).receive()
        await self.start(self._system.worker, back).receive()
        client = self.start(self._system.client, self._front, self._fifo)
        await client.receive()
        return client

    async def stream(self, rate: float) -> Process:
        """Start the reader of a stream, and return it when the stream is under way."""
        reader = self.start(self._system.reader, self._front, rate)
        await reader.receive()
        await trio.sleep(WARM_UP)
        return reader

    async def latencies(self, client: Process, rate: float, seconds: float) -> Figures:
        """Return the percentiles of requests at a rate."""
        for length in (WARM_UP, seconds):
            count = int(rate * length)
            client.pipe.send(("paced", rate, count))
            self.start(pacemaker_main, self._fifo, rate, count)
            taken = await client.receive()
        quantiles = statistics.quantiles(taken, n=1000)
        return {"p50_us": 1e6 * quantiles[499], "p99_us": 1e6 * quantiles[989], "p999_us": 1e6 * quantiles[998]}


async def top_rate(seconds: float) -> float:
    """Return what our system does at most."""
    async with Running(SYSTEMS[OURS]) as running:
        client = await running.open()
        rates: list[float] = []
        for _ in range(3):
            client.pipe.send(("top", seconds))
            rates.append(await client.receive())
        return max(rates)


async def alone(name: str, rate: float, seconds: float) -> Figures:
    """Measure requests through one of the systems."""
    async with Running(SYSTEMS[name]) as running:
        return await running.latencies(await running.open(), rate, seconds)


def beside(name: str, chunk_rate: float) -> Measure:
    """Return what takes a turn: requests at a low rate, alone, and then beside a stream."""

    async def measure(stage: Stage, seconds: float) -> Figures:
        async with Running(SYSTEMS[name]) as running:
            client = await running.open()
            before = await running.latencies(client, BESIDE, seconds)
            reader = await running.stream(chunk_rate)
            begun = time.perf_counter()
            count = await reader.ask("count")
            figures = await running.latencies(client, BESIDE, seconds)
            count = await reader.ask("count") - count
            return figures | {
                "p99_moved_us": figures["p99_us"] - before["p99_us"],
                "p99_alone_us": before["p99_us"],
                "chunks_per_second": count / (time.perf_counter() - begun),
            }

    return measure


async def at_half(stage: Stage, seconds: float) -> Figures:
    """Take a turn: find our top rate, and measure at half of that."""
    figures = await alone(OURS, await top_rate(seconds / 2) / 2, seconds)
    return figures | {"p99_of_p50": figures["p99_us"] / figures["p50_us"]}


CASES = [
    Case(
        name="tail-half",
        title="small requests at even intervals, at half of our top rate",
        note="The load is open: requests are due at even intervals, whether earlier ones were answered or not, and a "
        "latency runs from the moment that its request was due. Our top rate, with 100 in flight, is found anew in "
        "each turn.",
        subjects={OURS: at_half},
        figure="p99_of_p50",
        targets=(Target(OURS, at_most=5),),
        beyond=4.0,
    ),
    *(
        Case(
            name=name,
            title=f"{BESIDE:,.0f} small requests a second beside a stream of 64 KiB chunks, {what}",
            note="The same open load, alone and then beside the stream, which the same worker sends to a reader of "
            "its own: compared is by how much p99 moves. zmq_proxy has ends of bare pyzmq, and no flow control but "
            "HWM.",
            subjects={each: beside(each, chunk_rate) for each in SYSTEMS},
            figure="p99_moved_us",
            targets=(Target(PROXY, at_most=1),),
            beyond=5.0,
        )
        for name, what, chunk_rate in (
            ("tail-paced", f"{CHUNKS:,.0f} chunks a second", CHUNKS),
            ("tail-full", "as many as it can", AS_FAST_AS_IT_GOES),
        )
    ),
]

"""CPU per request in the machines themselves: client, broker, and worker in one process, with no sockets between them.

    python benchmarks/machines.py [--batch 1 10 100] [--clients 1] [--workers 1] [--size 16] [--json]
    python benchmarks/machines.py --batch 100 --profile broker

They are driven as their engines do it, message by message, with real frames.  `--batch` requests are under way at
once: with one client and one worker, all of them in one message each way.  Figures are microseconds per request, the
least of several repeats; they depend on the machine, so compare what was measured in one place.  What it takes to read
and to write frames is part of the machines' figures, and shown by itself as well.

`mdp/0.2` is the broker's machine with peers of MDP 0.2, as many clients and workers as there are requests under way.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import attrs

from zmdp_trio._core.broker import BrokerMachine
from zmdp_trio._core.client import Call, ClientMachine
from zmdp_trio._core.uplink import Identity
from zmdp_trio._core.worker import WorkerMachine
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1
from zmdp_trio._wire.frames import Frames

BROKER = "broker"
SERVICE = "echo"
#: Seconds between two turns, on the machines' clock.
TURN = 1e-4


class Meter:
    """Counts the seconds inside its `with` blocks, or has them profiled."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.profile: cProfile.Profile | None = None
        self._begin = 0.0

    def __enter__(self) -> None:
        if self.profile is not None:
            self.profile.enable()
        self._begin = perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self.seconds += perf_counter() - self._begin
        if self.profile is not None:
            self.profile.disable()


def turn(machine: Any, receive: Callable[..., None], messages: Iterable[tuple[Any, Frames]], now: float) -> None:
    """Give a machine what has come, and what is due, as its engine does."""
    for peer, frames in messages:
        receive(peer, frames, now=now)
    if now >= machine.deadline:
        machine.handle_timer(now=now)


def flush(machine: Any) -> list[tuple[Any, Frames]]:
    """Take what a machine has to send, and whom for, as its engine does."""
    sent = []
    for link in machine.take_dirty():
        link.scheduled = False
        while link.peer is not None and (frames := link.next_batch()) is not None:
            link.batch_sent()
            sent.append((link.peer, frames))
    return sent


class Caller:
    """A client's machine, and what its shell does for requests."""

    role = "client"

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.machine = ClientMachine(Identity(name.rjust(16), name.decode()), Settings())
        [self.lane] = self.machine.add(BROKER).lanes
        self.machine.take_opened()

    def ask(self, number: int, body: bytes, now: float) -> list[Call]:
        """Begin so many requests."""
        calls = []
        for _ in range(number):
            request = c.Request(0, SERVICE, c.Content.BYTES, body, 0, 0)
            request.timeout = 60.0
            call = Call(request, discards=True)
            self.machine.start(call, now=now)
            self.machine.wait(call, now=now)
            calls.append(call)
        return calls

    def act(self) -> None:
        """Look at what came."""
        self.machine.take_news()


class Runner:
    """A worker's machine, and what its shell does for requests."""

    role = "worker"

    def __init__(self, name: bytes, slots: int) -> None:
        self.name = name
        self.machine = WorkerMachine(Identity(name.rjust(16), name.decode()), Settings(), {SERVICE: slots})
        [self.lane] = self.machine.add(BROKER).lanes
        self.machine.take_opened()

    def act(self) -> None:
        """Send back what came."""
        for execution in self.machine.take_started():
            request = execution.request
            assert request.body is not None
            self.machine.finish(execution, request.content, request.body)
        self.machine.take_events()


class Load:
    """Rounds of requests through the three machines.

    Attributes:
        meters: by machine, what its turns took.
        messages: what was last sent, by what it carries.
    """

    def __init__(self, batch: int, clients: int, workers: int, size: int) -> None:
        self.meters = {name: Meter() for name in ("client", "broker", "worker")}
        self.messages: dict[str, list[Frames]] = {}
        self._now = 0.0
        self._body = bytes(size)
        self.broker = BrokerMachine(name=BROKER, epoch=b"epoch", settings=Settings())
        self._callers = [Caller(b"c%d" % i) for i in range(min(clients, batch))]
        runners = [Runner(b"w%d" % i, -(-batch // workers)) for i in range(workers)]
        self._peers: dict[bytes, Any] = {each.name: each for each in runners}
        self._peers |= {each.name: each for each in self._callers}
        share, more = divmod(batch, len(self._callers))
        self._shares = [share + (i < more) for i in range(len(self._callers))]
        for name, peer in self._peers.items():
            peer.machine.connected(peer.lane, now=self._now)
            self._answer(self._ask([(name, frames) for _, frames in flush(peer.machine)]))

    def _ask(self, messages: list[tuple[bytes, Frames]]) -> list[tuple[bytes, Frames]]:
        """Let the broker have what its peers sent, and return what it sends."""
        with self.meters["broker"]:
            turn(self.broker, self.broker.receive, messages, self._now)
            return flush(self.broker)

    def _answer(self, messages: list[tuple[bytes, Frames]]) -> list[tuple[bytes, Frames]]:
        """Let peers have what the broker sent, and return what they send."""
        answers: list[tuple[bytes, Frames]] = []
        for name, frames in messages:
            peer = self._peers[name]
            with self.meters[peer.role]:
                turn(peer.machine, peer.machine.receive, [(peer.lane, frames)], self._now)
                peer.act()
                sent = flush(peer.machine)
            answers += [(name, frames) for _, frames in sent]
        return answers

    def round(self) -> None:
        """Have `batch` requests answered, all of them at once."""
        self._now += TURN
        asked: list[tuple[bytes, Frames]] = []
        calls: list[Call] = []
        for caller, share in zip(self._callers, self._shares, strict=True):
            with self.meters["client"]:
                calls += caller.ask(share, self._body, self._now)
                sent = flush(caller.machine)
            asked += [(caller.name, frames) for _, frames in sent]
        given = self._ask(asked)
        answered = self._answer(given)
        replied = self._ask(answered)
        self._answer(replied)
        assert all(call.outcome is not None for call in calls)
        messages = {
            "requests to broker": asked,
            "requests to worker": given,
            "replies to broker": answered,
            "replies to client": replied,
        }
        self.messages = {name: [frames for _, frames in each] for name, each in messages.items()}


class LegacyLoad:
    """Rounds of requests by peers of MDP 0.2, through the broker's machine alone.

    Attributes:
        meters: what the broker's turns took.
    """

    def __init__(self, batch: int, size: int) -> None:
        self.meters = {"mdp/0.2": Meter()}
        self._now = 0.0
        self.broker = BrokerMachine(name=BROKER, epoch=b"epoch", settings=Settings())
        request: Frames = [b"MDPC02", b"\x01", SERVICE.encode(), bytes(size)]
        self._requests = [(b"c%d" % i, request) for i in range(batch)]
        for i in range(batch):
            self.broker.receive(b"w%d" % i, [b"MDPW02", b"\x01", SERVICE.encode()], now=0.0)

    def round(self) -> None:
        """Have each client's request answered."""
        self._now = now = self._now + TURN
        [meter] = self.meters.values()
        with meter:
            turn(self.broker, self.broker.receive, self._requests, now)
            given = flush(self.broker)
        answered: list[tuple[bytes, Frames]] = [
            (name, [b"MDPW02", b"\x04", *frames[2:]]) for name, frames in given if frames[1] == b"\x02"
        ]
        with meter:
            turn(self.broker, self.broker.receive, answered, now)
            replied = flush(self.broker)
        assert len(replied) >= len(answered) == len(self._requests)


@attrs.frozen
class Options:
    """What the command line says."""

    requests: int
    repeats: int


def per_request(load: Load | LegacyLoad, batch: int, options: Options) -> dict[str, float]:
    """Return the microseconds that each machine takes for a request."""
    rounds = max(options.requests // batch, 1)
    for _ in range(max(rounds // 10, 1)):
        load.round()
    best = dict.fromkeys(load.meters, float("inf"))
    for _ in range(options.repeats):
        for meter in load.meters.values():
            meter.seconds = 0.0
        for _ in range(rounds):
            load.round()
        for name, meter in load.meters.items():
            best[name] = min(best[name], 1e6 * meter.seconds / rounds / batch)
    return best


def least(run: Callable[[], object], number: int, options: Options) -> float:
    """Return the microseconds that a call takes, divided by `number`."""
    calls = max(options.requests // number, 1)
    best = float("inf")
    for _ in range(options.repeats):
        begin = perf_counter()
        for _ in range(calls):
            run()
        best = min(best, perf_counter() - begin)
    return 1e6 * best / calls / number


def codec(load: Load, batch: int, options: Options) -> dict[str, dict[str, float]]:
    """Return what it takes to read and to write each kind of message, in microseconds per request."""
    figures = {}
    for name, messages in load.messages.items():
        decoded = [zmdp1.decode(frames)[0] for frames in messages]
        figures[name] = {
            "decode": least(lambda messages=messages: [zmdp1.decode(frames) for frames in messages], batch, options),  # type: ignore[misc]
            "encode": least(
                lambda decoded=decoded: [zmdp1.encode_inline(first, rest) for first, *rest in decoded],  # type: ignore[misc]
                batch,
                options,
            ),
            "bytes": sum(len(frame) for frames in messages for frame in frames) / batch,
        }
    return figures


def profile(load: Load | LegacyLoad, batch: int, name: str, options: Options) -> None:
    """Print where one machine's time goes."""
    load.round()
    load.meters[name].profile = found = cProfile.Profile()
    for _ in range(max(options.requests // batch, 1)):
        load.round()
    pstats.Stats(found).sort_stats("tottime").print_stats(45)


def main(arguments: argparse.Namespace) -> None:
    """Measure, and print."""
    options = Options(arguments.requests, arguments.repeats)
    results = []
    for batch in arguments.batch:
        load = Load(batch, arguments.clients, arguments.workers, arguments.size)
        legacy = LegacyLoad(batch, arguments.size)
        if arguments.profile:
            profile(legacy if arguments.profile in legacy.meters else load, batch, arguments.profile, options)
            continue
        result: dict[str, Any] = {"batch": batch, **per_request(load, batch, options)}
        result |= per_request(legacy, batch, options)
        result["codec"] = codec(load, batch, options)
        results.append(result)
        if not arguments.json:
            show(result)
    if arguments.json:
        facts = {"cpus": os.cpu_count(), "python": sys.version.split()[0]}
        about = {"clients": arguments.clients, "workers": arguments.workers, "size": arguments.size}
        json.dump({**facts, **about, "results": results}, sys.stdout)


def show(result: dict[str, Any]) -> None:
    """Print the figures of one size of batch."""
    machines = ", ".join(f"{name} {result[name]:.2f}" for name in ("client", "broker", "worker", "mdp/0.2"))
    sys.stdout.write(f"{result['batch']:>4} at once, us per request: {machines}\n")
    for name, each in result["codec"].items():
        figures = f"decode {each['decode']:.2f}, encode {each['encode']:.2f} us, {each['bytes']:.0f} bytes"
        sys.stdout.write(f"     {name:<20} {figures}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 10, 100], help="requests under way at once")
    parser.add_argument("--clients", type=int, default=1, help="clients that share them")
    parser.add_argument("--workers", type=int, default=1, help="workers that share them")
    parser.add_argument("--size", type=int, default=16, help="bytes in each payload")
    parser.add_argument("--requests", type=int, default=10_000, help="requests in each repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--profile", choices=["client", "broker", "worker", "mdp/0.2"], help="show where a machine's time goes instead"
    )
    main(parser.parse_args())

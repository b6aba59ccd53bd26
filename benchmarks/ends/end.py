"""What the ends in Python share: how they talk with the benchmark, and the loads.

    python NAME_ends.py ROLE OPTIONS

OPTIONS is a JSON object.  A program says one line of JSON when it is ready, with the `address` that the next role
connects to; a client obeys orders, which come as lines of JSON, and answers each with a line of figures.  A program
ends with its input.

Loads are closed: so many requests are in flight, and each that is answered makes room for the next.  A stream has no
end of its own: it is read for as long as the load lasts, and then left, unless the next load is to `go_on` with it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any

#: Chunks of a stream that cannot be left.
CHUNKS = 10_000

Figures = dict[str, float]
Role = Callable[[dict[str, Any]], Any]


def play(role: Callable[[dict[str, Any]], object], options: dict[str, Any]) -> None:
    """Run a role that is a plain function."""
    role(options)


def run(roles: Mapping[str, Role], start: Callable[[Role, dict[str, Any]], object] = play) -> None:
    """Play the role that the command line names.

    Args:
        roles: functions that take the options.
        start: calls one of them; for those that are async, in an event loop.
    """
    start(roles[sys.argv[1]], json.loads(sys.argv[2]))


def say(**line: Any) -> None:
    """Say one line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def wait_for_end() -> None:
    """Block until the benchmark is done with us."""
    sys.stdin.read()


async def obey(next_line: Callable[[], Awaitable[str]], loads: Mapping[str, Callable[..., Awaitable[Figures]]]) -> None:
    """Run the loads that are ordered, each by its name and with its arguments, until the input ends."""
    while line := await next_line():
        order = json.loads(line)
        say(**await loads[order.pop("do")](**order))


def obey_in_turn(next_line: Callable[[], str], loads: Mapping[str, Callable[..., Figures]]) -> None:
    """Be `obey` for those who block."""
    while line := next_line():
        order = json.loads(line)
        say(**loads[order.pop("do")](**order))


class Tally:
    """Counts what is done from now on for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.begun = perf_counter()
        self.end = self.begun + seconds
        self.latencies: list[float] = []
        self.chunks = 0

    async def keep_asking(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Make one request after the other, one at least."""
        note = self.latencies.append
        now = 0.0
        while now < self.end:
            begun = perf_counter()
            await ask()
            now = perf_counter()
            note(now - begun)

    def keep_asking_and_block(self, ask: Callable[[], object]) -> None:
        """Be `keep_asking` for those who block."""
        note = self.latencies.append
        now = 0.0
        while now < self.end:
            begun = perf_counter()
            ask()
            now = perf_counter()
            note(now - begun)

    async def read(self, stream: AsyncIterable[object]) -> None:
        """Read a stream that has no end."""
        count = 0
        async for _ in stream:
            count += 1
            if perf_counter() >= self.end:
                self.chunks = count
                return
        raise RuntimeError(f"a stream ended after {count} chunks")

    def read_and_block(self, stream: Iterable[object]) -> None:
        """Be `read` for those who block."""
        count = 0
        for _ in stream:
            count += 1
            if perf_counter() >= self.end:
                self.chunks = count
                return
        raise RuntimeError(f"a stream ended after {count} chunks")

    def read_to_the_end(self, stream: Callable[[], Iterable[object]]) -> None:
        """Read one stream of `CHUNKS` after the other: for those who cannot leave a stream."""
        while perf_counter() < self.end:
            count = sum(1 for _ in stream())
            if count != CHUNKS:
                raise RuntimeError(f"a stream of {CHUNKS} had {count}")
            self.chunks += count

    def figures(self) -> Figures:
        """Tell what was done, and how fast; the last ones may have come after the end."""
        took = perf_counter() - self.begun
        count = self.chunks or len(self.latencies)
        figures = {"count": count, "seconds": took, "per_second": count / took}
        if len(self.latencies) > 1:
            quantiles = statistics.quantiles(self.latencies, n=100)
            figures |= {"p50_us": 1e6 * quantiles[49], "p99_us": 1e6 * quantiles[98]}
        return figures


def spread(in_flight: int, askers: list[Any]) -> Iterator[Any]:
    """Return who makes each of so many requests, the connections in turn."""
    return (askers[i % len(askers)] for i in range(in_flight))

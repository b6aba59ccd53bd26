"""The soak's load: every way to call a service, and to leave it, all mixed."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from zmdp_trio import Client, Code, DeadlineExceeded, RequestError, Settings, open_client

MIB = 2**20
#: The longest that one waits before it leaves, in seconds.
IMPATIENCE = 0.02
#: Longer than anybody waits, in seconds and in partial replies.
LONG, MANY = 60.0, 10**6
#: Failures that are told in words; the others are counted.
TOLD = 10


class MixedLoad:
    """Operations at a steady rate, which can rest."""

    def __init__(self, client: Client, brokers: list[str], settings: Settings, *, rate: float, seed: int) -> None:
        """Make a load of `rate` operations a second: some make no request at all in time, some make two."""
        self._client = client
        self._brokers = brokers
        self._settings = settings
        self._rate = rate
        self._random = random.Random(seed)
        self._noise = os.urandom(4 * MIB)
        self._going = trio.Event()
        self._resting = trio.Event()
        self._at_work = 0
        self._done: Counter[str] = Counter()
        self._wrong: list[str] = []
        #: Requests of clients that have left.
        self._visitors_requests = 0
        self._ways: dict[Callable[[], Awaitable[None]], int] = {
            self.small: 40,
            self.keyed: 10,
            self.whole_stream: 8,
            self.left_stream: 8,
            self.dropped_stream: 4,
            self.cancelled: 8,
            self.cancelled_thread: 4,
            self.timed_out: 4,
            self.overdue: 4,
            self.failed: 4,
            self.large: 2,
            self.thread: 6,
            self.thread_stream: 4,
            self.visitor: 2,
            self.hasty_visitor: 1,
        }

    async def run(self) -> None:
        """Begin operations while it goes."""
        ways, weights = list(self._ways), list(self._ways.values())
        async with trio.open_nursery() as nursery:
            while True:
                await self._going.wait()
                await trio.sleep(self._random.expovariate(self._rate))
                if self._going.is_set():
                    self._at_work += 1
                    nursery.start_soon(self._operate, self._random.choices(ways, weights)[0])

    async def go(self) -> None:
        """Begin, or go on."""
        self._going.set()

    async def rest(self) -> None:
        """Begin nothing more, and wait until all that was begun has ended."""
        self._going = trio.Event()
        self._resting = trio.Event()
        if self._at_work:
            await self._resting.wait()

    def figures(self) -> dict[str, Any]:
        """Return what was done so far, and what was not as it should be."""
        return {
            "operations": self._done.total(),
            "requests": self._client.statistics().started + self._visitors_requests,
            "kinds": dict(self._done),
            "wrong": self._wrong[:TOLD],
            "wrongs": len(self._wrong),
        }

    async def _operate(self, way: Callable[[], Awaitable[None]]) -> None:
        name = way.__name__
        try:
            await way()
        except Exception as error:  # whatever it is: an operation that fails is a finding, and the load goes on
            self._wrong.append(f"{name}: {type(error).__name__}: {error}")
        self._done[name] += 1
        self._at_work -= 1
        if not self._at_work:
            self._resting.set()

    # ---- the ways

    async def small(self) -> None:
        """A small request."""
        value = {"n": self._random.randrange(MANY)}
        expect(await self._client.request("echo", value), value)

    async def keyed(self) -> None:
        """A request that may join an earlier one, or get its outcome."""
        n = self._random.randrange(2000)
        expect(await self._client.request("echo", n, key=f"key-{n}"), n)

    async def whole_stream(self) -> None:
        """A stream that is read whole."""
        async with self._client.stream("numbers", 200) as stream:
            expect([n async for n in stream], list(range(200)))

    async def left_stream(self) -> None:
        """A stream that is left midway."""
        async with self._client.stream("blobs", 16 * 1024) as stream:
            for _ in range(self._random.randrange(5)):
                expect(len(await anext(stream)), 16 * 1024)

    async def dropped_stream(self) -> None:
        """A stream that is forgotten midway."""
        stream = self._client.stream("numbers", MANY)
        expect(await anext(stream), 0)

    async def cancelled(self) -> None:
        """A request whose caller's scope is cancelled."""
        with trio.move_on_after(self._random.uniform(0, IMPATIENCE)):
            await self._client.request("pause", LONG)
            raise RuntimeError("a long request was answered")

    async def cancelled_thread(self) -> None:
        """The same, of a handler in a thread."""
        with trio.move_on_after(self._random.uniform(0, IMPATIENCE)):
            await self._client.request("wait")
            raise RuntimeError("a long request was answered")

    async def timed_out(self) -> None:
        """A request without a reply for too long."""
        try:
            await self._client.request("pause", LONG, timeout=IMPATIENCE)
        except DeadlineExceeded:
            return
        raise RuntimeError("a long request was answered")

    async def overdue(self) -> None:
        """A request whose deadline passes."""
        try:
            await self._client.request("pause", LONG, deadline=trio.current_time() + IMPATIENCE)
        except DeadlineExceeded:
            return
        raise RuntimeError("a long request was answered")

    async def failed(self) -> None:
        """A request that its handler answers with an error."""
        n = self._random.randrange(MANY)
        try:
            await self._client.request("refuse", n)
        except RequestError as error:
            expect((error.code, error.details), (Code.NOT_FOUND, n))
            return
        raise RuntimeError("no error came")

    async def large(self) -> None:
        """A large payload, and a large reply."""
        blob = self._noise[self._random.randrange(3 * MIB) :]
        expect(await self._client.request("echo", blob) == blob, True)

    async def thread(self) -> None:
        """A request of a handler in a thread."""
        n = self._random.randrange(MANY)
        expect(await self._client.request("square", n), n * n)

    async def thread_stream(self) -> None:
        """A stream of a handler in a thread."""
        async with self._client.stream("lines", 50) as stream:
            expect([line async for line in stream], [f"line {i}" for i in range(50)])

    async def visitor(self) -> None:
        """A client that comes for one request."""
        async with open_client(*self._brokers, settings=self._settings) as client:
            expect(await client.request("echo", 1), 1)
        self._visitors_requests += client.statistics().started

    async def hasty_visitor(self) -> None:
        """A client that leaves in the middle of a stream."""
        async with open_client(*self._brokers, settings=self._settings) as client:
            expect(await anext(client.stream("numbers", MANY)), 0)
        self._visitors_requests += client.statistics().started


def expect(got: Any, wanted: Any) -> None:
    """Complain if something else came than what was wanted."""
    if got != wanted:
        raise RuntimeError(f"{got!r} came, {wanted!r} was wanted")

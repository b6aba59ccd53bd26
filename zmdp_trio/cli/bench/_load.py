"""A load: so many requests in flight, or so many a second, for some time.

**Closed loop** (no rate): `in_flight` callers each make one request after the other.  A service that stalls is not
asked meanwhile, so few requests see the stall: the figures are those of callers who wait for one another.

**Open loop** (a rate): the plan says when each request is due, whatever became of those before, as with users who know
nothing of each other.  Its latency counts from that moment, not from when it was sent.  So all that were due during a
stall have waited for its end, though a caller that was stuck in it may have sent them late: otherwise the figures would
leave out just what went wrong ("coordinated omission").

A measurement pays for a request what is in `_call` and `Histogram.record`: 0.6 microseconds beside the client's 15.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import trio

from zmdp_trio import Client, RequestError

from ._tally import Progress, Tally, size_of
from ._timer import SleepUntil

#: Seconds that pass at least between two looks at the plan.  So at more than 2,000 a second requests are made in small
#: bursts, some of them so much too late: measured at 8,000 and 15,000, the whole has shorter latencies than without.
_BURST: Final = 0.0005
#: Seconds beyond its time-out that a request may have to say so.
_GRACE: Final = 1.0


@attrs.frozen
class Work:
    """What is asked of the services.

    Attributes:
        payload: the same each time.
        timeout: seconds that may pass without a reply; None for no limit.
        stream: read partial replies.
    """

    payload: Any
    timeout: float | None
    stream: bool = False


@attrs.frozen
class Level:
    """How much of it.

    Attributes:
        in_flight: requests at once; with a rate, at most.
        rate: requests a second; None for as many as there are replies.
    """

    in_flight: int
    rate: float | None = None


class Load:
    """Requests to services in turn, each as often as the others, for `seconds`.

    Attributes:
        tallies: what came of them, a tally for each service.
        elapsed: seconds that were measured, once it is over.
        cpu: seconds that this thread computed in these.
        reached: how far each service was when they were over; replies may come later than that.
        waiting: whether only replies are waited for.
    """

    def __init__(
        self,
        client: Client,
        services: Sequence[str],
        work: Work,
        level: Level,
        seconds: float,
        sleep_until: SleepUntil = trio.sleep_until,
    ) -> None:
        self.level = level
        self.seconds = seconds
        self.tallies: Final = [Tally(service) for service in services]
        self.elapsed = 0.0
        self.cpu = 0.0
        self.reached: list[Progress] = []
        self.waiting = False
        self._client = client
        self._work = work
        self._ask = self._read if work.stream else self._call
        self._turn: Iterator[Tally] = itertools.cycle(self.tallies)
        self._sleep_until = sleep_until
        self._clock = trio.lowlevel.current_clock().current_time
        self._scope = trio.CancelScope()
        self._began = self._ends = 0.0
        self._cpu_before = 0.0
        # Requests on the plan; those of them that were due so far; those of these that a caller has taken.
        self._planned: float = 0
        self._due = self._taken = 0
        self._idle = trio.lowlevel.ParkingLot()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def unsent(self) -> int:
        """Requests that were due, and that no caller was free for."""
        return self._due - self._taken

    async def run(self) -> None:
        """Make the requests; wait for the last replies hardly longer than the work's `timeout`."""
        self._began = self._clock()
        self._ends = self._began + self.seconds
        self._cpu_before = time.thread_time()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_in_time)
                async with trio.open_nursery() as callers:
                    if self.level.rate is not None:
                        await self._release(callers, self.level.rate)
                    else:
                        for _ in range(self.level.in_flight):
                            callers.start_soon(self._ask_on)
                nursery.cancel_scope.cancel()
        self._stop_counting()

    def stop(self) -> None:
        """End it now: the figures are those of the time until now."""
        self._stop_counting()
        self._scope.cancel()

    async def _end_in_time(self) -> None:
        await trio.sleep_until(self._ends)
        self._stop_counting()
        if self._work.timeout is not None:
            await trio.sleep(self._work.timeout + _GRACE)
            self._scope.cancel()

    def _stop_counting(self) -> None:
        if not self.waiting:
            self.waiting = True
            self.elapsed = self.age
            self.cpu = time.thread_time() - self._cpu_before
            self.reached = [tally.progress() for tally in self.tallies]

    # ---- closed loop

    async def _ask_on(self) -> None:
        now = self._clock()
        while now < self._ends:
            now = await self._ask(next(self._turn), now)

    # ---- open loop

    async def _release(self, callers: trio.Nursery, rate: float) -> None:
        """Have each request made when it is due, by callers of which there are as many as it takes."""
        planned = round(self.seconds * rate, 6)
        self._planned = planned if planned == math.inf else math.ceil(planned)
        running = 0
        while self._due < self._planned:
            moment = self._began + self._due / rate
            now = self._clock()
            if now < moment:
                await self._sleep_until(max(moment, now + _BURST))
                continue
            # At least the one whose moment has come, whatever rounding makes of it.
            due = int(min(self._planned, max(self._due, int((now - self._began) * rate)) + 1))
            fresh, idle = due - self._due, len(self._idle)
            self._due = due
            self._idle.unpark(count=fresh)
            for _ in range(min(fresh - idle, self.level.in_flight - running)):
                callers.start_soon(self._ask_when_due, rate)
                running += 1
        await trio.sleep_until(self._ends)
        self._idle.unpark_all()

    async def _ask_when_due(self, rate: float) -> None:
        while True:
            while self._taken == self._due:
                if self._due >= self._planned:
                    return
                await self._idle.park()
            moment = self._began + self._taken / rate
            self._taken += 1
            await self._ask(next(self._turn), moment)

    # ---- one request; each returns the time when it ended

    async def _call(self, tally: Tally, began: float) -> float:
        tally.begun += 1
        try:
            reply = await self._client.request(tally.service, self._work.payload, timeout=self._work.timeout)
        except RequestError as error:
            return await self._fail(tally, error)
        now = self._clock()
        tally.latency.record(now - began)
        tally.received += len(reply) if type(reply) is bytes else size_of(reply)
        return now

    async def _read(self, tally: Tally, began: float) -> float:
        tally.begun += 1
        first = True
        try:
            async with self._client.stream(tally.service, self._work.payload, timeout=self._work.timeout) as stream:
                async for chunk in stream:
                    if first:
                        first = False
                        tally.first.record(self._clock() - began)
                    tally.chunks += 1
                    tally.received += len(chunk) if type(chunk) is bytes else size_of(chunk)
        except RequestError as error:
            return await self._fail(tally, error)
        now = self._clock()
        tally.latency.record(now - began)
        tally.received += size_of(stream.final)
        return now

    async def _fail(self, tally: Tally, error: RequestError) -> float:
        tally.fail(error)
        await trio.lowlevel.checkpoint()  # what this client itself refuses takes no time
        return self._clock()

"""The load of the runs in which processes are killed: what is asked, and what became of it."""

from __future__ import annotations

import enum
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec
import trio

from zmdp_trio import Client

from .services import Job

#: Partial replies after which a reader leaves.
LEFT_AFTER = 2
#: The longest job, in seconds.
LONGEST = 0.05


class Kind(enum.Enum):
    """How a request is made, and left."""

    CALL = "call"
    #: Of a sync handler.
    SYNC = "sync"
    #: A stream that is read whole.
    STREAM = "stream"
    #: A stream that is left midway.
    LEFT = "left"
    #: A call in a cancel scope that may end first.
    CANCELLED = "cancelled"


SERVICES = {
    Kind.CALL: "work",
    Kind.SYNC: "grind",
    Kind.STREAM: "count",
    Kind.LEFT: "count",
    Kind.CANCELLED: "work",
}
WEIGHTS = {Kind.CALL: 55, Kind.SYNC: 10, Kind.STREAM: 15, Kind.LEFT: 10, Kind.CANCELLED: 10}


@attrs.frozen
class Order:
    """One request to make."""

    number: int
    kind: Kind
    job: Job
    retry: int
    key: str | None = None
    #: Seconds after which a CANCELLED one is.
    patience: float = math.inf


class State(enum.Enum):
    """What became of a request."""

    OPEN = "open"
    ANSWERED = "answered"
    #: Its caller left.
    LEFT = "left"
    FAILED = "failed"


@attrs.define
class Outcome:
    """What became of an order.  Times are on Trio's clock."""

    order: Order
    started: float
    ended: float = math.inf
    state: State = State.OPEN
    #: The name of the execution that answered.
    reply: str = ""
    #: The partial replies that came.
    partials: list[int] = attrs.field(factory=list)
    #: The type of the exception, and what it says.
    error: str = ""
    message: str = ""

    @property
    def lost(self) -> bool:
        """It ended with an error: its caller knows no more than that."""
        return self.state is State.FAILED


def orders(seed: int, retry: int, longest: float = LONGEST) -> Iterator[Order]:
    """Yield orders for ever, the same ones for the same seed; half of them with `retry`, some sharing a key."""
    rng = random.Random(seed)
    keyed: list[Order] = []
    for number, kind in enumerate(iter(lambda: rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0], None)):
        job = Job(number, rng.uniform(0, longest), rng.randint(LEFT_AFTER + 1, 10))
        order = Order(number, kind, job, retry * rng.randint(0, 1))
        if kind is Kind.CANCELLED:
            order = attrs.evolve(order, patience=rng.uniform(0, 2 * job.seconds))
        if SERVICES[kind] == "work" and rng.random() < 0.2:
            order = _with_key(order, keyed, rng)
        yield order


def _with_key(order: Order, keyed: list[Order], rng: random.Random) -> Order:
    """Give an order a new key, or the key, and with it the job, of a recent one."""
    if keyed and rng.random() < 0.5:
        first = rng.choice(keyed[-5:])
        return attrs.evolve(order, job=first.job, retry=first.retry, key=first.key)
    order = attrs.evolve(order, key=f"job-{order.number}")
    keyed.append(order)
    return order


class Load:
    """Requests at a steady rate, whatever becomes of those before."""

    def __init__(
        self, client: Client, *, rate: float, seed: int, retry: int, timeout: float, longest: float = LONGEST
    ) -> None:
        """Make a load.

        Args:
            client: who asks.
            rate: requests a second.
            seed: the same one makes the same requests.
            retry: of the half of the requests that have it.
            timeout: seconds that any may go unanswered.
            longest: seconds that the longest job takes.
        """
        self.outcomes: list[Outcome] = []
        self.counts: Counter[str] = Counter()
        self._client = client
        self._rate = rate
        self._timeout = timeout
        self._orders = orders(seed, retry, longest)
        self._pauses = random.Random(seed)
        self._end = math.inf

    @property
    def outstanding(self) -> int:
        """Requests without an outcome."""
        return len(self.outcomes) - self.counts.total()

    async def run(self, seconds: float) -> None:
        """Make requests for so long, and wait for the last outcome."""
        due = trio.current_time()
        self._end = due + seconds
        async with trio.open_nursery() as nursery:
            while (due := due + self._pauses.expovariate(self._rate)) < self._end:
                await trio.sleep_until(due)
                nursery.start_soon(self._perform, next(self._orders))

    def prolong(self, seconds: float) -> None:
        """Go on for so much longer than `run` was told."""
        self._end += seconds

    async def _perform(self, order: Order) -> None:
        outcome = Outcome(order, trio.current_time())
        self.outcomes.append(outcome)
        try:
            await self._ask(outcome)
        except Exception as error:  # whatever it is: that only a RequestError comes is one of the claims
            outcome.state = State.FAILED
            outcome.error, outcome.message = type(error).__name__, str(error)
        outcome.ended = trio.current_time()
        self.counts[outcome.error or outcome.state.value] += 1

    async def _ask(self, outcome: Outcome) -> None:
        order = outcome.order
        if order.kind in (Kind.STREAM, Kind.LEFT):
            await self._read(outcome)
            return
        with trio.move_on_after(order.patience) as scope:
            outcome.reply = await self._client.request(
                SERVICES[order.kind],
                msgspec.to_builtins(order.job),
                retry=order.retry,
                key=order.key,
                timeout=self._timeout,
            )
        outcome.state = State.LEFT if scope.cancelled_caught else State.ANSWERED

    async def _read(self, outcome: Outcome) -> None:
        order = outcome.order
        payload = msgspec.to_builtins(order.job)
        async with self._client.stream("count", payload, retry=order.retry, timeout=self._timeout) as stream:
            async for partial in stream:
                outcome.partials.append(partial)
                if order.kind is Kind.LEFT and len(outcome.partials) == LEFT_AFTER:
                    outcome.state = State.LEFT
                    return
            outcome.reply = stream.final
        outcome.state = State.ANSWERED


def load_figures(load: Load, seconds: float) -> dict[str, Any]:
    """Return what became of a load, for people and programs."""
    again = [outcome for outcome in load.outcomes if outcome.order.retry]
    once = [outcome for outcome in load.outcomes if not outcome.order.retry]
    return {
        "requests": len(load.outcomes),
        "requests a second": len(load.outcomes) / seconds,
        "with retry": _states(again),
        "without retry": _states(once),
        "answered within ms": latencies(load.outcomes),
    }


def latencies(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return quantiles, in milliseconds, of the time that answers took beyond the job itself."""
    extra = [
        1000 * (outcome.ended - outcome.started - outcome.order.job.seconds)
        for outcome in outcomes
        if outcome.state is State.ANSWERED and outcome.order.key is None
    ]
    if len(extra) < 2:
        return {}
    cuts = statistics.quantiles(extra, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "worst": max(extra)}


def _states(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return dict(Counter(outcome.error or outcome.state.value for outcome in outcomes))

"""Whether a transport keeps its promises however often those are cancelled who wait for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from ..._transport import DIALLED
from .ends import End, Transport, greet, open_check_nursery

#: Seconds without any message, after which one that was sent counts as stuck.
STALL: Final = 10
#: The chance that a step of any task is followed by a cancellation.
CHANCE: Final = 0.2
#: The sizes of the frames behind a message's number; most messages are small, some too large to be copied.
_SHAPES: Final = [*[(), (0,), (1,), (10, 0, 100), (1000,)] * 20, (40_000,), (3, 200_000, 3)]
#: How many messages are sent in a row, and the chance that others run after each.  Messages that are alone leave none
#: behind them to cover a wake-up that was missed; many at once fill every queue.
_ROWS: Final = (0, 1, 1, 1, 2, 5, 20, 100, 100, 100, 300, 1200)
_PAUSES: Final = (0, 0.1, 0.25)


@attrs.frozen
class Endurance:
    """What the check of random cancellation has seen."""

    #: Messages that were sent and arrived, in each direction.
    messages: int
    #: How often `Port.wait` was cancelled and called again.
    cancellations: int
    #: How often a message was refused because a queue was full.
    refusals: int


class _Interrupter(trio.abc.Instrument):
    """Cancels those who wait for ports at random, and has them wait again."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._scopes: dict[End, trio.CancelScope] = {}
        self.cancellations = 0

    async def run(self, end: End) -> None:
        while True:
            with trio.CancelScope() as scope:
                self._scopes[end] = scope
                await end.run()
            self.cancellations += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._rng.random() < CHANCE and self._scopes:
            self._rng.choice([*self._scopes.values()]).cancel()


class _Direction:
    """The traffic from one end to the other."""

    def __init__(self, source: End, name: bytes, target: End, rng: random.Random) -> None:
        self._source = source
        self._name = name
        self._target = target
        self._rng = rng
        self._bodies = [[rng.randbytes(size) for size in shape] for shape in _SHAPES]
        self.sent = 0
        self.arrived = 0

    def _message(self, number: int) -> Sequence[bytes]:
        return [b"%d" % number, *self._bodies[number % len(self._bodies)]]

    async def send(self, count: int) -> None:
        pause = self._rng.choice(_PAUSES)
        for _ in range(count):
            self._source.post(self._name, *self._message(self.sent))
            self.sent += 1
            if self._rng.random() < pause:
                await trio.lowlevel.checkpoint()

    async def expect(self, count: int) -> None:
        for _ in range(count):
            if not self._target.received:
                await self._wait()
            frames = await self._target.get_frames()
            assert frames == self._message(self.arrived), f"not message {self.arrived}: {frames[0]!r}"
            self.arrived += 1

    async def _wait(self) -> None:
        with trio.move_on_after(STALL) as patience:
            await self._target.arrival()
        assert not patience.cancelled_caught, f"message {self.arrived} of {self.sent} is stuck"


async def check_random_cancellation(transport: Transport, *, messages: int = 100_000, seed: int = 0) -> Endurance:
    """Send messages both ways while `Port.wait` is cancelled at random at each of its checkpoints, and called again.

    Messages go out in rows, one direction beside the other, and both have to arrive before the next rows are sent: so
    neither later traffic nor later cancellations can cover a wake-up that was missed.

    Args:
        transport: what is checked.
        messages: how many go each way.
        seed: of the sizes, the rows, and the cancellations; Trio's own order of tasks is not in our hand.

    Raises:
        AssertionError: a message was lost, doubled, torn, out of order, or stuck for `STALL` seconds.
    """
    rng = random.Random(seed)
    bound = transport.bind()
    dialled = transport.call(bound.port.endpoints[0])
    interrupter = _Interrupter(rng)
    trio.lowlevel.add_instrument(interrupter)
    try:
        async with open_check_nursery() as nursery:
            nursery.start_soon(interrupter.run, bound)
            nursery.start_soon(interrupter.run, dialled)
            peer = await _greet(bound, dialled)
            await _exchange(
                _Direction(bound, peer, dialled, rng), _Direction(dialled, DIALLED, bound, rng), messages, rng
            )
            nursery.cancel_scope.cancel()
    finally:
        trio.lowlevel.remove_instrument(interrupter)
        bound.port.close()
        dialled.port.close()
    assert not bound.received, f"more came than was sent: {bound.received[0]}"
    assert not dialled.received, f"more came than was sent: {dialled.received[0]}"
    return Endurance(messages, interrupter.cancellations, bound.refusals + dialled.refusals)


async def _greet(bound: End, dialled: End) -> bytes:
    with trio.move_on_after(STALL) as patience:
        peer = await greet(bound, dialled)
    assert not patience.cancelled_caught, "the greeting is stuck"
    return peer


async def _exchange(one: _Direction, other: _Direction, messages: int, rng: random.Random) -> None:
    while min(one.arrived, other.arrived) < messages:
        async with open_check_nursery() as row:
            for direction in (one, other):
                count = min(rng.choice(_ROWS), messages - direction.sent)
                row.start_soon(direction.send, count)
                row.start_soon(direction.expect, count)

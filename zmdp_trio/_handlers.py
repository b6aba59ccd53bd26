"""Running handlers, from a decoded payload to the value of the final reply; `_threads` has the sync ones' part."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio

from . import _payload
from ._core.worker import RUNNING, Execution, WorkerMachine
from ._engine import Engine, Pace
from ._errors import MessageTooLarge
from ._request import Request
from ._service import Final as FinalReply
from ._service import Service, Shape
from ._threads import ThreadOutbox, run_in_thread

if TYPE_CHECKING:
    from ._client import Client


@attrs.frozen
class WayOut:
    """Where what handlers say goes."""

    machine: WorkerMachine
    engine: Engine
    #: Returns the client that handlers call further services with.
    client: Callable[[], Client]


class Run(msgspec.Struct, eq=False):
    """One handler's run: what the request's context, the machine, and Trio meet in.

    (A struct is made in a third of the time that other classes take; there is one for each request.)

    Attributes:
        scope: the one around the handler, from its start to its end.
        used: the scope was given a deadline, or cancelled: it is good for no other handler.
        parked: where the handler's tasks wait for credit: there may be several.
        pace: made at the first partial reply: most requests have none.
    """

    execution: Execution
    way_out: WayOut
    scope: trio.CancelScope | None = None
    used: bool = False
    outbox: ThreadOutbox | None = None
    parked: trio.lowlevel.ParkingLot | None = None
    pace: Pace | None = None

    @property
    def client(self) -> Callable[[], Client]:
        """Returns the client that handlers call further services with."""
        return self.way_out.client

    def begin(self, scope: trio.CancelScope) -> None:
        """The handler starts, in this scope."""
        self.scope = scope
        execution = self.execution
        if execution.deadline != math.inf:
            self.on_deadline()
        if execution.state is not RUNNING:
            self.on_cancel()

    def end(self) -> bool:
        """The handler has ended, and its scope belongs to it no more; tell whether that can be used again."""
        self.scope = None
        return not self.used

    async def send(self, value: Any) -> None:
        """Send a partial reply, when there is credit.  A checkpoint only every so often: `yield` is a hot path."""
        content, body = _payload.encode(value)
        if not self.execution.has_credit:
            await self.wait_for_credit()
        self.put(content, body)
        pace = self.pace
        if pace is None:
            pace = self.pace = Pace()
        if pace.due:
            await pace.rest()

    async def wait_for_credit(self) -> None:
        """Wait until a partial reply may be sent, or nobody wants one any more."""
        execution = self.execution
        while not execution.has_credit:
            if not execution.active:
                await trio.lowlevel.checkpoint()
                return
            if self.parked is None:
                self.parked = trio.lowlevel.ParkingLot()
            await self.parked.park()

    def put(self, content: int, body: bytes) -> None:
        """Hand a partial reply to the machine, unless nobody wants it any more."""
        execution = self.execution
        if execution.state is RUNNING:
            self.way_out.machine.partial(execution, content, body)
            self.way_out.engine.wake()

    def on_credit(self) -> None:
        """There is credit again."""
        if self.parked is not None:
            self.parked.unpark_all()
        if self.outbox is not None:
            self.outbox.update()

    def on_deadline(self) -> None:
        """The deadline was moved."""
        if self.scope is not None:
            self.used = True
            self.scope.deadline = self.execution.deadline

    def on_cancel(self) -> None:
        """Nobody wants the replies any more."""
        if self.scope is not None:
            self.used = True
            self.scope.cancel()
        if self.parked is not None:
            # Whoever waits for credit under a shield would wait for ever.
            self.parked.unpark_all()
        if self.outbox is not None:
            self.outbox.update()

    def send_from_thread(self, value: Any) -> None:
        """Send a partial reply from a sync handler's thread."""
        assert self.outbox is not None
        self.outbox.send(value)

    def check_size(self, size: int) -> None:
        """Refuse a partial reply that the broker would not take.

        Raises:
            MessageTooLarge: it is one.
        """
        limit = self.execution.uplink.limits.message
        if size > limit:
            raise MessageTooLarge(f"a partial reply of {size:,} bytes, the limit is {limit:,}")

    def heartbeat(self) -> None:
        """Tell the caller that work goes on."""
        self.way_out.machine.heartbeat(self.execution)
        self.way_out.engine.wake()


class Handler:
    """What runs one service's handler.

    Attributes:
        decode: turns (content type, body) into the payload; raises ValueError.
        run: called with (payload, run), returns what is to be awaited for the value of the final reply.
    """

    def __init__(self, service: Service[..., Any], slots: int) -> None:
        """Make what runs a service; `slots` limits the threads of a sync one."""
        self.decode = service.decode
        self.run: Callable[[Any, Run], Awaitable[Any]] = self._runner(service, slots)

    def _runner(self, service: Service[..., Any], slots: int) -> Callable[[Any, Run], Awaitable[Any]]:
        call = service.call
        if service.shape is Shape.COROUTINE:
            if not service.takes_context:
                return call
            return lambda payload, run: call(payload, Request(run))
        if service.shape is Shape.ASYNC_GENERATOR:
            return lambda payload, run: _drive(call(payload, Request(run)), run)
        limiter = trio.CapacityLimiter(slots)
        return lambda payload, run: run_in_thread(service, payload, run, limiter)


async def _drive(generator: AsyncGenerator[Any, None], run: Run) -> Any:
    """Send what an async generator yields, from one task and with no scope of ours around its steps.

    The wait for credit happens inside whatever scopes and nurseries the generator has open where it yields, so
    whatever the wait raises belongs to it: it is thrown in at the yield.  A scope of ours that was opened in one step
    and closed in another would corrupt Trio's stack of scopes.
    """
    try:
        step = generator.__anext__()
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return None
            if type(value) is FinalReply:
                return value.value
            try:
                await run.send(value)
            except BaseException as error:
                step = generator.athrow(error)
            else:
                step = generator.__anext__()
    finally:
        await _close(generator)


async def _close(generator: AsyncGenerator[Any, None]) -> None:
    """Close a generator; one that was in a nursery of its own raises its GeneratorExit in a group."""
    try:
        await generator.aclose()
    except BaseExceptionGroup as group:
        _, rest = group.split(GeneratorExit)
        if rest is not None:
            raise rest from group

"""One request's replies, as its caller reads them."""

from __future__ import annotations

import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from . import _payload
from ._core.client import NEW, OPEN, Call
from ._engine import Pace
from ._errors import RequestError
from ._wire.commands import Final as FinalReply
from ._wire.commands import Partial

if TYPE_CHECKING:
    from ._client import Client

# As an attribute of its class it costs 50 nanoseconds.
SUCCEEDED: Final = trio.lowlevel.Abort.SUCCEEDED


class AwaitedCall(Call):
    """A call whose caller is a Trio task: `waiter`, while it is parked, or the post where it stands in."""

    __slots__ = ()

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """The caller is cancelled while it is parked."""
        self.waiter = None
        return SUCCEEDED


def value_of(outcome: FinalReply | RequestError, service: str) -> Any:
    """Return what a call's final reply stands for, or raise its error."""
    if isinstance(outcome, RequestError):
        # One exception per raise: the calls of a client that is closed have one outcome in common.
        raise copy.copy(outcome)
    return _payload.decode_reply(outcome.content, outcome.body, service)


class ReplyStream:
    """A request's partial replies, and then its final one.

    Iterate over it, best inside `async with`; then `final` is the final reply.  One task may use it at a time.
    """

    def __init__(self, client: Client, call: AwaitedCall) -> None:
        self._client = client
        self._call = call
        #: Made at the first partial reply that is there already: most calls have none.
        self._pace: Pace | None = None
        self._raised = False

    def __repr__(self) -> str:
        return f"<ReplyStream of {self._call.request.service!r} {self._call.state.name.lower()}>"

    @property
    def service(self) -> str:
        """The service that was asked."""
        return self._call.request.service

    @property
    def final(self) -> Any:
        """The final reply.

        Raises:
            RuntimeError: the stream has not ended.
            RequestError: it ended with this error.
        """
        outcome = self._call.outcome
        if outcome is None or self._call.inbox:
            raise RuntimeError("the final reply has not come; iterate to the end first")
        return value_of(outcome, self.service)

    async def __aenter__(self) -> Self:
        if self._call.state is NEW:
            await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next partial reply; a checkpoint whenever it waits, and else every so often."""
        call = self._call
        if call.inbox:
            pace = self._pace
            if pace is None:
                pace = self._pace = Pace()
            if pace.due:
                # A reader that is slower than the handler never waits, so this is where its deadline is looked at.
                self._client._look_at_deadline(call)
                await pace.rest()
            partial: Partial | None = self._take()
        else:
            if call.state is NEW:
                await self._start()
            partial = await self._next()
        if partial is not None:
            return _payload.decode_reply(partial.content, partial.body, call.request.service)
        if isinstance(call.outcome, RequestError) and not self._raised:
            self._raised = True
            raise copy.copy(call.outcome)
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Leave: the handler is cancelled, and what came is forgotten.  Does nothing when the stream has ended."""
        call = self._call
        if call.state in OPEN or call.inbox:
            self._client._cancel(call)

    async def aclose(self) -> None:
        """Leave, as `cancel` does, and let others run."""
        self.cancel()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        # May run in any thread and at any moment: only note the call, and wake the engine.
        if self._call.state in OPEN or self._call.inbox:
            self._client._abandon(self._call)

    # ---- how it works

    async def _start(self) -> None:
        """Send the request; the caller's deadline goes along."""
        await self._client._start(self._call)
        self._client._engine.wake()

    async def _next(self) -> Partial | None:
        """Wait for the next partial reply, or for the outcome: then None."""
        call, machine = self._call, self._client._machine
        if call.waiter is not None:
            raise trio.BusyResourceError("another task reads this stream")
        if call.inbox or call.outcome is not None:
            await trio.lowlevel.checkpoint()
            return await self._take_or_end()
        # Once, not after each wake-up: silence counts from here.
        machine.wait(call, now=self._client._now())
        self._client._engine.watch()
        try:
            while not call.inbox and call.outcome is None:
                call.waiter = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(call.abort)
                self._client._look_at_deadline(call)
        finally:
            machine.unwait(call)
        return await self._take_or_end()

    async def _take_or_end(self) -> Partial | None:
        """Take a partial reply, or None where the outcome is next."""
        call = self._call
        if call.inbox:
            return self._take()
        await self._client._let_own_deadline_pass(call)
        return None

    def _take(self) -> Partial:
        call = self._call
        partial = self._client._machine.take(call)
        if call.uplink is not None and call.uplink.link.scheduled:
            self._client._engine.wake()
        return partial

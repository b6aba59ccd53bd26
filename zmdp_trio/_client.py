"""Clients: call services, and read their replies."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack

import attrs
import trio

from . import _payload
from ._arguments import check_arguments, is_plain_name, on_the_wire
from ._chance import chance
from ._core.client import OPEN, SENT, Call, ClientMachine
from ._core.foreign import protocol_of
from ._core.protocol import ZMDP1, Protocol
from ._core.uplink import Identity
from ._engine import DialEngine, Post
from ._errors import DeadlineExceeded, RequestCancelled, RequestError
from ._names import distinct, peer_name
from ._nursery import open_plain_nursery
from ._settings import Overrides, Settings, settings_with
from ._stream import AwaitedCall, ReplyStream, value_of
from ._wire.commands import Final as FinalReply
from ._wire.commands import Request


class _Default:
    """Stands for "not given" where None means "none"."""

    def __repr__(self) -> str:
        return "<the setting>"


_DEFAULT: Any = _Default()
#: Seconds before the caller's own deadline in which another process may already think that it has passed.
EARLY: Final = 0.5
#: What Trio says of the deadline of a caller that is cancelled.
_CANCELLED: Final = -math.inf


@attrs.frozen
class ClientStatistics:
    """A client's numbers at one moment."""

    #: Requests that wait for a connection to a broker.
    waiting: int
    #: Requests that a broker has, and that have no outcome.
    outstanding: int
    #: Requests started so far.
    started: int
    #: Replies that came for requests that had ended already.
    late_replies: int
    #: Messages that came twice.
    duplicates: int
    #: Messages and commands of brokers that were not to be expected.
    protocol_errors: int
    #: Deadlines that are watched.
    timers: int


class Client:
    """Calls services; made by `open_client`.  Any number of tasks may use one at once."""

    def __init__(self, brokers: tuple[str, ...], name: str, settings: Settings, protocol: Protocol = ZMDP1) -> None:
        self.name = name
        self.settings = settings
        self._machine = ClientMachine(Identity(chance().randbytes(16), name), settings, protocol)
        self._engine = DialEngine(self._machine, self._act, settings, brokers, log_level=logging.INFO)
        self._token = trio.lowlevel.current_trio_token()
        #: `trio.current_time`, at half its price.
        self._now = trio.lowlevel.current_clock().current_time
        self._timeout = on_the_wire(settings.timeout)
        self._abandoned: list[Call] = []
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"outstanding={len(self._machine.calls())}"
        return f"<Client {self.name} {state}>"

    # ---- calls

    async def request(
        self,
        service: str,
        payload: Any = None,
        *,
        timeout: float | None = _DEFAULT,  # noqa: ASYNC109  the wire's own limit, no cancel scope
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
        retry: int = 0,
        key: str | None = None,
        worker: str | None = None,
        on_partial: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Call a service, and return its final reply.

        Cancelling this call, or leaving it in whatever way, cancels the handler.

        Args:
            service: the name of the service; `calc@^1.2` stands for the versions in a range, as npm writes them.
            payload: bytes-like values travel as they are, anything else as MessagePack.
            timeout: seconds that may pass without any reply; by default 60, None or -1 for no limit.
            deadline: when the handler's time is over, a time on Trio's clock; by default that of the cancel scopes
                around this call.  `math.inf` opts out.
            headers: go to the handler as they are.
            retry: how often the request may run again when its worker or broker is lost before a first partial reply.
            key: requests of one service with the same key share one execution, and for ten minutes its outcome: the
                first caller gets the partial replies, all of them the final one.
            worker: run it on the worker of this name, or not at all.
            on_partial: called, and awaited if it is async, with each partial reply; without it they are dropped.

        Raises:
            RequestError: what went wrong, as its `code` and its subclass tell.
        """
        discards = on_partial is None
        call = self._make_call(service, payload, timeout, deadline, headers, retry, key, worker, discards)
        if on_partial is not None:
            return await self._read_partials(ReplyStream(self, call), on_partial)
        return value_of(await self._ask(call), service)

    def stream(
        self,
        service: str,
        payload: Any = None,
        *,
        timeout: float | None = _DEFAULT,
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
        retry: int = 0,
        key: str | None = None,
        worker: str | None = None,
    ) -> ReplyStream:
        """Call a service, and iterate over its partial replies.

            async with client.stream("count", 3) as stream:
                async for chunk in stream:
                    ...
            stream.final

        Leaving the block cancels the handler, and so does dropping the stream: `async for chunk in client.stream(...)`
        cancels at `break`.  The request is sent, and the deadline taken, at the first step.

        Args and errors are those of `request`; errors are raised by the iteration.
        """
        return ReplyStream(self, self._make_call(service, payload, timeout, deadline, headers, retry, key, worker))

    async def aclose(self) -> None:
        """Cancel what is outstanding, and take leave of the brokers."""
        self._close()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> ClientStatistics:
        """Return the numbers of this moment."""
        return ClientStatistics(**self._machine.statistics())

    # ---- for ReplyStream and Gateway

    def _make_call(
        self,
        service: str,
        payload: Any,
        timeout: float | None = _DEFAULT,
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
        retry: int = 0,
        key: str | None = None,
        worker: str | None = None,
        discards: bool = False,
    ) -> AwaitedCall:
        if self._closed:
            raise trio.ClosedResourceError("the client is closed")
        content, body = _payload.encode(payload)
        request = Request(0, service, content, body, 0, 0, None, self._timeout)
        named = key is not None or worker is not None
        options = headers or retry or named or deadline is not None or timeout is not _DEFAULT
        if options or type(retry) is not int or not is_plain_name(service):
            if timeout is not _DEFAULT:
                request.timeout = None if timeout in (None, -1, math.inf) else timeout
            request.headers = dict(headers) if headers else None
            request.retry, request.key, request.worker = retry, key, worker
            check_arguments(request, deadline)
            request.timeout = on_the_wire(request.timeout)
        return AwaitedCall(request, deadline, discards)

    async def _start(self, call: Call) -> float:
        """Start a call, unless its caller is cancelled; its deadline goes along.  Return what time it was."""
        deadline = trio.current_effective_deadline()
        if deadline == _CANCELLED:
            await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("the client is closed")
        if call.deadline_is_callers:
            call.deadline = deadline
        now = self._now()
        self._machine.start(call, now=now)
        return now

    async def _ask(self, call: AwaitedCall) -> FinalReply | RequestError:
        """Start a call, and return its outcome; whoever leaves before cancels the handler."""
        engine = self._engine
        try:
            self._machine.wait(call, now=await self._start(call))
            # Only now that the call's timer is set: it may be all that the engine does, and minds the deadline by that.
            engine.wake()
            while call.outcome is None:
                post = engine.free_post() if engine.lonely else None
                if post is None:
                    call.waiter = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(call.abort)
                else:
                    await self._stand_in(call, post)
                self._look_at_deadline(call)
        finally:
            if call.outcome is None and call.state in OPEN:
                self._cancel(call)
        if type(call.outcome) is DeadlineExceeded:
            await self._let_own_deadline_pass(call)
        return call.outcome

    @trio.lowlevel.enable_ki_protection
    async def _stand_in(self, call: AwaitedCall, post: Post) -> None:
        """Wait for news from the network, which may be the call's outcome, and take the turn at it.

        The turn is everybody's: an interrupt, which this caller may survive, comes while it waits, or after it.
        """
        call.waiter = post
        try:
            news = await post.stand_in()
        finally:
            call.waiter = None
        if news:
            self._engine.turn_in_passing()

    async def _read_partials(self, stream: ReplyStream, on_partial: Callable[[Any], Any]) -> Any:
        """Call `on_partial` with each partial reply of a request, and return the final one."""
        try:
            await stream._start()
            while (partial := await stream._next()) is not None:
                result = on_partial(_payload.decode_reply(partial.content, partial.body, stream.service))
                if inspect.isawaitable(result):
                    await result
            return stream.final
        finally:
            stream.cancel()

    def _look_at_deadline(self, call: Call) -> None:
        """Tell the handler if the caller's deadline was moved."""
        if call.state is SENT and call.deadline_is_callers:
            deadline = trio.current_effective_deadline()
            # The caller is about to leave a cancelled scope: that is no deadline.
            if deadline not in (call.deadline, _CANCELLED):
                self._machine.move_deadline(call, deadline, now=self._now())
                self._engine.wake()

    async def _let_own_deadline_pass(self, call: Call) -> None:
        """Wait for the caller's own scope to end, if that is what the worker says.

        The worker can be the first to see the deadline pass, and its error come before we look at our clock.  The
        caller was promised that its own scope ends the call.
        """
        if isinstance(call.outcome, DeadlineExceeded) and call.deadline_is_callers:
            deadline = trio.current_effective_deadline()
            if deadline <= self._now() + EARLY:
                await trio.sleep_until(deadline)

    def _act(self) -> None:
        """Wake the callers that have something to look at."""
        for call in self._machine.take_news():
            waiter = call.waiter
            if type(waiter) is Post:
                waiter.recall()  # a plain request stands in: it has no inbox
            elif waiter is not None:
                trio.lowlevel.reschedule(waiter)
                call.waiter = None
                if call.inbox:
                    self._machine.hand(call)

    def _abandon(self, call: Call) -> None:
        """Cancel a call from wherever a stream was dropped: any thread, any moment."""
        self._abandoned.append(call)
        try:
            self._token.run_sync_soon(self._reap, idempotent=True)
        except trio.RunFinishedError:
            pass

    def _reap(self) -> None:
        while self._abandoned:
            self._cancel(self._abandoned.pop())

    def _cancel(self, call: Call) -> None:
        self._machine.cancel(call)
        self._engine.wake()

    # ---- life

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._machine.fail_all(RequestCancelled("the client was closed"))
        self._machine.goodbye()
        self._engine.close()


@asynccontextmanager
async def open_client(
    *brokers: str,
    name: str | None = None,
    protocol: str = ZMDP1.name,
    settings: Settings | None = None,
    **overrides: Unpack[Overrides],
) -> AsyncIterator[Client]:
    """Open a client for as long as the block runs.  It does not wait: a request waits for a connection.

    Args:
        brokers: endpoints of one broker or more; each may be away, and come back.  A host name stands for all of its
            addresses, and is looked up again as they change.
        name: what handlers see as `request.peer`; by default random.
        protocol: what the brokers speak, if they are others than ours: `mdp/0.1`, `mdp/0.2`, `majortomo`, `omdp`,
            `pigato`.  What is then not to be had, docs/foreign.md tells.
        settings: limits and intervals; `overrides` replaces some, such as `timeout=5`.

    Raises:
        EndpointError: an endpoint is malformed.
        ValueError: there is no such protocol.
    """
    all_settings = settings_with(settings, **overrides)
    client = Client(distinct(brokers), peer_name(name, "client"), all_settings, protocol_of(protocol))
    async with open_plain_nursery() as nursery:
        client._engine.open()
        nursery.start_soon(client._engine.run)
        try:
            yield client
        finally:
            client._close()
            nursery.cancel_scope.cancel()

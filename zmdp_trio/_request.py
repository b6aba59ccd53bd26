"""What a handler may know of, and do for, the request that it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import trio

if TYPE_CHECKING:
    from ._client import Client
    from ._core.worker import Execution
    from ._stream import ReplyStream

#: Headers that go along with every request that a handler makes in turn (W3C Trace Context and Baggage).
TRACE_HEADERS = ("traceparent", "tracestate", "baggage")


class Runner(Protocol):
    """What carries a request's context out: the handler's run."""

    execution: Execution

    async def send(self, value: Any) -> None: ...
    def send_from_thread(self, value: Any) -> None: ...
    def heartbeat(self) -> None: ...
    def client(self) -> Client: ...


class _Context:
    """What both kinds of handlers see."""

    __slots__ = ("_runner",)

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __repr__(self) -> str:
        state = "active" if self.active else "ended" if self.ended else "cancelled"
        return f"<{type(self).__name__} {self.id} of {self.service!r} {state}>"

    @property
    def id(self) -> int:
        """The broker's number for this request; unique until the broker is restarted."""
        return self._runner.execution.request.id

    @property
    def service(self) -> str:
        """The name that was asked for; of a service that is a wildcard or a version, the caller's words."""
        return self._runner.execution.asked

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller sent along."""
        return self._runner.execution.request.headers or {}

    @property
    def peer(self) -> str:
        """The name of the client that asks."""
        return self._runner.execution.request.peer

    @property
    def deadline(self) -> float:
        """When the caller's time is over, on this process's Trio clock; `math.inf` for never.  It may be moved."""
        return self._runner.execution.deadline

    @property
    def active(self) -> bool:
        """Somebody still waits for replies: the caller has not left, and no final reply was sent."""
        return self._runner.execution.active

    @property
    def ended(self) -> bool:
        """The final reply, or an error, was sent."""
        return self._runner.execution.ended

    def _headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        own = self.headers
        return {name: own[name] for name in TRACE_HEADERS if name in own} | dict(headers or {})


class Request(_Context):
    """The context of a request, for async handlers: annotate a parameter with it.

    @service("report")
    async def report(payload, request: Request):
        await request.send({"progress": 0.5})
        return await request.request("render", payload)
    """

    __slots__ = ()

    async def send(self, value: Any) -> None:
        """Send a partial reply; waits while the caller does not read.

        Raises:
            InvalidArgument: the value can't be encoded.
            MessageTooLarge: it is larger than the broker takes.
        """
        await self._runner.send(value)
        await trio.lowlevel.checkpoint()

    async def heartbeat(self) -> None:
        """Tell the caller that work goes on: its `timeout` starts anew."""
        self._runner.heartbeat()
        await trio.lowlevel.checkpoint()

    async def request(
        self, service: str, payload: Any = None, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Any:
        """Call another service, as `Client.request` does.

        The handler's deadline goes along, as does its cancellation, and so do the trace headers of this request.
        """
        client = self._runner.client()
        return await client.request(service, payload, headers=self._headers(headers), **options)

    def stream(
        self, service: str, payload: Any = None, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> ReplyStream:
        """Call another service, as `Client.stream` does; deadline, cancellation, and trace headers go along."""
        return self._runner.client().stream(service, payload, headers=self._headers(headers), **options)


class SyncRequest(_Context):
    """The context of a request, for sync handlers, whose methods block the handler's thread.

    Each of them raises `trio.Cancelled` when the request is cancelled; let it pass.
    """

    __slots__ = ()

    def send(self, value: Any) -> None:
        """Send a partial reply; blocks while the caller does not read.

        Raises:
            InvalidArgument: the value can't be encoded.
            MessageTooLarge: it is larger than the broker takes.
        """
        self._runner.send_from_thread(value)

    def heartbeat(self) -> None:
        """Tell the caller that work goes on: its `timeout` starts anew."""
        trio.from_thread.run_sync(self._runner.heartbeat)

    def request(
        self, service: str, payload: Any = None, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Any:
        """Call another service, as `Client.request` does; deadline, cancellation, and trace headers go along."""
        headers = self._headers(headers)

        async def request() -> Any:
            return await self._runner.client().request(service, payload, headers=headers, **options)

        return trio.from_thread.run(request)

    def stream(
        self, service: str, payload: Any = None, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Iterator[Any]:
        """Iterate over another service's partial replies; leaving the loop cancels it."""
        headers = self._headers(headers)

        async def start() -> ReplyStream:
            stream = self._runner.client().stream(service, payload, headers=headers, **options)
            return await stream.__aenter__()

        stream = trio.from_thread.run(start)
        try:
            while True:
                try:
                    value = trio.from_thread.run(stream.__anext__)
                except StopAsyncIteration:
                    return
                yield value
        finally:
            trio.from_thread.run_sync(stream.cancel)

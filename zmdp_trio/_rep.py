"""REP servers as services: what clients ask, a server answers that knows nothing of brokers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from ._chance import Backoff
from ._core import bodies
from ._engine import transport_options
from ._errors import Code, ProtocolError, ServiceError
from ._service import Service
from ._settings import DEFAULTS, Settings
from ._transport import DIALLED, Connected, EndpointError, Lost, Port, attend, dial
from ._wire import reqrep
from ._wire.frames import Frame, Frames

#: Seconds before a server that can't be had is dialled again, at first and at most.
FIRST_DELAY: Final = 0.05
LAST_DELAY: Final = 0.6


class _Gone(Exception):
    """A connection has ended, or never came to be; says why."""


class _Line:
    """A connection to the server, for one request at a time.

    What comes is taken by whichever task uses the line; nobody waits for news of one that is idle.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._connected = False
        #: What is to be sent; None when it was.
        self._request: Frames | None = None
        self._awaiting = False
        self._reply: Frames | None = None
        self._failure: _Gone | ProtocolError | None = None
        self._news = trio.Event()

    @property
    def good(self) -> bool:
        """Whether the connection stands, or may come to, and nothing came on it that was not asked for."""
        self._take_news()
        return self._failure is None

    async def connect(self) -> None:
        """Wait for the connection.

        Raises:
            _Gone: there is none.
        """
        await self._run_until(lambda: self._connected and self._failure is None)

    async def ask(self, body: Sequence[Frame]) -> Frames:
        """Send a request, and return the body of the reply.

        Raises:
            _Gone: the connection ended.
            ProtocolError: what came is no reply.
        """
        self._request = [reqrep.DELIMITER, *body]
        await self._run_until(lambda: self._reply is not None)
        assert self._reply is not None
        envelope, reply = reqrep.split(self._reply)
        if len(envelope) > 1:
            raise ProtocolError("it is for somebody else")
        self._reply = None
        return reply

    def close(self) -> None:
        """Let go of the connection, and of whatever still comes on it."""
        self._port.close()

    async def _run_until(self, condition: Callable[[], bool]) -> None:
        # What waits is sent: on a line that was used before, nobody is called until there is news.
        self._take_news()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend, self._port, self._take_news)
            while not condition() and self._failure is None:
                await self._news.wait()
            nursery.cancel_scope.cancel()
        # What was waited for may have come just before the end.
        if self._failure is not None and not condition():
            raise self._failure

    def _take_news(self) -> None:
        """Take what has come, and send what waits, until there is neither."""
        busy = True
        while busy and self._failure is None:
            received = self._port.receive()
            for _, what in received:
                self._hear(what)
            busy = self._send() or bool(received)
        self._news.set()
        self._news = trio.Event()

    def _hear(self, what: Frames | Connected | Lost) -> None:
        if isinstance(what, Connected):
            self._connected = True
        elif isinstance(what, Lost):
            self._failure = self._failure or _Gone(what.reason)
        elif self._awaiting:
            self._awaiting, self._reply = False, what
        else:
            self._failure = ProtocolError("it came unasked")

    def _send(self) -> bool:
        if self._request is None or not self._connected or self._failure is not None:
            return False
        if not self._port.send(DIALLED, self._request):
            return False
        self._request, self._awaiting = None, True
        return True


class _Server:
    """The way to a REP server: as many connections as it has requests of ours at once."""

    def __init__(self, endpoint: str, timeout: float, settings: Settings) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._connect_within = settings.connect
        self._options = transport_options(settings)
        self._idle = [self._dial()]
        self._closed = False

    async def ask(self, body: Sequence[Frame]) -> Any:
        """Return the server's reply to a request: bytes, or a list of bytes if it has several frames.

        Raises:
            ServiceError: UNAVAILABLE, there is none; INTERNAL, it is no good.
        """
        line = await self._connect()
        reply = None
        try:
            with trio.move_on_after(self._timeout):
                reply = await line.ask(body)
        except _Gone as gone:
            raise self._unavailable(f"was lost before it replied: {gone}") from gone
        except ProtocolError as error:
            message = f"the reply of the server at {self._endpoint} is no good: {error}"
            raise ServiceError(Code.INTERNAL, message) from error
        finally:
            # A connection with a reply still to come is of no more use: the next request would get it.
            if reply is None or self._closed:
                line.close()
            else:
                self._idle.append(line)
        if reply is None:
            raise self._unavailable(f"has not replied within {self._timeout:g} s")
        return bytes(reply[0]) if len(reply) == 1 else [bytes(frame) for frame in reply]

    def close(self) -> None:
        """Let go of all connections; of those that a request uses, when it ends."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> _Line:
        """Return a line to the server, a new one if need be.

        Raises:
            ServiceError: UNAVAILABLE, the server can't be reached.
        """
        reason = "no answer"
        backoff = Backoff(FIRST_DELAY, LAST_DELAY)
        with trio.move_on_after(self._connect_within):
            while True:
                try:
                    return await self._try_to_connect()
                except (_Gone, EndpointError) as error:
                    reason = str(error)
                await backoff.pause()
        raise self._unavailable(f"can't be reached: {reason}")

    async def _try_to_connect(self) -> _Line:
        line = self._take_idle() or self._dial()
        try:
            await line.connect()
        except BaseException:
            line.close()
            raise
        return line

    def _take_idle(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.good:
                return line
            line.close()
        return None

    def _dial(self) -> _Line:
        return _Line(dial(self._endpoint, self._options))

    def _unavailable(self, what: str) -> ServiceError:
        return ServiceError(Code.UNAVAILABLE, f"the server at {self._endpoint} {what}")


@asynccontextmanager
async def open_rep_service(
    name: str,
    endpoint: str,
    *,
    concurrency: int = 1,
    timeout: float | None = 60.0,  # noqa: ASYNC109  for each request, not for this function
    settings: Settings | None = None,
) -> AsyncIterator[Service[[Any], Any]]:
    """Make a service of a REP server that runs somewhere, and knows nothing of brokers.

        async with (
            open_rep_service("legacy", "tcp://127.0.0.1:7000") as legacy,
            open_worker([legacy], "tcp://127.0.0.1:5555"),
        ):
            ...

    The server gets bytes as they are, a list of bytes as frames, and anything else as JSON.  Callers get bytes, or a
    list of bytes if the reply has several frames.  A server that goes and comes back is found again; a request that it
    had ends as UNAVAILABLE, and is not sent twice.  When a caller leaves, the server is not told, but the reply reaches
    nobody.

    Args:
        name: what clients ask for.
        endpoint: where the server is bound.
        concurrency: requests that it is given at once, over a connection each.  A REP socket answers one at a time, so
            more than one makes sense where several servers stand behind the endpoint.
        timeout: seconds that a reply may take, before the request ends as UNAVAILABLE; None for no limit.
        settings: of these `connect`, `heartbeat`, `misses`, and `max_message` count.

    Raises:
        EndpointError: the endpoint is malformed.
        ValueError: the name, the concurrency, or the time-out is out of range.
    """
    limit = math.inf if timeout is None else timeout
    if not limit > 0:
        raise ValueError(f"timeout must be seconds above 0, or None, not {timeout!r}")

    async def ask(body: Any) -> Any:
        return await server.ask(body)

    service = Service(name, ask, concurrency=concurrency, expose_errors=False, names={})
    service.decode = bodies.to_frames
    server = _Server(endpoint, limit, settings or DEFAULTS)
    try:
        yield service
    finally:
        server.close()

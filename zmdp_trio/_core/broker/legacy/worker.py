"""A worker that speaks an older dialect, as the broker's machine sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import attrs
import msgspec

from ...._errors import Code, Overloaded, ProtocolError
from ...._wire import commands as c
from ...._wire.frames import UNREADABLE, Frame
from ...._wire.majordomo import Route
from ...._wire.majordomo import messages as m
from ... import bodies
from ...link import COMMAND_BYTES
from .client import OPTIONS
from .peer import LegacyPeer

#: Seconds that READY waits for what follows: a PIGATO worker beats at once, and says how much it takes; others don't.
GRACE: Final = 0.25
#: Requests at once of a PIGATO worker that does not say, and of one that takes any number.
CONCURRENCY: Final = 100
UNLIMITED: Final = 10_000
_read_json = msgspec.json.Decoder().decode
_write_json = msgspec.json.Encoder().encode


class GiveUp(c.Command):
    """Not on any wire: a request is to end with this error, whatever its worker still has to say."""

    error: c.Error


@attrs.define(eq=False)
class Held:
    """A request that the worker has."""

    id: int
    #: Whom it says that its replies are for.
    client: bytes
    #: Credit of its caller.
    messages: int
    bytes: int
    #: Replies beyond that, and what they count for.
    waiting: deque[c.Command] = attrs.field(factory=deque)
    waiting_bytes: int = 0
    #: Its caller has left: what comes is swallowed, until the worker is through.
    swallowed: bool = False


class LegacyWorker(LegacyPeer):
    """One service's requests out, replies in: no faster than their callers give credit for."""

    is_worker = True
    _route_in = Route.WORKER_TO_BROKER
    _route_out = Route.BROKER_TO_WORKER

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held: dict[int, Held] = {}
        #: What it offers; empty before READY.
        self._service = ""
        self._slots = 0

    @property
    def patience(self) -> float:
        """The workers of most dialects can't beat while they work."""
        limit = super().patience
        return max(limit, self._settings.legacy_busy) if self._held else limit

    @property
    def held_bytes(self) -> int:
        return self.outbox_bytes + sum(held.waiting_bytes for held in self._held.values())

    def reset(self) -> None:
        super().reset()
        for held in self._held.values():
            self._ledger.bytes -= held.waiting_bytes
        self._held.clear()

    # ---- in

    def receive(self, frames: Sequence[Frame]) -> list[Any]:
        message = self._read(frames)
        told = self._hears[type(message)](self, message)
        # What waited for credit that has come since goes first.
        found, self._found = self._found, []
        return [*found, *told] if found else told

    def _on_ready(self, ready: m.Ready) -> list[Any]:
        if self._service:
            raise ProtocolError("READY twice")
        if not ready.service:
            raise ProtocolError("READY without a service")
        self._service = ready.service
        if not self._ambiguous and not self.dialect.concurrent:
            return self._offer(1)
        self._timers.set(self, self._timers.now + GRACE)
        return []

    def due(self, now: float) -> Sequence[Any]:
        if self._service and not self._slots:
            # Nothing told that it is PIGATO's, or how much it takes.
            self._settle_on(self._dialects[-1:])
            return [*self._offer(CONCURRENCY if self.dialect.concurrent else 1), *super().due(now)]
        return super().due(now)

    def _offer(self, slots: int) -> list[Any]:
        """Tell the machine how many requests the worker takes at once, if that is news."""
        if not self._slots and self.dialect.acknowledged:
            self.say(m.Ready())
        if slots == self._slots:
            return []
        self._slots = slots
        return [c.Slots(self._service, slots)]

    def _on_heartbeat(self, heartbeat: m.Heartbeat) -> list[Any]:
        self._expect_ready()
        found: list[Any] = []
        if self.dialect.concurrent:
            found = self._offer(_concurrency(heartbeat.options) or self._slots or CONCURRENCY)
        elif not self._slots:
            found = self._offer(1)
        if self.dialect.acknowledged:
            self.say(m.Heartbeat())
        return found

    def _expect_ready(self) -> None:
        if not self._service:
            raise ProtocolError("not READY")

    def _on_disconnect(self, message: m.Disconnect) -> list[Any]:
        return [c.Goodbye()]

    def _find_held(self, message: m.Partial | m.Final | m.Failure | m.Reject) -> Held | None:
        """Return the request that a reply is for; None if that is over."""
        self._expect_ready()
        name = message.id if self.dialect.numbered else message.client
        held = self._held.get(int(name)) if name.isdigit() and len(name) < 20 else None
        if held is None and not self.dialect.numbered:
            raise ProtocolError("a reply to no request")
        return held

    def _on_partial(self, partial: m.Partial) -> list[Any]:
        held = self._find_held(partial)
        if held is None:
            return [c.Partial(0, 0, b"")]
        if held.swallowed:
            return []
        content, body = self._body(partial.body)
        return self._pass_on(held, c.Partial(held.id, content, body))

    def _on_final(self, final: m.Final) -> list[Any]:
        held = self._find_held(final)
        if held is None:
            return [c.Final(0, 0, b"")]
        content, body = self._body(final.body)
        return self._pass_on(held, c.Final(held.id, content, body))

    def _body(self, frames: Sequence[Frame]) -> tuple[int, Any]:
        try:
            return bodies.from_json(frames[0]) if self.dialect.json else bodies.from_frames(frames)
        except ValueError as error:
            raise ProtocolError(f"a reply that is {error}") from None

    def _on_failure(self, failure: m.Failure) -> list[Any]:
        held = self._find_held(failure)
        if held is None:
            return [c.Error(0, "", "", "")]
        return self._pass_on(held, bodies.error_from_json(held.id, failure.error))

    def _on_reject(self, reject: m.Reject) -> list[Any]:
        held = self._find_held(reject)
        return [c.Reject(0)] if held is None else self._end(held, c.Reject(held.id))

    _hears: ClassVar[dict[type[m.Message], Callable[[Any, Any], list[Any]]]] = {
        m.Ready: _on_ready,
        m.Heartbeat: _on_heartbeat,
        m.Partial: _on_partial,
        m.Final: _on_final,
        m.Failure: _on_failure,
        m.Reject: _on_reject,
        m.Disconnect: _on_disconnect,
    }

    # ---- flow control

    def _pass_on(self, held: Held, command: c.Partial | c.Final | c.Error) -> list[Any]:
        """Let the machine have a reply, if its caller has given credit; else keep it, in its turn."""
        if not held.waiting:
            if type(command) is not c.Partial:
                return self._end(held, command)
            if held.messages > 0 and held.bytes > 0:
                self._spend(held, command)
                return [command]
        held.waiting.append(command)
        size = COMMAND_BYTES + _size(command)
        held.waiting_bytes += size
        self._ledger.bytes += size
        if held.waiting_bytes <= self._settings.legacy_buffer and self._ledger.bytes <= self._settings.broker_memory:
            return []
        message = f"its worker can't be paused, and sent {held.waiting_bytes:,} bytes more than its caller reads"
        ended = type(command) is not c.Partial
        self._swallow(held)
        error = c.Error(held.id, Code.RESOURCE_EXHAUSTED.value, Overloaded.reason, message)
        found: list[Any] = [GiveUp(error)]
        return [*found, *self._end(held, c.Error(held.id, Code.CANCELLED.value, "", ""))] if ended else found

    def _spend(self, held: Held, partial: c.Partial) -> None:
        held.messages -= 1
        held.bytes -= len(partial.body)  # type: ignore[arg-type]

    def put_credit(self, credit: c.Credit) -> None:
        """A caller has room for more: let it have what waits."""
        held = self._held.get(credit.id)
        if held is None:
            return
        held.messages += credit.messages
        held.bytes += credit.bytes
        while held.waiting and (type(held.waiting[0]) is not c.Partial or (held.messages > 0 and held.bytes > 0)):
            command = held.waiting.popleft()
            size = COMMAND_BYTES + _size(command)
            held.waiting_bytes -= size
            self._ledger.bytes -= size
            if isinstance(command, c.Partial):
                self._spend(held, command)
                self._find(command)
            else:
                for found in self._end(held, command):
                    self._find(found)

    def _swallow(self, held: Held) -> None:
        held.swallowed = True
        self._ledger.bytes -= held.waiting_bytes
        held.waiting_bytes = 0
        held.waiting.clear()

    def _end(self, held: Held, command: Any) -> list[Any]:
        del self._held[held.id]
        return [command]

    # ---- out

    def _request(self, request: c.Request) -> None:
        id = b"%d" % request.id
        client = request.peer.encode() if self.dialect.numbered and request.peer else id
        held = self._held[request.id] = Held(request.id, client, request.messages, request.bytes)
        body = request.body
        assert body is not None
        try:
            if self.dialect.json:
                frames: Sequence[Frame] = (bodies.to_json(request.content, body),)
            else:
                frames = bodies.to_frames(request.content, body)
        except ValueError as error:
            message = f"the payload: {error}, and its worker speaks {self.dialect.name}"
            self._find(*self._end(held, c.Error(request.id, Code.INVALID_ARGUMENT.value, "", message)))
            return
        options = _options(request) if self.dialect.json else b""
        told = m.Request(frames, service=request.service, id=id, client=client, options=options)
        self.say(told, len(body))

    def _cancel(self, cancel: c.Cancel) -> None:
        """There is no word for it: what the worker still says is swallowed."""
        held = self._held.get(cancel.id)
        if held is None:
            return
        through = bool(held.waiting) and type(held.waiting[-1]) is not c.Partial
        self._swallow(held)
        if through:
            self._find(*self._end(held, c.Error(held.id, Code.CANCELLED.value, "", "")))

    def _goodbye(self, goodbye: c.Goodbye) -> None:
        self.say(m.Disconnect())

    _says: ClassVar[dict[type[c.Command], Callable[[Any, Any], None]]] = {
        c.Request: _request,
        c.Cancel: _cancel,
        c.Goodbye: _goodbye,
    }

    def put_heartbeat(self, id: int, left: float | None = None) -> None:
        """Tell the worker that somebody still waits for a request; that a deadline was moved, it can't be told."""
        held = self._held.get(id)
        if held is not None and left is None and self.dialect.request_beats:
            self.say(m.Heartbeat(id=b"%d" % id, client=held.client))

    def beat(self, *, busy: bool = False) -> None:
        if self._service:
            self.say(m.Heartbeat())

    def farewell(self) -> m.Message:
        return m.Disconnect()


def _size(command: c.Command) -> int:
    return len(command.body) if isinstance(command, c.Partial | c.Final) else 0  # type: ignore[arg-type]


def _concurrency(options: Frame) -> int:
    """Return how many requests a PIGATO worker says it takes at once; 0 if it does not say."""
    try:
        value = _read_json(options).get("concurrency") if len(options) else None
    except (*UNREADABLE, AttributeError):
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return UNLIMITED if value < 0 else min(value, UNLIMITED)


def _options(request: c.Request) -> bytes:
    """Return what a PIGATO worker is told beside the payload: a caller's own options, or what they would be."""
    headers = dict(request.headers or {})
    own = headers.pop(OPTIONS, None)
    if own is not None:
        return own.encode()
    options: dict[str, Any] = {"timeout": -1 if request.timeout is None else int(request.timeout * 1000)}
    if request.retry:
        options["retry"] = request.retry
    if headers:
        options["headers"] = headers
    return _write_json(options)

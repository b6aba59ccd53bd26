"""A worker that speaks an older dialect, as the broker's machine sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from ...._errors import Code, InvalidArgument, ProtocolError
from ...._wire import commands as c
from ...._wire.majordomo import Route
from ...._wire.majordomo import messages as m
from ... import bodies, options
from .replies import GiveUp, Held, PacedReplies, cancelled

#: Seconds that READY waits for what follows: a PIGATO worker beats at once, and says how much it takes; others don't.
GRACE: Final = 0.25
#: Requests at once of a PIGATO worker that does not say, and of one that takes any number.
CONCURRENCY: Final = 100
UNLIMITED: Final = 10_000
#: Digits of the largest id of a request.
_DIGITS: Final = 20
#: Stands for a reply to a request that is over, which the machine counts, whatever it says.
_LATE: Final = c.Partial(0, 0, b"")


class NotReady(ProtocolError):
    """A worker says something before READY, or another broker heard it: it is to start over."""


class LegacyWorker(PacedReplies):
    """One service's requests out, replies in: no faster than their callers give credit for."""

    is_worker = True
    _route_in = Route.WORKER_TO_BROKER
    _route_out = Route.BROKER_TO_WORKER
    #: What it runs is lost with its connection.
    may_return = False
    queues = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: What it offers; empty before READY.
        self._service = ""
        #: How many requests it takes at once; None while that is open.
        self._slots: int | None = None
        #: Whether it was given a request since the last beat.
        self._given = False

    @property
    def patience(self) -> float:
        """The workers of most dialects can't beat while they work."""
        limit = super().patience
        return max(limit, self._settings.legacy_busy) if self._held else limit

    # ---- in

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
        if not self._service or self._slots is not None:
            return super().due(now)
        # Nothing told that it is PIGATO's, or how much it takes.
        self._settle_on(self._dialects[-1:])
        return self._offer(CONCURRENCY if self.dialect.concurrent else 1)

    def _offer(self, slots: int) -> list[Any]:
        """Tell the machine how many requests the worker takes at once, if that is news."""
        if self._slots is None and self.dialect.acknowledged:
            self.say(m.Ready())
        if slots == self._slots:
            return []
        self._slots = slots
        return [c.Slots(self._service, slots)]

    def _on_heartbeat(self, heartbeat: m.Heartbeat) -> list[Any]:
        self._expect_ready()
        found: list[Any] = []
        if self.dialect.concurrent:
            found = self._offer(self._concurrency(heartbeat))
        elif self._slots is None:
            found = self._offer(1)
        if self.dialect.acknowledged:
            self._say_alive()
        return found

    def _concurrency(self, heartbeat: m.Heartbeat) -> int:
        slots = options.concurrency(heartbeat.options)
        if slots is None:
            return CONCURRENCY if self._slots is None else self._slots
        return min(slots, UNLIMITED) if slots >= 0 else UNLIMITED

    def _expect_ready(self) -> None:
        if not self._service:
            raise NotReady("not READY")

    def _on_disconnect(self, message: m.Disconnect) -> list[Any]:
        return [c.Goodbye()]

    def _find_held(self, message: m.Partial | m.Final | m.Failure | m.Reject) -> Held | None:
        """Return the request that a reply is for; None if that is over."""
        name = message.id if self.dialect.numbered else message.client
        held = self._held.get(int(name)) if name.isdigit() and len(name) < _DIGITS else None
        if held is None:
            self._expect_ready()
            if not self.dialect.numbered:
                raise ProtocolError("a reply to no request")
        return held

    def _on_partial(self, partial: m.Partial) -> list[Any]:
        held = self._find_held(partial)
        if held is None:
            return [_LATE]
        if held.swallowed:
            return []
        try:
            content, body = bodies.read(self.dialect, partial.body)
        except ValueError as error:
            self._swallow(held)
            return [GiveUp(_unreadable(held, error))]
        return self._pass_on(held, c.Partial(held.id, content, body))

    def _on_final(self, final: m.Final) -> list[Any]:
        held = self._find_held(final)
        if held is None:
            return [_LATE]
        try:
            content, body = bodies.read(self.dialect, final.body)
        except ValueError as error:
            return self._pass_on(held, _unreadable(held, error))
        return self._pass_on(held, c.Final(held.id, content, body))

    def _on_failure(self, failure: m.Failure) -> list[Any]:
        held = self._find_held(failure)
        if held is None:
            return [_LATE]
        return self._pass_on(held, bodies.error_from_json(held.id, failure.error))

    def _on_reject(self, reject: m.Reject) -> list[Any]:
        held = self._find_held(reject)
        return [_LATE] if held is None else self._end(held, c.Reject(held.id))

    _hears: ClassVar[dict[type[m.Message], Callable[[Any, Any], list[Any]]]] = {
        m.Ready: _on_ready,
        m.Heartbeat: _on_heartbeat,
        m.Partial: _on_partial,
        m.Final: _on_final,
        m.Failure: _on_failure,
        m.Reject: _on_reject,
        m.Disconnect: _on_disconnect,
    }

    # ---- out

    def _request(self, request: c.Request) -> None:
        id = b"%d" % request.id
        client = request.peer.encode() if self.dialect.numbered and request.peer else id
        held = self._held[request.id] = Held(request.id, client, request.messages, request.bytes)
        assert request.body is not None
        try:
            body = bodies.say(self.dialect, request.content, request.body)
        except ValueError as error:
            message = f"the payload: {error}, and its worker speaks {self.dialect.name}"
            refusal = c.Error(request.id, Code.INVALID_ARGUMENT.value, InvalidArgument.reason, message)
            self._find(*self._end(held, refusal))
            return
        told = options.for_worker(request) if self.dialect.options else b""
        self._given = True
        self.say(m.Request(body, service=request.asked or request.service, id=id, client=client, options=told))

    def _cancel(self, cancel: c.Cancel) -> None:
        """There is no word for it: what the worker still says is swallowed."""
        held = self._held.get(cancel.id)
        if held is None:
            return
        through = bool(held.waiting and type(held.waiting[-1]) is not c.Partial)
        self._swallow(held)
        if through:
            self._find(*self._end(held, cancelled(held)))

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
        if held is not None and left is None and self.dialect.request_beats and not held.beating:
            held.beating = True
            self.say(m.Heartbeat(id=b"%d" % id, client=held.client), held)

    def _left(self, held: Held) -> None:
        held.beating = False

    def beat(self, *, busy: bool = False) -> None:
        # RFC 7 and 18: no heartbeats while other commands are sent.
        if self._service and not self._given:
            self._say_alive()
        self._given = False


def _unreadable(held: Held, error: ValueError) -> c.Error:
    """Return what ends a request alone, whatever else its worker runs: Node makes such JSON of half a character."""
    return c.Error(held.id, Code.INTERNAL.value, "", f"a reply of its worker: {error}")

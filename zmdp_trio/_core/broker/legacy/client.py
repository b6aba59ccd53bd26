"""A client that speaks an older dialect, as the broker's machine sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from ...._errors import Code, ProtocolError
from ...._wire import commands as c
from ...._wire.frames import UNREADABLE, Frame, Frames
from ...._wire.majordomo import Route
from ...._wire.majordomo import messages as m
from ... import bodies
from .peer import Due, LegacyPeer

if TYPE_CHECKING:
    from ..session import Session

#: Seconds after which a request of OMDP or PIGATO times out, if its options don't say; in them, milliseconds.
TIMEOUT: Final = 60.0
#: Replies stop this many seconds, at most, before their client gives up: one that is on its way then would kill it.
MARGIN: Final = 0.1
#: Options that say something to the broker; whatever else is in them is for the worker, which gets all in a header.
_BROKERS: Final = frozenset(("timeout", "retry", "workerId", "persist"))
OPTIONS: Final = "opts"
_read_json = msgspec.json.Decoder().decode


class Call(Due):
    """A request of a legacy client, until its last reply has been queued, or it was given up."""

    __slots__ = ("heard", "id", "joined", "joined_bytes", "link", "rid", "service", "timeout")

    def __init__(self, link: LegacyClient, id: int, request: m.Request, timeout: float, now: float) -> None:
        self.link = link
        self.id = id
        self.rid = request.id
        self.service = request.service
        #: Longest silence between replies, in seconds.
        self.timeout = timeout
        self.heard = now
        #: Frames of partial replies, where the dialect has none: they come with the final one.
        self.joined: list[Frame] = []
        self.joined_bytes = 0

    @property
    def session(self) -> Session:
        return self.link.session

    @property
    def expires(self) -> float:
        """When its client gives it up, or a little before."""
        return self.heard + self.timeout - min(MARGIN, self.timeout / 4)

    @property
    def last(self) -> tuple[Call, int, int] | None:
        """What is to be told when its last reply has left: only of one that may come too late."""
        return None if self.timeout == math.inf else (self, 0, 0)

    def due(self, now: float) -> Sequence[Any]:
        return self.link.expire(self, now)


class LegacyClient(LegacyPeer):
    """Requests in, replies out, with credit and time-outs on the client's behalf.

    A worker's signs of life are not passed on: to OMDP's clients they are errors, the others have no form for them.
    """

    is_worker = False
    _route_in = Route.CLIENT_TO_BROKER
    _route_out = Route.BROKER_TO_CLIENT

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calls: dict[int, Call] = {}
        self._ids: dict[bytes, Call] = {}
        self._next_id = 0

    @property
    def patience(self) -> float:
        """Clients of MDP don't beat: their connection tells."""
        return super().patience if self.dialect.client_beats else math.inf

    @property
    def held_bytes(self) -> int:
        return self.outbox_bytes + sum(call.joined_bytes for call in self._calls.values())

    def reset(self) -> None:
        super().reset()
        for call in list(self._calls.values()):
            self._forget(call)

    # ---- in

    def receive(self, frames: Sequence[Frame]) -> list[Any]:
        message = self._read(frames)
        if type(message) is m.Request:
            return self._receive_request(message)
        assert isinstance(message, m.Heartbeat)
        if message.id:
            call = self._ids.get(message.id)
            return [] if call is None else [c.Heartbeat([c.Held(call.id)])]
        if self.dialect.acknowledged:
            self.say(m.Heartbeat())
        return []

    def _receive_request(self, request: m.Request) -> list[Any]:
        numbered = self.dialect.numbered
        if numbered and request.id in self._ids:
            raise ProtocolError("a request with the id of one that is not over")
        options = _options(request.options) if numbered else {}
        timeout = _seconds(options.get("timeout")) if numbered else math.inf
        self._next_id += 1
        call = self._calls[self._next_id] = Call(self, self._next_id, request, timeout, self._timers.now)
        if numbered:
            self._ids[call.rid] = call
            self._timers.set(call, call.expires)
        try:
            content, body = self._body(request)
        except ValueError as error:
            self._fail(c.Error(call.id, Code.INVALID_ARGUMENT.value, "", f"the payload: {error}"))
            return []
        if options.get("persist"):
            message = "`persist`: this broker keeps requests in memory, and promises nothing else"
            self._fail(c.Error(call.id, Code.UNIMPLEMENTED.value, "", message))
            return []
        credit = self._settings.credit_messages, self._settings.credit_bytes
        command = c.Request(call.id, request.service, content, body, *credit)
        if numbered:
            command.timeout = None if timeout == math.inf else timeout
            command.retry = _retries(options.get("retry"))
            command.worker = options.get("workerId") or None
            if not isinstance(command.worker, str | None):
                command.worker = str(command.worker)
            if not options.keys() <= _BROKERS:
                command.headers = {OPTIONS: bytes(request.options).decode()}
        return [command]

    def _body(self, request: m.Request) -> tuple[int, Any]:
        if self.dialect.json:
            return bodies.from_json(request.body[0])
        return bodies.from_frames(request.body)

    # ---- out

    def _partial(self, partial: c.Partial) -> None:
        call = self._calls.get(partial.id)
        if call is None:
            return
        size = len(partial.body)  # type: ignore[arg-type]
        try:
            if not self.dialect.partials:
                self._join(call, partial, size)
                return
            body = self._say_body(partial, partial=True)
        except ValueError as error:
            self._break_off(call, c.Error(call.id, Code.INTERNAL.value, "", f"a partial reply: {error}"))
            return
        self.say(m.Partial(body, service=call.service, id=call.rid), size, (call, 1, size))

    def _say_body(self, reply: c.Partial | c.Final, *, partial: bool = False) -> Sequence[Frame]:
        content, body = reply.content, reply.body
        assert body is not None
        if not self.dialect.json:
            return bodies.to_frames(content, body)
        return (bodies.partial_to_json(content, body) if partial else bodies.to_json(content, body),)

    def _join(self, call: Call, partial: c.Partial, size: int) -> None:
        """Keep a partial reply for the one reply that the dialect has; its worker may go on."""
        if call.joined_bytes + size > self._settings.max_message:
            limit = f"{self._settings.max_message:,} bytes"
            error = c.Error(call.id, Code.RESOURCE_EXHAUSTED.value, "", f"partial replies add up to more than {limit}")
            self._break_off(call, error)
            return
        call.joined.extend(bodies.to_frames(partial.content, partial.body))  # type: ignore[arg-type]
        call.joined_bytes += size
        self._ledger.bytes += size
        self._find(c.Credit(call.id, 1, size))

    def _final(self, final: c.Final) -> None:
        call = self._calls.get(final.id)
        if call is None:
            return
        try:
            body = self._say_body(final)
        except ValueError as error:
            self._fail(c.Error(call.id, Code.INTERNAL.value, "", f"the reply: {error}"))
            return
        if call.joined:
            body = [*call.joined, *body]
        size = len(final.body) + call.joined_bytes  # type: ignore[arg-type]
        self._forget(call)
        self.say(m.Final(body, service=call.service, id=call.rid), size, call.last)

    def _fail(self, error: c.Error) -> None:
        call = self._calls.get(error.id)
        if call is None:
            return
        self._forget(call)
        if self.dialect.failures:
            self.say(m.Failure(bodies.error_to_json(error), id=call.rid), 0, call.last)
        elif self._settings.mdp_errors:
            self.say(m.Final((bodies.error_to_frame(error),), service=call.service), 0, call.last)

    def _break_off(self, call: Call, error: c.Error) -> None:
        """Tell the client what went wrong, and have the machine cancel its request."""
        self._fail(error)
        self._find(c.Cancel(error.id))

    _says: ClassVar[dict[type[c.Command], Callable[[Any, Any], None]]] = {
        c.Partial: _partial,
        c.Final: _final,
        c.Error: _fail,
    }

    def next_batch(self) -> Frames | None:
        while self.outbox and (told := self.outbox[0][2]) is not None and self._timers.now >= told[0].expires:
            # Its client has given up, or is about to: what comes now would be an error there, and often the last one.
            self._pop()
        return super().next_batch()

    def _left(self, told: tuple[Call, int, int]) -> None:
        call, messages, size = told
        call.heard = self._timers.now
        if messages and call.id in self._calls:
            # As its outbox drains, a client that knows no credit has room for more.
            self._find(c.Credit(call.id, messages, size))

    # ---- time

    def expire(self, call: Call, now: float) -> Sequence[Any]:
        """A request was silent for as long as its client waits: it hears no more of it."""
        if now < call.expires:
            self._timers.set(call, call.expires)
            return ()
        self._forget(call)
        return (c.Cancel(call.id),)

    def _forget(self, call: Call) -> None:
        del self._calls[call.id]
        if self.dialect.numbered:
            del self._ids[call.rid]
            self._timers.cancel(call)
        self._ledger.bytes -= call.joined_bytes


def _options(text: Frame) -> dict[str, Any]:
    """Return a request's options; what is unreadable is none, as PIGATO's own broker has it."""
    try:
        options = _read_json(text) if len(text) else None
    except UNREADABLE:
        return {}
    return options if isinstance(options, dict) else {}


def _seconds(milliseconds: Any) -> float:
    """Return the time-out that options ask for; a negative one is none."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool) or not milliseconds:
        return TIMEOUT
    return math.inf if milliseconds < 0 else milliseconds / 1000


def _retries(value: Any) -> int:
    """Return how often options allow a request to run again."""
    return int(min(value, c.MAX_RETRY)) if isinstance(value, int | float) and value > 0 else 0

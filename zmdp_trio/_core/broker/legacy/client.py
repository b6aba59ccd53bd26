"""A client that speaks an older dialect, as the broker's machine sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from ...._errors import Code, ProtocolError
from ...._wire import commands as c
from ...._wire.frames import Frame, Frames
from ...._wire.majordomo import Route
from ...._wire.majordomo import messages as m
from ... import bodies, options
from ...options import Options
from ...weights import COMMAND_BYTES
from .peer import Finder, LegacyPeer

#: Replies stop this many seconds, at most, before their client gives up: one that is on its way then would kill it.
MARGIN: Final = 0.1
#: What a request of MDP has: its clients can't say.
_NO_OPTIONS: Final = Options(timeout=math.inf)


class Call(Finder):
    """A request of a legacy client, until its last reply has left, or it was given up."""

    __slots__ = ("heard", "id", "joined", "joined_bytes", "link", "rid", "service", "session", "timeout")

    def __init__(self, link: LegacyClient, id: int, request: m.Request, timeout: float, now: float) -> None:
        self.link = link
        self.session = link.session
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
    def expires(self) -> float:
        """When its client gives it up, or a little before."""
        return self.heard + self.timeout - min(MARGIN, self.timeout / 4)

    def due(self, now: float) -> Sequence[Any]:
        return self.link.expire(self, now)


class Reply(NamedTuple):
    """What is told of a message in the outbox: whose reply it is, and the credit that it used; the last one, none."""

    call: Call
    messages: int = 0
    bytes: int = 0


class LegacyClient(LegacyPeer):
    """Requests in, replies out, with credit and time-outs on the client's behalf.

    A worker's signs of life are not passed on: to OMDP's clients they are errors, the others have no form for them.
    """

    is_worker = False
    _route_in = Route.CLIENT_TO_BROKER
    _route_out = Route.BROKER_TO_CLIENT

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: Requests that have no last reply yet, and of those with ids of their client's, by these.
        self._calls: dict[int, Call] = {}
        self._ids: dict[bytes, Call] = {}
        self._next_id = 0
        #: Bytes of all partial replies that wait for the final ones.
        self._joined_bytes = 0

    @property
    def queues(self) -> bool:
        """How long it waits itself, nobody knows."""
        return not self.dialect.numbered

    @property
    def patience(self) -> float:
        """Clients of MDP don't beat: their connection tells."""
        return super().patience if self.dialect.client_beats else math.inf

    @property
    def may_return(self) -> bool:
        """It has a name of its own choosing, and says so when it is back, by a heartbeat at least."""
        return self.dialect.client_beats and self._identity[:1] != b"\0"

    @property
    def held_bytes(self) -> int:
        return self.outbox_bytes + self._joined_bytes

    def reset(self) -> None:
        super().reset()
        for call in list(self._calls.values()):
            self._give_up(call)

    # ---- in

    def _on_heartbeat(self, heartbeat: m.Heartbeat) -> list[Any]:
        if heartbeat.id:
            call = self._ids.get(heartbeat.id)
            return [] if call is None else [c.Heartbeat([c.Held(call.id)])]
        if self.dialect.acknowledged:
            self._say_alive()
        return []

    def _on_request(self, request: m.Request) -> list[Any]:
        numbered, limit = self.dialect.numbered, self._settings.max_headers
        if numbered and request.id in self._ids:
            raise ProtocolError("a request with the id of one that is not over")
        too_large = len(request.options) > limit
        wishes = _NO_OPTIONS if not numbered else Options() if too_large else options.read(request.options)
        call = self._enter(request, wishes.timeout)
        if too_large:
            return self._refuse(call, Code.INVALID_ARGUMENT, f"the options are above {limit:,} bytes")
        if wishes.persist:
            message = "`persist`: this broker keeps requests in memory, and promises nothing else"
            return self._refuse(call, Code.UNIMPLEMENTED, message)
        try:
            content, body = bodies.read(self.dialect, request.body)
        except ValueError as error:
            return self._refuse(call, Code.INVALID_ARGUMENT, f"the payload: {error}")
        credit = self._settings.credit_messages, self._settings.credit_bytes
        command = c.Request(call.id, request.service, content, body, *credit)
        if numbered:
            command.timeout = None if call.timeout == math.inf else call.timeout
            command.retry, command.worker, command.headers = wishes.retry, wishes.worker, wishes.headers
        return [command]

    def _enter(self, request: m.Request, timeout: float) -> Call:
        self._next_id += 1
        call = self._calls[self._next_id] = Call(self, self._next_id, request, timeout, self._timers.now)
        if self.dialect.numbered:
            self._ids[call.rid] = call
            self._timers.set(call, call.expires)
        return call

    def _refuse(self, call: Call, code: Code, message: str) -> list[Any]:
        """End a request that the machine never hears of."""
        self._fail(c.Error(call.id, code.value, "", message))
        return []

    _hears: ClassVar[dict[type[m.Message], Callable[[Any, Any], list[Any]]]] = {
        m.Request: _on_request,
        m.Heartbeat: _on_heartbeat,
    }

    # ---- out

    def _partial(self, partial: c.Partial) -> None:
        call = self._calls.get(partial.id)
        if call is None:
            return
        try:
            if not self.dialect.partials:
                self._join(call, partial)
                return
            body = self._say_body(partial, partial=True)
        except ValueError as error:
            self._break_off(call, Code.INTERNAL, self._unsayable("a partial reply", error))
            return
        size = len(partial.body)  # type: ignore[arg-type]
        self.say(m.Partial(body, service=call.service, id=call.rid), Reply(call, 1, size))

    def _say_body(self, reply: c.Partial | c.Final, *, partial: bool = False) -> Sequence[Frame]:
        assert reply.body is not None
        return bodies.say(self.dialect, reply.content, reply.body, partial=partial)

    def _unsayable(self, what: str, error: ValueError) -> str:
        return f"{what}: {error}, and its caller speaks {self.dialect.name}"

    def _join(self, call: Call, partial: c.Partial) -> None:
        """Keep a partial reply for the one reply that the dialect has; its worker may go on."""
        frames = self._say_body(partial)
        size = sum(map(len, frames)) + COMMAND_BYTES * len(frames)
        if call.joined_bytes + size > self._settings.max_message:
            limit = f"{self._settings.max_message:,} bytes"
            self._break_off(call, Code.RESOURCE_EXHAUSTED, f"partial replies add up to more than {limit}")
            return
        call.joined.extend(frames)
        self._count_joined(call, size)
        self._find(c.Credit(call.id, 1, len(partial.body)))  # type: ignore[arg-type]

    def _count_joined(self, call: Call, size: int) -> None:
        call.joined_bytes += size
        self._joined_bytes += size
        self._ledger.bytes += size

    def _final(self, final: c.Final) -> None:
        call = self._calls.get(final.id)
        if call is None:
            return
        try:
            body = self._say_body(final)
        except ValueError as error:
            self._fail(c.Error(call.id, Code.INTERNAL.value, "", self._unsayable("the reply", error)))
            return
        if call.joined:
            body = [*call.joined, *body]
        self._say_last(call, m.Final(body, service=call.service, id=call.rid))

    def _fail(self, error: c.Error) -> None:
        call = self._calls.get(error.id)
        if call is None:
            return
        if self.dialect.failures:
            self._say_last(call, m.Failure(bodies.error_to_json(error), id=call.rid))
        elif self._settings.mdp_errors:
            self._say_last(call, m.Final((bodies.error_to_frame(error),), service=call.service))
        else:
            self._forget(call)

    def _say_last(self, call: Call, message: m.Message) -> None:
        """Send what ends a request; its time goes on until that has left."""
        self._forget(call)
        self.say(message, None if call.timeout == math.inf else Reply(call))

    def _break_off(self, call: Call, code: Code, message: str) -> None:
        """Tell the client what went wrong, and have the machine cancel its request."""
        self._fail(c.Error(call.id, code.value, "", message))
        self._find(c.Cancel(call.id))

    _says: ClassVar[dict[type[c.Command], Callable[[Any, Any], None]]] = {
        c.Partial: _partial,
        c.Final: _final,
        c.Error: _fail,
    }

    def next_batch(self) -> Frames | None:
        while self.outbox:
            frames, _, reply = self.outbox[0]
            if reply is None or self._timers.now < reply.call.expires:
                return frames
            # Its client has given up, or is about to: what comes now would be an error there, and often the last one.
            self._pop()
        return None

    def _taken_out(self, reply: Reply) -> None:
        if not reply.messages:
            self._timers.cancel(reply.call)

    def _left(self, reply: Reply) -> None:
        call = reply.call
        call.heard = self._timers.now
        if reply.messages and call.id in self._calls:
            # As its outbox drains, a client that knows no credit has room for more.
            self._find(c.Credit(call.id, reply.messages, reply.bytes))

    # ---- time

    def expire(self, call: Call, now: float) -> Sequence[Any]:
        """A request was silent for as long as its client waits: it hears no more of it."""
        if now < call.expires:
            self._timers.set(call, call.expires)
            return ()
        if call.id not in self._calls:
            # Its last reply has not left yet, and won't any more.
            self.schedule()
            return ()
        self._give_up(call)
        return (c.Cancel(call.id),)

    def _give_up(self, call: Call) -> None:
        """A request is over, and its client hears no more of it."""
        self._forget(call)
        self._timers.cancel(call)

    def _forget(self, call: Call) -> None:
        """A request is over, but for the last reply, which may not have left."""
        del self._calls[call.id]
        if self.dialect.numbered:
            del self._ids[call.rid]
        if call.joined_bytes:
            self._count_joined(call, -call.joined_bytes)

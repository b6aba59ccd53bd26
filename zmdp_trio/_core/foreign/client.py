"""Our client at a broker of another kind.

Where requests have ids, one lane carries all of them.  Where they have none, what comes over a lane belongs to the one
request that was sent over it, so each request in flight has a lane of its own; a lane whose request was left before its
final reply is closed, since what comes late would be taken for the next one's.  A request for which there is no lane
waits for one.

Nobody can be told to pause: replies beyond what their reader has given credit for wait here, up to a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import attrs

from ..._errors import BrokerLost, Code, DeadlineExceeded, Overloaded, ProtocolError
from ..._wire import commands as c
from ..._wire.frames import Frame, Frames
from ..._wire.majordomo import Route
from ..._wire.majordomo import messages as m
from .. import bodies, options
from .lane import ForeignLane
from .link import ForeignLink

#: Lanes to one broker; further requests wait for one of these.
MAX_LANES: Final = 256
#: Seconds after which a lane that nobody uses is closed, unless it is the only one.
IDLE: Final = 30.0
#: What a reply that waits counts for beside its body.
OVERHEAD: Final = 256


@attrs.define(eq=False)
class Ask:
    """A request, until the machine has got its last reply."""

    request: c.Request
    #: The machine's id for it; the request gets another one if it is sent anew.
    id: int
    #: As the broker knows it; empty where requests have no ids.
    rid: bytes
    #: What its reader takes now.
    messages: int
    bytes: int
    #: Where it was sent, until the last reply came; and as what.
    lane: ClientLane | None = None
    frames: Frames = attrs.field(factory=list)
    #: Replies that its reader does not take yet, and what they count for.
    waiting: deque[Any] = attrs.field(factory=deque)
    waiting_bytes: int = 0

    def takes(self, reply: c.Command) -> bool:
        """Whether its reader takes a reply now; count it if so."""
        if type(reply) is not c.Partial:
            return True
        if self.messages <= 0 or self.bytes <= 0:
            return False
        self.messages -= 1
        self.bytes -= len(reply.body)  # type: ignore[arg-type]
        return True


class ClientLane(ForeignLane):
    """A client's connection: with the request that it carries, where it can carry one only."""

    def __init__(self, link: ForeignLink, name: str) -> None:
        super().__init__(link, name)
        self.ask: Ask | None = None
        #: Since when it has carried nothing.
        self.idle_since = 0.0


class ClientLink(ForeignLink):
    """Requests out, replies in."""

    _in = Route.BROKER_TO_CLIENT
    _out = Route.CLIENT_TO_BROKER

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asks: dict[int, Ask] = {}
        self._by_rid: dict[bytes, Ask] = {}
        #: What waits for a lane, in order.
        self._queue: dict[Ask, None] = {}
        self._lanes: dict[ClientLane, None] = {self._new_lane(): None}
        #: Lanes that are connected and carry nothing; the last one is used next, so that the others may grow old.
        self._free: list[ClientLane] = []

    def _new_lane(self) -> ClientLane:
        return ClientLane(self, self.lane_name())

    def lanes(self) -> Sequence[ForeignLane]:
        return list(self._lanes)

    def routing_id(self) -> bytes:
        # The brokers of OMDP and PIGATO read it as text, and PIGATO's peers are known by its look.
        if self.dialect.acknowledged:
            return b"C%b-%b" % (self._names.uuid(), self._names.uuid())
        return b"C" + self._names.short() if self.dialect.numbered else b""

    # ---- what the machine says

    def _ask(self, request: c.Request) -> None:
        rid = b""
        if self.dialect.numbered:
            rid = self._names.uuid() if self.dialect.acknowledged else self._names.short()
        ask = Ask(request, request.id, rid, request.messages, request.bytes)
        self._asks[ask.id] = ask
        if rid:
            self._by_rid[rid] = ask
        self._queue[ask] = None
        self._assign()

    def _cancel(self, command: c.Cancel) -> None:
        ask = self._asks.pop(command.id, None)
        if ask is not None:
            self._let_go(ask)

    def _credit(self, credit: c.Credit) -> None:
        ask = self._asks.get(credit.id)
        if ask is None:
            return
        ask.messages += credit.messages
        ask.bytes += credit.bytes
        passed = []
        while ask.waiting and ask.takes(ask.waiting[0]):
            passed.append(ask.waiting.popleft())
            ask.waiting_bytes -= _weight(passed[-1])
        if passed:
            self.find(*passed)
            if ask.lane is None and not ask.waiting:
                del self._asks[ask.id]

    _says: ClassVar[dict[type[c.Command], Any]] = {c.Request: _ask, c.Cancel: _cancel, c.Credit: _credit}

    # ---- lanes

    def _assign(self) -> None:
        """Send what waits, as far as there are lanes; open more if there are too few."""
        queue, free = self._queue, self._free
        while queue and free:
            ask = next(iter(queue))
            del queue[ask]
            self._send(ask, free[-1] if self.dialect.numbered else free.pop())
        self._open_lanes()

    def _send(self, ask: Ask, lane: ClientLane) -> None:
        request = ask.request
        message = m.Request(
            bodies.to_frames(request.content, request.body),  # type: ignore[arg-type]
            service=request.service,
            id=ask.rid,
            options=options.for_broker(request) if self.dialect.json else b"",
        )
        ask.lane, ask.frames = lane, self.encode(message)
        if self.exclusive:
            lane.ask = ask
        lane.send(ask.frames)

    def _open_lanes(self) -> None:
        """Have a lane on its way for each request that waits, within the limit, and one at all times."""
        if not self.exclusive:
            return
        coming = sum(not lane.up for lane in self._lanes)
        while len(self._lanes) < MAX_LANES and (coming < len(self._queue) or not self._lanes):
            lane = self._new_lane()
            self._lanes[lane] = None
            self.wiring.opened.append(lane)
            coming += 1

    def _free_lane(self, lane: ClientLane) -> None:
        """A lane carries nothing any more."""
        lane.ask = None
        lane.idle_since = self.now
        self._free.append(lane)

    def _close(self, lane: ClientLane) -> None:
        del self._lanes[lane]
        if lane in self._free:
            self._free.remove(lane)
        lane.part(lane.reason)
        lane.end()

    def _let_go(self, ask: Ask) -> None:
        """Nobody wants a request's replies any more."""
        ask.waiting.clear()
        self._by_rid.pop(ask.rid, None)
        self._queue.pop(ask, None)
        lane, ask.lane = ask.lane, None
        if lane is not None:
            unsent = lane.unsend(ask.frames)
            if self.exclusive and unsent:
                self._free_lane(lane)
            elif self.exclusive:
                self._close(lane)
        self._assign()

    def joined(self, lane: ForeignLane) -> None:
        assert isinstance(lane, ClientLane)
        self._free_lane(lane)
        if self.dialect.acknowledged:
            self._beat_lane(lane)
        self._assign()

    def parted(self, lane: ForeignLane, reason: str) -> None:
        assert isinstance(lane, ClientLane)
        was_up = lane.up
        again = [ask for ask in self._asks.values() if ask.lane is lane and lane.has(ask.frames)]
        lane.part(reason)
        if lane in self._free:
            self._free.remove(lane)
        for ask in again:
            ask.lane = None
        self._queue = dict.fromkeys([*again, *self._queue])
        if self.exclusive:
            ask, lane.ask = lane.ask, None  # type: ignore[assignment]
            if ask is not None and ask.lane is lane:
                self._end(ask, _error(ask, BrokerLost(f"the connection is lost: {reason}")))
            if was_up:
                # The broker may be gone: what is sent next goes over a connection that was made after this.
                for idle in self._free[:]:
                    self._close(idle)

    def drop_outbox(self) -> list[c.Command]:
        super().drop_outbox()
        unsent: list[c.Command] = [ask.request for ask in self._queue]
        self._asks.clear()
        self._by_rid.clear()
        self._queue.clear()
        for lane in list(self._lanes)[1:]:
            self._close(lane)
        for lane in self._lanes:
            lane.ask = None
        return unsent

    # ---- replies

    def receive(self, lane: ForeignLane, frames: Sequence[Frame], now: float) -> list[Any]:
        assert isinstance(lane, ClientLane)
        self.now = now
        if lane.closed:
            return []
        message = self.decode(frames)
        if isinstance(message, m.Heartbeat):
            return []
        assert isinstance(message, m.Partial | m.Final | m.Failure)
        ask = self._by_rid.get(message.id) if self.dialect.numbered else lane.ask
        if ask is None:
            if self.exclusive:
                raise ProtocolError("a reply to no request")
            # The machine counts what comes for nobody; its ids begin with 1.
            return [c.Final(0, c.Content.BYTES, b"")]
        reply = self._read(ask, message)
        if not isinstance(message, m.Partial):
            self._by_rid.pop(ask.rid, None)
            ask.lane = None
            if self.exclusive:
                self._free_lane(lane)
                self._assign()
        return self._pass_on(ask, reply)

    def _read(self, ask: Ask, message: m.Partial | m.Final | m.Failure) -> Any:
        if isinstance(message, m.Failure):
            error = bodies.error_from_json(ask.id, message.error)
            if error.code == DeadlineExceeded.default_code.value:
                # There are no reasons in these dialects, but whoever says so means the caller's limit.
                error.reason = DeadlineExceeded.reason
            return error
        if message.service and message.service != ask.request.service:
            raise ProtocolError(f"a reply of {message.service[:80]!r} to a request for {ask.request.service[:80]!r}")
        try:
            content, body = bodies.read(self.dialect, message.body)
        except ValueError:
            # Whoever reads it is told that it can't be read.
            content, body = c.Content.JSON, message.body[0]
        return (c.Partial if isinstance(message, m.Partial) else c.Final)(ask.id, int(content), body)

    def _pass_on(self, ask: Ask, reply: Any) -> list[Any]:
        """Return a reply if its reader takes it now; else keep it, or if there are too many, end the request."""
        if ask.waiting or not ask.takes(reply):
            ask.waiting.append(reply)
            ask.waiting_bytes += _weight(reply)
            if ask.waiting_bytes <= self.settings.legacy_buffer:
                return []
            message = f"the reader is too slow: {ask.waiting_bytes:,} bytes of replies wait for it"
            reply = c.Error(ask.id, Code.RESOURCE_EXHAUSTED.value, Overloaded.reason, message)
            self._let_go(ask)
        if type(reply) is not c.Partial:
            self._asks.pop(ask.id, None)
        return [reply]

    def _end(self, ask: Ask, error: c.Error) -> None:
        """End a request that will have no more replies, behind those that wait."""
        ask.lane = None
        self._by_rid.pop(ask.rid, None)
        if ask.waiting:
            ask.waiting.append(error)
            return
        del self._asks[ask.id]
        self.find(error)

    # ---- heartbeats

    def beat(self) -> None:
        for lane in list(self._lanes):
            if lane.up and self.dialect.acknowledged and self.give_up_if_silent(lane):
                continue
            if lane.up and self.dialect.client_beats:
                self._beat_lane(lane)
        if self.exclusive:
            self._close_idle()

    def _beat_lane(self, lane: ClientLane) -> None:
        if self.dialect.acknowledged:
            # Never for one request: PIGATO's broker does not pass it on, and may not survive it.
            lane.send(self.encode(m.Heartbeat()))
            return
        for ask in self._by_rid.values():
            if ask.lane is lane:
                lane.send(self.encode(m.Heartbeat(id=ask.rid)))

    def _close_idle(self) -> None:
        """Close the lanes that nobody has used for long, and those that can't be had and nobody waits for."""
        for lane in list(self._lanes):
            idle = lane in self._free and self.now - lane.idle_since >= IDLE
            vain = not lane.up and lane.reason and not self._queue
            if (idle or vain) and len(self._lanes) > 1:
                self._close(lane)


def _weight(reply: Any) -> int:
    return OVERHEAD + (len(reply.body or b"") if isinstance(reply, c.Partial | c.Final) else 0)


def _error(ask: Ask, error: BrokerLost) -> c.Error:
    return c.Error(ask.id, error.code.value, error.reason, error.message)

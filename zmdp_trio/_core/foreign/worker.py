"""Our worker at a broker of another kind.

A connection offers one service.  PIGATO's may have many requests at once: it gets one lane per service, which says how
many.  The others have one at a time: they get more lanes as these are busy, up to the service's slots, and fewer when
they have not been needed for some time.

A reply goes out over the lane that its request came by, or not at all.  When that is lost, the handler is cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count
from typing import Any, ClassVar, Final

import attrs
import msgspec

from ..._errors import Code, ProtocolError, RequestRejected
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire.frames import Frame
from ..._wire.majordomo import Dialect, Route
from ..._wire.majordomo import messages as m
from .. import bodies
from ..timers import Timers
from ..uplink import Identity, Wiring
from .client import OPTIONS, read_options
from .lane import ForeignLane
from .link import ForeignLink
from .names import prefix

#: Seconds after which lanes that were not needed are closed.
IDLE: Final = 30.0
#: Seconds that a request has whose options don't say.
TIMEOUT: Final = 60.0
#: A handler is told that it has so much less than its broker allows, as a part of that and in seconds at most: PIGATO's
#: broker disconnects a worker whose reply comes later.
MARGIN_PART: Final = 0.1
MARGIN: Final = 0.25
#: A caller that has beaten so often for one request is taken to go on for as long as it waits.
REGULAR: Final = 2
_write_json = msgspec.json.Encoder().encode


@attrs.define(eq=False)
class Task:
    """A request, until its handler has ended.

    Attributes:
        lane: where it came from; None since that was lost.
        expired: the broker does not wait for it any more.
        error: what its caller gets, whatever the handler still says.
    """

    id: int
    post: Post
    lane: WorkerLane | None
    #: Whom the reply is for, and for which of its requests.
    client: bytes
    rid: bytes
    #: Partial replies, where the dialect has none: they are part of the final one.
    joined: list[Frame] = attrs.field(factory=list)
    joined_bytes: int = 0
    #: Beats of its caller, and when the last one came.
    beats: int = 0
    beaten_at: float = 0.0
    expired: bool = False
    error: c.Error | None = None


class WorkerLane(ForeignLane):
    """A worker's connection, which offers one service."""

    def __init__(self, link: ForeignLink, name: str, post: Post) -> None:
        super().__init__(link, name)
        self.post = post
        #: READY was sent.
        self.ready = False
        #: Requests that came by it and run.
        self.tasks: dict[Task, None] = {}
        #: A request ended without a word, since the broker had stopped waiting: to the broker it runs for ever.
        self.unanswered = False
        #: No more requests are wanted; where it takes many, the broker was told, and its answer is awaited since then.
        self.leaving = False
        self.told_at = math.inf

    def part(self, reason: str) -> None:
        super().part(reason)
        self.ready = self.unanswered = False
        self.told_at = math.inf


@attrs.define(eq=False)
class Post:
    """One service at one broker.

    Attributes:
        slots: requests that may run at once.
        tasks: those that do, whether or not their lanes are still there.
        peak: the most that did in the last `IDLE` seconds, and in those before.
    """

    service: str
    slots: int = 0
    lanes: dict[WorkerLane, None] = attrs.field(factory=dict)
    tasks: dict[Task, None] = attrs.field(factory=dict)
    peak: int = 0
    before: int = 0
    rolled: float = -math.inf

    @property
    def ready(self) -> int:
        """Lanes over which requests may come."""
        return sum(lane.ready for lane in self.lanes)

    @property
    def stray(self) -> int:
        """Requests that run though their lanes are lost."""
        return len(self.tasks) - sum(len(lane.tasks) for lane in self.lanes)

    def wanted(self, busy: int) -> int:
        """Return how many lanes are wanted while so many of them are busy: as many more, so that it is soon enough."""
        return min(self.slots, max(2 * busy, 1))

    def roll(self, now: float) -> None:
        """Forget what was needed long ago."""
        if now - self.rolled >= IDLE:
            self.before, self.peak, self.rolled = self.peak, len(self.tasks), now


class WorkerLink(ForeignLink):
    """Requests in, replies out."""

    _in = Route.BROKER_TO_WORKER
    _out = Route.WORKER_TO_BROKER

    def __init__(
        self,
        dialect: Dialect,
        endpoint: str,
        identity: Identity,
        settings: Settings,
        wiring: Wiring,
        services: Sequence[str],
    ) -> None:
        super().__init__(dialect, endpoint, identity, settings, wiring)
        self._posts = {service: Post(service) for service in services}
        for post in self._posts.values():
            post.lanes[self._new_lane(post)] = None
        self._tasks: dict[int, Task] = {}
        self._ids = count(1)
        #: When brokers stop waiting for requests.
        self._expiries: Timers[Task] = Timers()
        #: The machine wants no more requests, and was told that none will come.
        self._draining = self._drained = False

    def _new_lane(self, post: Post) -> WorkerLane:
        return WorkerLane(self, self.lane_name(), post)

    def lanes(self) -> Sequence[WorkerLane]:
        return [lane for post in self._posts.values() for lane in post.lanes]

    def routing_id(self) -> bytes:
        if self.dialect.acknowledged:
            # What callers ask for as `workerId`, and see in `$dir`.
            return b"%b-%b" % (prefix(self._identity.name), self._names.uuid())
        return b"W" + self._names.short() if self.dialect.numbered else b""

    # ---- connections

    def connected(self, offers: Sequence[c.Offer]) -> None:
        self._forget_tasks()
        self._draining = self._drained = not offers
        for offer in offers:
            self._posts[offer.service].slots = offer.slots

    def joined(self, lane: ForeignLane) -> None:
        assert isinstance(lane, WorkerLane)
        self._fit(lane.post)

    def parted(self, lane: ForeignLane, reason: str) -> None:
        assert isinstance(lane, WorkerLane)
        post = lane.post
        lane.part(reason)
        for task in lane.tasks:
            task.lane = None
            self._expiries.cancel(task)
            self.find(c.Cancel(task.id))
        lane.tasks.clear()
        if lane.leaving or (not self.dialect.concurrent and len(post.lanes) > max(post.wanted(len(post.tasks)), 1)):
            self._close(lane)
        self._note_drained()

    def drop_outbox(self) -> list[c.Command]:
        super().drop_outbox()
        self._forget_tasks()
        for post in self._posts.values():
            post.slots = 0
            for lane in list(post.lanes):
                if len(post.lanes) > 1:
                    self._close(lane)
        return []

    def _forget_tasks(self) -> None:
        """The machine takes what still runs for no task of this broker's any more."""
        self._tasks.clear()
        self._expiries = Timers()
        for lane in self.lanes():
            lane.tasks.clear()
            lane.post.tasks.clear()

    def _fit(self, post: Post) -> None:
        """Have as many lanes as the service can use now, each of them ready for requests, and one at all times."""
        if self._draining:
            return
        wanted = 1 if self.dialect.concurrent else max(post.wanted(len(post.tasks)), 1)
        while sum(not lane.leaving for lane in post.lanes) < wanted:
            lane = self._new_lane(post)
            post.lanes[lane] = None
            self.wiring.opened.append(lane)
        for lane in list(post.lanes):
            if lane.up and not (lane.ready or lane.leaving) and self._has_room(post):
                lane.ready = True
                lane.send(self.encode(m.Ready(post.service)))
                if self.dialect.numbered:
                    # By this OMDP's and PIGATO's workers are told apart; and PIGATO's say how much they take.
                    self._beat_lane(lane)

    def _has_room(self, post: Post) -> bool:
        """Whether one more lane may bring requests."""
        return bool(post.slots) if self.dialect.concurrent else post.ready + post.stray < post.slots

    def _leave(self, lane: WorkerLane) -> None:
        """Take leave, and close."""
        if lane.ready:
            lane.ready = False
            lane.send(self.encode(m.Disconnect()))
        self._close(lane)

    def _close(self, lane: WorkerLane) -> None:
        post = lane.post
        del post.lanes[lane]
        lane.end()
        if not post.lanes and not self._draining:
            self._fit(post)

    # ---- what the machine says

    def _partial(self, partial: c.Partial) -> None:
        task = self._tasks.get(partial.id)
        if task is None or task.lane is None or task.expired or task.error is not None:
            return
        try:
            body = self._body(partial, partial=True)
        except ValueError as error:
            self._give_up(task, f"a partial reply: {error}")
            return
        if self.dialect.partials:
            task.lane.send(self.encode(m.Partial(body, client=task.client, id=task.rid)))
            return
        task.joined += body
        task.joined_bytes += sum(map(len, body))
        if task.joined_bytes > self.settings.max_message:
            self._give_up(task, f"the replies are {task.joined_bytes:,} bytes in all, which must be one message")

    def _give_up(self, task: Task, message: str) -> None:
        """Cancel a handler whose replies can't be said; that is what its caller gets in the end."""
        task.error = c.Error(task.id, Code.INTERNAL.value, "", message)
        self.find(c.Cancel(task.id))

    def _final(self, final: c.Final) -> None:
        task = self._tasks.get(final.id)
        if task is None:
            return
        try:
            message: m.Message = m.Final([*task.joined, *self._body(final)], client=task.client, id=task.rid)
        except ValueError as error:
            message = self._failure(task, c.Error(task.id, Code.INTERNAL.value, "", f"the reply: {error}"))
        self._end(task, message)

    def _body(self, reply: c.Partial | c.Final, *, partial: bool = False) -> Sequence[Frame]:
        body: Frame = reply.body  # type: ignore[assignment]
        if not self.dialect.json:
            return bodies.to_frames(reply.content, body)
        return [(bodies.partial_to_json if partial else bodies.to_json)(reply.content, body)]

    def _error(self, error: c.Error) -> None:
        task = self._tasks.get(error.id)
        if task is not None:
            self._end(task, self._failure(task, error))

    def _reject(self, reject: c.Reject) -> None:
        task = self._tasks.get(reject.id)
        if task is not None:
            self._end(task, self._rejection(task))

    def _heartbeat(self, heartbeat: c.Heartbeat) -> None:
        for held in heartbeat.held:
            task = self._tasks.get(held.id)
            if task is not None and task.lane is not None:
                self._beat_lane(task.lane)

    def _slots(self, command: c.Slots) -> None:
        post = self._posts[command.service]
        post.slots = command.slots
        if self.dialect.concurrent:
            self._tell_room(post)
        else:
            self._leave_idle(post, post.slots)
        self._fit(post)
        self.find(command)

    def _drain(self, _: c.Drain) -> None:
        self._draining = True
        for lane in self.lanes():
            self._begin_to_leave(lane)
        self._note_drained()

    def _begin_to_leave(self, lane: WorkerLane) -> None:
        lane.leaving = True
        if self.dialect.concurrent and lane.ready:
            # It is told that there is room for none; its answer comes behind the last request.
            self._beat_lane(lane)
            lane.told_at = self.now
        elif not lane.tasks:
            self._leave(lane)

    _says: ClassVar[dict[type[c.Command], Any]] = {
        c.Partial: _partial,
        c.Final: _final,
        c.Error: _error,
        c.Reject: _reject,
        c.Heartbeat: _heartbeat,
        c.Slots: _slots,
        c.Drain: _drain,
    }

    def goodbye(self) -> None:
        self._draining = True
        for lane in self.lanes():
            if lane.up:
                self._leave(lane)

    # ---- replies

    def _failure(self, task: Task, error: c.Error) -> m.Message:
        """Return an error as the dialect says it."""
        if self.dialect.failures:
            return m.Failure(bodies.error_to_json(error), client=task.client, id=task.rid)
        return m.Final([bodies.error_to_frame(error)], client=task.client, id=task.rid)

    def _rejection(self, task: Task) -> m.Message:
        if self.dialect.can_say(self._out, m.Reject):
            return m.Reject(b"null", client=task.client, id=task.rid)
        error = RequestRejected("the worker rejected it, and there is no way to ask another one")
        return self._failure(task, c.Error(task.id, error.code.value, error.reason, error.message))

    def _end(self, task: Task, message: m.Message) -> None:
        """The handler has ended: say this, if the broker still wants to hear it."""
        post, lane = task.post, task.lane
        del self._tasks[task.id], post.tasks[task]
        self._expiries.cancel(task)
        if lane is not None:
            del lane.tasks[task]
            if task.expired:
                lane.unanswered = True
            else:
                self._reply(lane, message if task.error is None else self._failure(task, task.error))
            if not self.dialect.concurrent and post.ready + post.stray > post.slots:
                lane.leaving = True
            if lane.unanswered and not lane.tasks:
                self._renew(lane)
            self._leave_if_done(lane)
        self._fit(post)
        if self.dialect.concurrent and len(post.lanes) > 1:
            self._tell_room(post)

    def _reply(self, lane: WorkerLane, message: m.Message) -> None:
        lane.send(self.encode(message))
        # Many brokers beat only those who wait.
        lane.heard = None

    def _renew(self, lane: WorkerLane) -> None:
        """Have another lane take a lane's place, over which all slots are free."""
        if not lane.leaving:
            self._begin_to_leave(lane)
            self._fit(lane.post)

    def _leave_if_done(self, lane: WorkerLane) -> None:
        if lane.leaving and not lane.tasks and lane.told_at == math.inf and not lane.closed:
            self._leave(lane)
            self._note_drained()

    def _note_drained(self) -> None:
        """Tell the machine once that no more requests will come."""
        if self._draining and not self._drained and all(lane.told_at == math.inf for lane in self.lanes()):
            self._drained = True
            self.find(c.Drained())

    # ---- what the broker says

    def receive(self, lane: ForeignLane, frames: Sequence[Frame], now: float) -> list[Any]:
        assert isinstance(lane, WorkerLane)
        self.now = now
        if lane.closed:
            return []
        message = self.decode(frames)
        if isinstance(message, m.Request):
            return self._on_request(lane, message)
        if isinstance(message, m.Disconnect):
            lane.reason = "the broker has disconnected the worker"
            self.wiring.unusable.append(lane)
        elif isinstance(message, m.Heartbeat) and message.id:
            self._on_beat(lane, message)
        elif isinstance(message, m.Heartbeat) and lane.told_at < math.inf:
            lane.told_at = math.inf
            self._leave_if_done(lane)
            self._note_drained()
        return []

    def _on_beat(self, lane: WorkerLane, heartbeat: m.Heartbeat) -> None:
        for task in lane.tasks:
            if task.rid == heartbeat.id and task.client == heartbeat.client:
                task.beats += 1
                task.beaten_at = self.now

    def _on_request(self, lane: WorkerLane, request: m.Request) -> list[Any]:
        if not lane.ready:
            return []
        if not self.dialect.concurrent and lane.tasks:
            raise ProtocolError("a request while another one runs")
        post = lane.post
        task = Task(next(self._ids), post, lane, request.client, request.id)
        if len(post.tasks) >= post.slots:
            # It came before the broker knew how much this worker takes.
            self._reply(lane, self._rejection(task))
            return []
        try:
            content, body = bodies.from_json(request.body[0]) if self.dialect.json else bodies.from_frames(request.body)
        except ValueError as error:
            refusal = c.Error(task.id, Code.INVALID_ARGUMENT.value, "", f"the payload: {error}")
            self._reply(lane, self._failure(task, refusal))
            return []
        self._tasks[task.id] = task
        lane.tasks[task] = post.tasks[task] = None
        post.peak = max(post.peak, len(post.tasks))
        self._fit(post)
        return [
            c.Request(
                task.id,
                post.service,
                content,
                body,
                c.MAX_AMOUNT,
                c.MAX_AMOUNT,
                left=self._time_left(task, request.options),
                headers={OPTIONS: bytes(request.options).decode(errors="replace")} if len(request.options) else None,
                peer=_readable(request.client),
                # A PIGATO worker may offer many names at once, `files.*` for example.
                asked=request.service if request.service not in ("", post.service) else "",
            )
        ]

    def _time_left(self, task: Task, options: Frame) -> float | None:
        """Return the seconds that a handler has; behind them nothing is sent."""
        if not self.dialect.options:
            return None
        milliseconds = read_options(options).get("timeout") or 1000 * TIMEOUT
        if not isinstance(milliseconds, int | float) or not milliseconds > 0:
            return None
        seconds = min(milliseconds, 1e15) / 1000
        self._expiries.set(task, self.now + seconds)
        self._set_alarm()
        return seconds - min(MARGIN_PART * seconds, MARGIN)

    def take_found(self) -> Sequence[Any]:
        for task in self._expiries.pop_due(self.now):
            task.expired = True
        self._set_alarm()
        return super().take_found()

    def _set_alarm(self) -> None:
        if self._expiries.deadline < math.inf and not self._found:
            self.wiring.timers.set(self, self._expiries.deadline)

    # ---- heartbeats

    def beat(self) -> None:
        for lane in self.lanes():
            if not lane.up:
                continue
            if lane.told_at < math.inf and self.now - lane.told_at >= self.settings.heartbeat:
                # A broker that does not answer will not be asked twice.
                lane.told_at = math.inf
                self._leave_if_done(lane)
            if not lane.ready or (self._expects_beats(lane) and self.give_up_if_silent(lane)):
                continue
            self._beat_lane(lane)
            if lane.unanswered:
                self._renew(lane)
            self._cancel_left(lane)
        self._note_drained()
        for post in self._posts.values():
            post.roll(self.now)
            if not (self.dialect.concurrent or self._draining):
                self._leave_idle(post, max(post.wanted(max(post.peak, post.before)), 1))

    def _expects_beats(self, lane: WorkerLane) -> bool:
        """Whether the broker's silence tells something: many brokers of MDP beat only those that wait."""
        return self.dialect.numbered or not lane.tasks

    def _cancel_left(self, lane: WorkerLane) -> None:
        """Cancel requests that somebody waited for, by regular beats, and does not any more."""
        for task in lane.tasks:
            if task.beats >= REGULAR and self.now - task.beaten_at >= self.settings.silence:
                task.beats = 0
                self.find(c.Cancel(task.id))

    def _beat_lane(self, lane: WorkerLane) -> None:
        options = b""
        if self.dialect.concurrent:
            # What runs for other lanes takes its slots from this one.
            post = lane.post
            room = 0 if lane.leaving else max(post.slots - len(post.tasks) + len(lane.tasks), 0)
            options = _write_json({"concurrency": room})
        lane.send(self.encode(m.Heartbeat(options=options)))

    def _tell_room(self, post: Post) -> None:
        """Have the broker know how many requests the service takes now."""
        for lane in post.lanes:
            if lane.ready and not lane.leaving:
                self._beat_lane(lane)

    def _leave_idle(self, post: Post, number: int) -> None:
        """Close lanes that have nothing to do, as long as there are more than so many."""
        for lane in list(post.lanes):
            if len(post.lanes) <= number:
                return
            if not lane.tasks:
                self._leave(lane)


def _readable(client: bytes) -> str:
    """Return what a caller is called, for people."""
    text = client.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else client.hex()

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

from ..._errors import Code, InvalidArgument, ProtocolError, RequestError, RequestRejected
from ..._wire import commands as c
from ..._wire.frames import Frame
from ..._wire.majordomo import messages as m
from .. import bodies, options
from ..timers import Timers
from .lane import ForeignLane
from .posts import Task, WorkerLane, WorkerLanes

#: A handler is told that it has so much less than its broker allows, as a part of that and in seconds at most: PIGATO's
#: broker disconnects a worker whose reply comes later.
MARGIN_PART: Final = 0.1
MARGIN: Final = 0.25
#: A caller that has beaten so often for one request is taken to go on for as long as it waits.
REGULAR: Final = 2
#: Rejected requests that are known again: PIGATO's broker gives one to the same worker, at once and for ever.
MAX_REJECTED: Final = 10_000
#: Seconds after which one is forgotten.
REJECTED: Final = 60.0


class WorkerLink(WorkerLanes):
    """Requests in, replies out."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tasks: dict[int, Task] = {}
        self._ids = count(1)
        #: When handlers rejected requests, by whose they are and their ids; the oldest first.
        self._rejected: dict[tuple[bytes, bytes], float] = {}
        #: When brokers stop waiting for requests.
        self._expiries: Timers[Task] = Timers()

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
        # Another broker may have the same ids for other requests.
        self._rejected.clear()
        self._expiries = Timers()
        for lane in self.lanes():
            lane.tasks.clear()
            lane.post.tasks.clear()

    # ---- what the machine says

    def _partial(self, partial: c.Partial) -> None:
        task = self._tasks.get(partial.id)
        if task is None or task.lane is None or task.expired or task.error is not None:
            return
        try:
            body = self._body(partial, partial=True)
        except ValueError as error:
            self._give_up(task, self._unsayable("a partial reply", error))
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
            unsayable = self._unsayable("the reply", error)
            message = self._failure(task, c.Error(task.id, Code.INTERNAL.value, "", unsayable))
        self._end(task, message)

    def _unsayable(self, what: str, error: ValueError) -> str:
        return f"{what}: {error}, and its broker speaks {self.dialect.name}"

    def _body(self, reply: c.Partial | c.Final, *, partial: bool = False) -> Sequence[Frame]:
        assert reply.body is not None
        return bodies.say(self.dialect, reply.content, reply.body, partial=partial)

    def _error(self, error: c.Error) -> None:
        task = self._tasks.get(error.id)
        if task is not None:
            self._end(task, self._failure(task, error))

    def _reject(self, reject: c.Reject) -> None:
        task = self._tasks.get(reject.id)
        if task is not None:
            if self.dialect.can_say(self._out, m.Reject):
                self._note_rejected(task)
            self._end(task, self._rejection(task))

    def _heartbeat(self, heartbeat: c.Heartbeat) -> None:
        for held in heartbeat.held:
            task = self._tasks.get(held.id)
            if task is not None and task.lane is not None:
                self._beat_lane(task.lane)

    _says: ClassVar[dict[type[c.Command], Any]] = {
        c.Partial: _partial,
        c.Final: _final,
        c.Error: _error,
        c.Reject: _reject,
        c.Heartbeat: _heartbeat,
        c.Slots: WorkerLanes._slots,
        c.Drain: WorkerLanes._drain,
    }

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
        return self._failure(task, _error(task, error))

    def _refuse(self, task: Task, error: RequestError) -> None:
        """Answer a request that no handler gets."""
        assert task.lane is not None
        self._reply(task.lane, self._failure(task, _error(task, error)))

    def _note_rejected(self, task: Task) -> None:
        """Know a request again that its broker may have nobody else for.

        When there is no room, those that are known stay: each of them ends when it comes again, and makes some.
        """
        rejected = self._rejected
        while rejected and self.now - next(iter(rejected.values())) > REJECTED:
            del rejected[next(iter(rejected))]
        if len(rejected) < MAX_REJECTED:
            rejected[task.client, task.rid] = self.now

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
        if self.now - self._rejected.pop((task.client, task.rid), -math.inf) <= REJECTED:
            self._refuse(task, RequestRejected("every worker that was asked rejected it"))
            return []
        try:
            content, body = bodies.read(self.dialect, request.body)
        except ValueError as error:
            self._refuse(task, InvalidArgument(f"the payload: {error}"))
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
                headers=_headers(request.options),
                peer=_readable(request.client),
                # A PIGATO worker may offer many names at once, `files.*` for example.
                asked=request.service if request.service not in ("", post.service) else "",
            )
        ]

    def _time_left(self, task: Task, told: Frame) -> float | None:
        """Return the seconds that a handler has; behind them nothing is sent."""
        if not self.dialect.options:
            return None
        seconds = options.read(told).timeout
        if seconds == math.inf:
            return None
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


def _error(task: Task, error: RequestError) -> c.Error:
    return c.Error(task.id, error.code.value, error.reason, error.message)


def _headers(told: Frame) -> dict[str, str] | None:
    """Return the headers that a request with these options has."""
    return {options.HEADER: bytes(told).decode(errors="replace")} if len(told) else None


def _readable(client: bytes) -> str:
    """Return what a caller is called, for people."""
    text = client.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else client.hex()

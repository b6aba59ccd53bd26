"""What our worker has at a broker of another kind: a post for each service, its connections, and what runs there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

from ..._settings import Settings
from ..._wire import commands as c
from ..._wire.frames import Frame
from ..._wire.majordomo import Dialect, Route
from ..._wire.majordomo import messages as m
from ..uplink import Identity, Wiring
from .lane import ForeignLane
from .link import ForeignLink
from .names import prefix

#: Seconds after which lanes that were not needed are closed.
IDLE: Final = 30.0
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


class WorkerLanes(ForeignLink):
    """A worker's connections: as many as each of its services can use, and how they come and go."""

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

    # ---- how many

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

    def _beat_lane(self, lane: WorkerLane) -> None:
        options = b""
        if self.dialect.concurrent:
            # What runs for other lanes takes its slots from this one.
            post = lane.post
            room = 0 if lane.leaving else max(post.slots - len(post.tasks) + len(lane.tasks), 0)
            options = _write_json({"concurrency": room})
        lane.send(self.encode(m.Heartbeat(options=options)))

    def _slots(self, command: c.Slots) -> None:
        post = self._posts[command.service]
        post.slots = command.slots
        if self.dialect.concurrent:
            self._tell_room(post)
        else:
            self._leave_idle(post, post.slots)
        self._fit(post)
        self.find(command)

    # ---- taking leave

    def _drain(self, _: c.Drain) -> None:
        self._draining = True
        for lane in self.lanes():
            self._begin_to_leave(lane)
        self._note_drained()

    def goodbye(self) -> None:
        self._draining = True
        for lane in self.lanes():
            if lane.up:
                self._leave(lane)

    def _begin_to_leave(self, lane: WorkerLane) -> None:
        lane.leaving = True
        if self.dialect.concurrent and lane.ready:
            # It is told that there is room for none; its answer comes behind the last request.
            self._beat_lane(lane)
            lane.told_at = self.now
        elif not lane.tasks:
            self._leave(lane)

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

"""The one pump: how a machine and its shell take their turns.

A turn is synchronous: take what has come, let the machine and its shell act, do what is due, send what is ready, until
there is nothing left.  Turns are taken by each port's keeper, or whoever stands in for it (`post.py`), when there is
news from the network; and by `Engine.run`, at the machine's deadline, or when somebody called `wake` because the
machine has something to send.

Whoever calls `wake` may send it right there instead, in its own task:

* what comes alone.  A turn later, after a tick of Trio's loop, is 30 microseconds later, four times a request.
* what has become many.  Otherwise all that happens in one tick leaves as one message at its end, and client, broker,
  and worker wait for each other in turn: a hundred requests in flight went round as one batch, and kept one core busy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import trio

from .._settings import Settings
from .._transport import Options, PeerGone, Port
from .._wire.frames import Frames
from .post import Post

#: Rounds of receiving and sending in one turn, after which other tasks get theirs.
ROUNDS: Final = 16
#: Calls of `wake` after which what they are about is sent in the middle of a tick.  With a hundred requests in
#: flight, 25 made 10 percent less per second than 50, since each message costs some 10 microseconds at every hop, and
#: 100 made 15 percent less; 34 made as many.
MANY: Final = 50


def clock() -> float:
    """Return the time on Trio's clock, in seconds."""
    return trio.current_time()


def transport_options(settings: Settings) -> Options:
    """Return what a port must know of the settings."""
    # The commands' frame and ZMDP/1's own overhead come on top of the largest body.
    return Options(
        heartbeat=settings.heartbeat, misses=settings.misses, max_frame=max(settings.max_message, 2**20) + 2**16
    )


class Outbox(Protocol):
    """What a machine has for one peer to send: a `Link`, or what stands for one."""

    peer: Any
    scheduled: bool

    def schedule(self) -> None: ...
    def next_batch(self) -> Frames | None: ...
    def batch_sent(self) -> None: ...
    def close(self) -> None: ...


class Machine(Protocol):
    """What the engine asks of every machine."""

    @property
    def deadline(self) -> float: ...
    def handle_timer(self, *, now: float) -> None: ...
    def take_dirty(self) -> Sequence[Outbox]: ...


class Engine(ABC):
    """The pump; subclasses know where messages come from and go to."""

    def __init__(self, machine: Machine, act: Callable[[], None]) -> None:
        """Make an engine.

        Args:
            machine: what is driven.
            act: the shell's part of a turn: do what the machine has found out.
        """
        self._machine = machine
        self._act = act
        #: `trio.current_time`, at half its price.
        self._now = trio.lowlevel.current_clock().current_time
        self._blocked: list[Outbox] = []
        self._sleeper: trio.lowlevel.Task | None = None
        #: A turn is to be taken soon.
        self._roused = False
        #: Calls of `wake` since the last turn; and whether there was only one before that: then it pays to stand in.
        self._wakes = 0
        self.lonely = True
        #: Ended by `close` alone: what is cancelled around us has its last words to say.
        self._life = trio.CancelScope(shield=True)
        self._closed = False
        #: What was raised where somebody else's task sent, or took a turn; `run` ends with it.
        self._failure: Exception | None = None
        self._scope = trio.CancelScope()
        #: Where others may stand in; None where nobody may, as at a broker.
        self.post: Post | None = None

    @abstractmethod
    def _receive(self, now: float) -> None:
        """Feed the machine what has come."""

    @abstractmethod
    def _settled(self) -> bool:
        """Tell whether nothing is left to receive, and its coming will be noticed."""

    @abstractmethod
    def _send(self, link: Outbox, frames: Frames) -> bool:
        """Offer a message to the link's port.  Raises PeerGone."""

    @abstractmethod
    def _gone(self, link: Outbox, now: float) -> None:
        """The link's peer can't be reached."""

    def turn(self) -> None:
        """Do all there is to do now, and return."""
        if self._closed:
            return
        if self._failure is not None:
            raise self._failure
        self._roused = False
        if self._wakes:
            self.lonely = self._wakes == 1
            self._wakes = 0
        now = self._now()
        machine = self._machine
        if self._blocked:
            self._offer_again()
        for _ in range(ROUNDS):
            self._receive(now)
            if now >= machine.deadline:
                machine.handle_timer(now=now)
            self._act()
            if self._flush(now) and self._settled():
                break
        else:
            self._rouse()
        self._mind_deadline()

    def _offer_again(self) -> None:
        """Schedule the links whose last message was refused."""
        blocked, self._blocked = self._blocked, []
        for link in blocked:
            link.schedule()

    def _flush(self, now: float | None) -> bool:
        """Send what is ready, and let the shell act on its having left; tell whether everybody could be reached.

        Without `now`, whoever can't be reached is left to the next turn, as whoever has no room is: that first receives
        what they have said, and no machine is changed beneath somebody who only wants to send.
        """
        reached = True
        sent = False
        for link in self._machine.take_dirty():
            link.scheduled = False
            while link.peer is not None and (frames := link.next_batch()) is not None:
                try:
                    taken = self._send(link, frames)
                except PeerGone:
                    taken = False
                    if now is not None:
                        self._gone(link, now)
                        reached = False
                        break
                if not taken:
                    self._blocked.append(link)
                    break
                link.batch_sent()
                sent = True
        if sent:
            self._act()
        return reached

    def wake(self) -> None:
        """Have what the machine has to say sent: at once if it is alone or there is much of it, else in a turn soon."""
        self._wakes += 1
        if self._wakes == 1 and self.lonely:
            self._send_now()
        elif self._wakes % MANY == 0:
            self._send_now()
        elif not self._roused:
            self._rouse()

    def _send_now(self) -> None:
        """Act, and send what is ready, in somebody else's task, which sees nothing of that; a turn does the rest."""
        if self._closed:
            return
        blocked = len(self._blocked)
        try:
            self._act()
            self._flush(None)
            done = len(self._blocked) == blocked and self._settled()
        except Exception as error:
            self._failure, done = error, False
        if done:
            self._mind_deadline()
        else:
            self._rouse()

    def _rouse(self) -> None:
        """Have a turn taken soon."""
        self._roused = True
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def free_post(self) -> Post | None:
        """Return where the calling task may stand in now, if it has nothing to do but wait, and take the turn after.

        None if it may not, which is noted.
        """
        post = self.post
        return post if post is not None and post.ask() else None

    def turn_in_passing(self) -> None:
        """Take a turn in somebody else's task, which sees nothing of what fails."""
        try:
            self.turn()
        except Exception as error:
            self._failure = error
            self._rouse()

    def watch(self) -> None:
        """Mind that the machine's deadline may have come nearer; a turn that is due anyway sees to that itself."""
        if self._sleeper is not None:
            self._mind_deadline()

    def _mind_deadline(self) -> None:
        deadline = self._machine.deadline
        if deadline < self._scope.deadline:
            self._scope.deadline = deadline

    async def run(self) -> None:
        """Take turns until closed or cancelled."""
        with self._life:
            async with trio.open_nursery() as nursery:
                self._run_ports(nursery)
                await self._take_turns()

    def close(self) -> None:
        """Send what is ready, end `run`, and let go of every port."""
        if not self._closed:
            # Nothing is received any more: a peer that was about to be greeted would never hear our farewell.
            self._act()
            self._offer_again()
            self._flush(self._now())
            self._closed = True
            self._life.cancel()
            for port in self._ports():
                port.close()

    async def _serve(self, post: Post) -> None:
        """Take turns at the news of a port, unless somebody stands in."""
        try:
            await post.keep(self.turn)
        except trio.ClosedResourceError:
            if not self._closed:
                raise

    @abstractmethod
    def _run_ports(self, nursery: trio.Nursery) -> None:
        """Start the tasks that take turns at the network's news."""

    @abstractmethod
    def _ports(self) -> list[Port]:
        """The ports that are open."""

    async def _take_turns(self) -> None:
        """Take turns when woken or when something is due."""
        while True:
            with trio.CancelScope() as self._scope:
                while True:
                    self._scope.deadline = self._machine.deadline
                    await self._sleep()
                    self.turn()
            await trio.lowlevel.checkpoint_if_cancelled()
            self.turn()

    async def _sleep(self) -> None:
        """Wait for `wake`, or for the scope's deadline."""
        if self._roused:
            await trio.lowlevel.checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

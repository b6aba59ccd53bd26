"""The one pump: how a machine and its shell take their turns.

A turn is synchronous: take what has come, let the machine and its shell act, do what is due, send what is ready, until
there is nothing left.  Two kinds of tasks take turns: each port's `run`, when there is news from the network, and
`Engine.run`, at the machine's deadline or when somebody called `wake` because the machine has something to send.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import trio

from .._settings import Settings
from .._transport import Options, PeerGone, Port
from .._wire.frames import Frames

#: Rounds of receiving and sending in one turn, after which other tasks get theirs.
ROUNDS: Final = 16


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
        self._blocked: list[Outbox] = []
        self._sleeper: trio.lowlevel.Task | None = None
        #: Somebody called `wake` while nobody slept.
        self._woken = False
        #: Ended by `close` alone: what is cancelled around us has its last words to say.
        self._life = trio.CancelScope(shield=True)
        self._closed = False
        self._scope = trio.CancelScope()

    @abstractmethod
    def _receive(self, now: float) -> bool:
        """Feed the machine what has come; tell whether there was anything."""

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
        self._woken = False
        now = trio.current_time()
        machine = self._machine
        self._offer_again()
        for _ in range(ROUNDS):
            busy = self._receive(now)
            if now >= machine.deadline:
                machine.handle_timer(now=now)
                busy = True
            self._act()
            if not self._flush(now) and not busy:
                break
        else:
            self.wake()
        if machine.deadline < self._scope.deadline:
            self._scope.deadline = machine.deadline

    def _offer_again(self) -> None:
        """Schedule the links whose last message was refused."""
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            for link in blocked:
                link.schedule()

    def _flush(self, now: float) -> bool:
        sent = False
        for link in self._machine.take_dirty():
            link.scheduled = False
            while link.peer is not None and (frames := link.next_batch()) is not None:
                try:
                    taken = self._send(link, frames)
                except PeerGone:
                    self._gone(link, now)
                    break
                if not taken:
                    self._blocked.append(link)
                    break
                link.batch_sent()
                sent = True
        return sent

    def wake(self) -> None:
        """Have a turn taken soon."""
        if self._sleeper is None:
            self._woken = True
        else:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def watch(self) -> None:
        """Mind that the machine's deadline may have come nearer; a turn that is due anyway sees to that itself."""
        if self._sleeper is not None and self._machine.deadline < self._scope.deadline:
            self._scope.deadline = self._machine.deadline

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
            self._flush(trio.current_time())
            self._closed = True
            self._life.cancel()
            for port in self._ports():
                port.close()

    async def _serve(self, port: Port) -> None:
        """Take turns at the news of a port."""
        try:
            await port.run(self.turn)
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
        if self._woken:
            await trio.lowlevel.checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

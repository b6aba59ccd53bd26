"""What the client's and the worker's machine share: uplinks that come up, go down, and may come back in time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from .._errors import ProtocolError
from .._settings import Settings
from .._wire.commands import Command, Goodbye, Offer
from .._wire.frames import Frame
from .link import Link
from .timers import Timers
from .uplink import Greeted, Identity, State, Uplink


class Dialler(ABC):
    """A machine with one uplink per endpoint.

    The engine calls `connected`, `receive`, `lost`, `handle_timer`; then sends what the links in `take_dirty` hold,
    and closes the connections in `take_unusable`, which it then dials again.
    """

    def __init__(self, identity: Identity, settings: Settings) -> None:
        self.identity = identity
        self.settings = settings
        self.uplinks: dict[str, Uplink] = {}
        #: Names of brokers whose addresses are not known, and why; None while the first look-up is under way.
        self.unresolved: dict[str, str | None] = {}
        #: Uplinks that are to be closed when they have nothing left to do.
        self.retiring: dict[Uplink, None] = {}
        #: Messages and commands that were not to be expected; for statistics.
        self.protocol_errors = 0
        self._dirty: list[Link] = []
        self._unusable: list[Uplink] = []
        self._timers: Timers[Any] = Timers()
        self._next_beat = math.inf
        #: What time it was when something last came or was due.
        self._now = 0.0

    # ---- for the engine

    def add(self, endpoint: str) -> Uplink:
        """Serve one more broker."""
        identity = self.identity.towards(endpoint) if self.uplinks else self.identity
        uplink = self.uplinks[endpoint] = Uplink(endpoint, identity, self.settings, self._dirty)
        return uplink

    def looked_up(self, name: str, reason: str | None, *, now: float) -> None:
        """The addresses of a name are added by now, or `reason` tells why there are none."""
        self.unresolved.pop(name, None)
        if reason is not None:
            self.unresolved[name] = reason

    def retire(self, uplink: Uplink) -> None:
        """A broker's address is gone: send no new requests there."""
        uplink.retiring = True
        self.retiring[uplink] = None

    def keep(self, uplink: Uplink) -> None:
        """A broker's address is there again, or still."""
        if uplink.retiring and not self._parting(uplink):
            uplink.retiring = False
            del self.retiring[uplink]

    def take_retired(self) -> list[Uplink]:
        """Take leave of the retiring uplinks that have nothing left to do, and forget them; return them."""
        retired = [uplink for uplink in self.retiring if self._is_done(uplink)]
        for uplink in retired:
            uplink.goodbye()
            self._timers.cancel(uplink)
            del self.retiring[uplink], self.uplinks[uplink.endpoint]
            self._on_removed(uplink)
        return retired

    def connected(self, uplink: Uplink, *, now: float) -> None:
        """A connection stands: greet."""
        uplink.connected(self._offers(uplink))
        self._next_beat = min(self._next_beat, now + self.settings.heartbeat)

    def lost(self, uplink: Uplink, reason: str, *, now: float) -> None:
        """A connection is gone; the session gets `resume` seconds to come back."""
        was_up = uplink.up
        uplink.lost(reason)
        if was_up:
            self._timers.set(uplink, now + self.settings.resume)
            self._on_down(uplink, now)

    def receive(self, uplink: Uplink, frames: Sequence[Frame], *, now: float) -> None:
        """Take a message."""
        self._now = now
        try:
            if uplink.state is State.GREETING:
                self._greet(uplink, frames, now)
                return
            handlers, up = self._handlers, State.UP
            for command in uplink.receive(frames):
                handle = handlers.get(type(command))
                if handle is None:
                    self._unexpected(command)
                else:
                    handle(self, uplink, command, now)
                if uplink.state is not up:
                    return
        except ProtocolError as error:
            self._break_off(uplink, str(error))

    def handle_timer(self, *, now: float) -> None:
        """Do what is due."""
        self._now = now
        if now >= self._next_beat:
            self._next_beat = now + self.settings.heartbeat
            for uplink in self.uplinks.values():
                uplink.beat(busy=self._holds(uplink))
        for key in self._timers.pop_due(now):
            if isinstance(key, Uplink):
                self._give_up_session(key, now)
            else:
                self._on_timer(key, now)

    @property
    def deadline(self) -> float:
        """When `handle_timer` is to be called; `math.inf` for never."""
        return min(self._next_beat, self._timers.deadline)

    def take_dirty(self) -> list[Link]:
        """Return the links that have something to send, and forget them."""
        dirty, self._dirty[:] = self._dirty[:], []
        return dirty

    def take_unusable(self) -> list[Uplink]:
        """Return the uplinks whose connections are of no more use, and forget them."""
        unusable, self._unusable = self._unusable, []
        return unusable

    # ---- for the machines

    #: What each command of a session does: the table that `receive` reads.
    _handlers: ClassVar[dict[type[Command], Any]] = {}

    def _offers(self, uplink: Uplink) -> list[Offer] | None:
        """What a worker's greeting offers; None from a client."""
        return None

    @abstractmethod
    def _holds(self, uplink: Uplink) -> bool:
        """Whether the session has requests; a broker keeps one that beats for longer when its connection is lost."""

    def _is_done(self, uplink: Uplink) -> bool:
        """Whether a retiring uplink has nothing left to do."""
        return not self._holds(uplink)

    def _parting(self, uplink: Uplink) -> bool:
        """Whether it is too late to keep a retiring uplink."""
        return False

    @abstractmethod
    def _on_removed(self, uplink: Uplink) -> None:
        """The uplink is gone for good."""

    @abstractmethod
    def _on_up(self, uplink: Uplink, greeted: Greeted, now: float) -> None:
        """The greeting is done; unless it was RESUMED, the session holds nothing."""

    @abstractmethod
    def _on_down(self, uplink: Uplink, now: float) -> None:
        """The connection is gone, the session is not."""

    @abstractmethod
    def _on_given_up(self, uplink: Uplink, now: float) -> None:
        """The session is over, and all that it held."""

    @abstractmethod
    def _on_timer(self, key: Any, now: float) -> None:
        """A deadline of the machine's own has come."""

    def _greet(self, uplink: Uplink, frames: Sequence[Frame], now: float) -> None:
        greeted = uplink.greet(frames)
        if greeted is Greeted.NOT_YET:
            return
        if greeted is Greeted.REFUSED and not uplink.unwelcome:
            # Not now: it stops, or has too many peers.
            self._unusable.append(uplink)
            return
        if greeted is Greeted.REFUSED:
            self._refused(uplink, now)
            return
        self._timers.cancel(uplink)
        self._on_up(uplink, greeted, now)

    def _refused(self, uplink: Uplink, now: float) -> None:
        self._timers.cancel(uplink)
        uplink.epoch = b""
        self._on_given_up(uplink, now)
        self._unusable.append(uplink)

    def _give_up_session(self, uplink: Uplink, now: float) -> None:
        """The session did not come back in time: the next greeting asks for a new one."""
        if uplink.state is State.GREETING:
            # The answer to this greeting may go on with what is over now.
            uplink.refused(uplink.reason)
            self._unusable.append(uplink)
        uplink.epoch = b""
        self._on_given_up(uplink, now)

    def _break_off(self, uplink: Uplink, reason: str) -> None:
        """The broker does not make sense: try again over a new connection."""
        self.protocol_errors += 1
        uplink.reason = reason
        # A new session: the old one would have what we can't read sent again.
        uplink.epoch = b""
        self._unusable.append(uplink)

    def _unexpected(self, command: Command) -> None:
        self.protocol_errors += 1

    def _on_goodbye(self, uplink: Uplink, command: Goodbye, now: float) -> None:
        reason = command.reason or "the broker said goodbye"
        if command.refused:
            uplink.refused(reason, unwelcome=True)
            self._refused(uplink, now)
        else:
            # It stops; one that is started in its place in time is asked for what this one had.
            self.lost(uplink, reason, now=now)
            self._unusable.append(uplink)

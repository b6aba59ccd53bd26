"""What the client's and the worker's machine share: uplinks that come up, go down, and may come back in time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from .._errors import ProtocolError
from .._settings import Settings
from .._wire.commands import Batch, Command, Goodbye, Offer, Welcome
from .._wire.frames import Frame
from .link import Link
from .timers import Timers
from .uplink import Due, Greeted, Identity, Lane, State, Uplink, Wiring


class Dialler(ABC):
    """A machine with one uplink per endpoint.

    The engine dials the lanes in `take_opened`; calls `connected`, `receive`, `cut`, `handle_timer`; then sends what
    the links in `take_dirty` hold, ends the connections of those in `take_unusable`, which it then dials again, and of
    those in `take_closed`, which it does not.
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
        self._timers: Timers[Any] = Timers()
        self._wiring = Wiring(self._timers)
        self._unanswered: list[Uplink] = []
        self._next_beat = math.inf
        #: What time it was when something last came or was due.
        self._now = 0.0

    # ---- for the engine

    def add(self, endpoint: str) -> Uplink:
        """Serve one more broker."""
        identity = self.identity.towards(endpoint) if self.uplinks else self.identity
        uplink = self.uplinks[endpoint] = self._make_uplink(endpoint, identity)
        self._wiring.opened += uplink.lanes
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

    def connected(self, lane: Lane, *, now: float) -> None:
        """A connection stands: greet, unless the broker needs no greeting."""
        self._now = now
        if lane.closed:
            return
        uplink = lane.uplink
        if not uplink.up:
            uplink.connected(self._offers(uplink))
            if uplink.up:
                self._timers.cancel(uplink)
                self._on_up(uplink, Greeted.FRESH, now)
        uplink.joined(lane, now)
        self._next_beat = min(self._next_beat, now + self.settings.heartbeat)
        self._handle_found(uplink, now)

    def cut(self, lane: Lane, reason: str, *, now: float) -> None:
        """A connection is gone, or could not be had; and with the last one, the broker."""
        self._now = now
        uplink = lane.uplink
        survives = uplink.survives(lane, reason, now)
        self._handle_found(uplink, now)
        if not survives:
            self.lost(uplink, reason, now=now)

    def lost(self, uplink: Uplink, reason: str, *, now: float) -> None:
        """A broker can't be reached; the session gets some seconds to come back."""
        was_up = uplink.up
        uplink.lost(reason)
        if was_up:
            self._timers.set(uplink, now + uplink.resume)
            self._on_down(uplink, now)

    def receive(self, lane: Lane, frames: Sequence[Frame], *, now: float) -> None:
        """Take a message."""
        self._now = now
        uplink = lane.uplink
        try:
            if uplink.state is State.GREETING:
                self._greet(uplink, frames, now)
                return
            self._handle(uplink, lane.receive(frames, now), now)
        except ProtocolError as error:
            self._break_off(lane, str(error))

    def _handle(self, uplink: Uplink, commands: Sequence[Any], now: float) -> None:
        handlers, up = self._handlers, State.UP
        for command in commands:
            handle = handlers.get(type(command))
            if handle is None:
                self._unexpected(command)
            else:
                handle(self, uplink, command, now)
            if uplink.state is not up:
                return

    def _handle_found(self, uplink: Uplink, now: float) -> None:
        """Do what an uplink has found out by itself."""
        while found := uplink.take_found(now):
            self._handle(uplink, found, now)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due."""
        self._now = now
        if now >= self._next_beat:
            self._next_beat = now + self.settings.heartbeat
            for uplink in self.uplinks.values():
                self._beat(uplink, now)
        for key in self._timers.pop_due(now):
            if isinstance(key, Due):
                self._handle_found(key.uplink, now)
            elif isinstance(key, Uplink):
                self._give_up_session(key, now)
            else:
                self._on_timer(key, now)

    def _beat(self, uplink: Uplink, now: float) -> None:
        """A heartbeat interval has passed; the next one ends at `_next_beat`."""
        uplink.beat(now, busy=self._holds(uplink))
        if uplink.unanswered:
            self._unanswered.append(uplink)
        self._handle_found(uplink, now)

    @property
    def deadline(self) -> float:
        """When `handle_timer` is to be called; `math.inf` for never."""
        return min(self._next_beat, self._timers.deadline)

    def take_dirty(self) -> list[Link]:
        """Return the links that have something to send, and forget them."""
        return _take(self._wiring.dirty)

    @property
    def lanes_changed(self) -> bool:
        """Lanes are to be dialled, or their connections to be ended."""
        wiring = self._wiring
        return bool(wiring.opened or wiring.closed or wiring.unusable)

    def take_opened(self) -> list[Lane]:
        """Return the lanes that are to be dialled, and forget them."""
        return _take(self._wiring.opened)

    def take_closed(self) -> list[Lane]:
        """Return the lanes that are of no more use once all was sent, and forget them."""
        return _take(self._wiring.closed)

    def take_unusable(self) -> list[Lane]:
        """Return the lanes whose connections are of no more use, and forget them."""
        return _take(self._wiring.unusable)

    def take_unanswered(self) -> list[Uplink]:
        """Return the uplinks that are connected, and still wait for the answer to their greetings; and forget them."""
        return _take(self._unanswered)

    def goodbye(self) -> None:
        """Take leave of every broker."""
        for uplink in self.uplinks.values():
            uplink.goodbye()

    # ---- for the machines

    @abstractmethod
    def _make_uplink(self, endpoint: str, identity: Identity) -> Uplink:
        """Return an uplink of the kind that the broker is."""

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
            self._wiring.unusable.append(uplink)
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
        self._wiring.unusable.append(uplink)

    def _give_up_session(self, uplink: Uplink, now: float) -> None:
        """The session did not come back in time: the next greeting asks for a new one."""
        if uplink.state is State.GREETING:
            # The answer to this greeting may go on with what is over now.
            uplink.refused(uplink.reason)
            self._wiring.unusable.append(uplink)
        uplink.epoch = b""
        self._on_given_up(uplink, now)

    def _break_off(self, lane: Lane, reason: str) -> None:
        """The broker does not make sense: try again over a new connection."""
        self.protocol_errors += 1
        if lane.spoil(reason):
            self._wiring.unusable.append(lane)

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
            self._wiring.unusable.append(uplink)

    def _ignore(self, uplink: Uplink, command: Command, now: float) -> None:  # noqa: B027 - all that there is to do
        """A BATCH was the link's; a WELCOME came twice, as its HELLO did."""

    #: What each command of a session does: the table that `_handle` reads, to which each machine adds its own.
    _handlers: ClassVar[dict[type[Command], Any]] = {Batch: _ignore, Welcome: _ignore, Goodbye: _on_goodbye}


def _take(list_: list[Any]) -> list[Any]:
    """Return what is in a list that others have too, and empty it."""
    taken = list_[:]
    list_.clear()
    return taken

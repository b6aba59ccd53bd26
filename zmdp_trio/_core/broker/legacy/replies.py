"""Replies of a worker that knows no credit: here they wait until their callers have given some.

There is no word by which such a worker could be paused, so what waits has a limit, and a request that goes beyond it
ends for its caller.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from ...._errors import Code, Overloaded
from ...._wire import commands as c
from ...weights import COMMAND_BYTES, weight
from .peer import LegacyPeer


class GiveUp(c.Command):
    """Not on any wire: a request is to end with this error, whatever its worker still has to say."""

    error: c.Error


@attrs.define(eq=False)
class Held:
    """A request that the worker has."""

    id: int
    #: Whom it says that its replies are for.
    client: bytes
    #: Credit of its caller.
    messages: int
    bytes: int
    #: Replies beyond that, and what they count for.
    waiting: deque[c.Command] | None = None
    waiting_bytes: int = 0
    #: Its caller has left: what comes is swallowed, until the worker is through.
    swallowed: bool = False
    #: A heartbeat for it is in the outbox.
    beating: bool = False

    def may_pass(self, command: c.Command) -> bool:
        """Whether a reply may go to the caller now: what ends a request needs no credit."""
        return type(command) is not c.Partial or (self.messages > 0 and self.bytes > 0)


class PacedReplies(LegacyPeer):
    """What a worker has, and what it has sent too early."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held: dict[int, Held] = {}
        #: Bytes of all replies that wait for their callers' credit.
        self._waiting_bytes = 0

    @property
    def held_bytes(self) -> int:
        return self.outbox_bytes + self._waiting_bytes

    def reset(self) -> None:
        super().reset()
        for held in self._held.values():
            self._release(held)
        self._held.clear()

    def _pass_on(self, held: Held, command: c.Partial | c.Final | c.Error) -> list[Any]:
        """Let the machine have a reply, if its caller has given credit; else keep it, in its turn."""
        if not held.waiting and held.may_pass(command):
            return self._release_reply(held, command)
        held.waiting = held.waiting or deque()
        held.waiting.append(command)
        self._count(held, COMMAND_BYTES + weight(command))
        if held.waiting_bytes <= self._settings.legacy_buffer and self._ledger.bytes <= self._settings.broker_memory:
            return []
        message = f"its worker can't be paused, and sent {held.waiting_bytes:,} bytes more than its caller reads"
        self._swallow(held)
        found: list[Any] = [GiveUp(c.Error(held.id, Code.RESOURCE_EXHAUSTED.value, Overloaded.reason, message))]
        if type(command) is not c.Partial:
            found += self._end(held, cancelled(held))
        return found

    def _release_reply(self, held: Held, command: c.Command) -> list[Any]:
        if not isinstance(command, c.Partial):
            return self._end(held, command)
        held.messages -= 1
        held.bytes -= len(command.body)  # type: ignore[arg-type]
        return [command]

    def put_credit(self, credit: c.Credit) -> None:
        """A caller has room for more: let it have what waits."""
        held = self._held.get(credit.id)
        if held is None:
            return
        held.messages += credit.messages
        held.bytes += credit.bytes
        while held.waiting and held.may_pass(held.waiting[0]):
            command = held.waiting.popleft()
            self._count(held, -COMMAND_BYTES - weight(command))
            self._find(*self._release_reply(held, command))

    def _swallow(self, held: Held) -> None:
        held.swallowed = True
        self._release(held)

    def _end(self, held: Held, command: Any) -> list[Any]:
        """The worker is through with a request."""
        self._release(held)
        del self._held[held.id]
        return [command]

    def _release(self, held: Held) -> None:
        """Let go of what waits for a caller."""
        if held.waiting:
            self._count(held, -held.waiting_bytes)
            held.waiting = None

    def _count(self, held: Held, size: int) -> None:
        held.waiting_bytes += size
        self._waiting_bytes += size
        self._ledger.bytes += size


def cancelled(held: Held) -> c.Error:
    """Return what a worker of our own says of a request that was cancelled."""
    return c.Error(held.id, Code.CANCELLED.value, "", "")

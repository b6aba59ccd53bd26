"""Where a task waits for a port's news: its keeper, or somebody who stands in.

Theory of operation.  When the keeper has taken a turn, whoever is concerned is still to be run: the caller whose reply
has come, the handler whose request has.  That is a tick of Trio's loop more, and the one thing that keeps a single
request waiting for longer than its messages take.  So a caller that has nothing to do but wait for its reply, and a
task that has no handler to run, wait for the port's news themselves, take the turn, and go on with what it brought.

The keeper never stops waiting for their sake, since to end a wait costs as much as is gained.  It is told that somebody
would have stood in (`ask`), leaves its post empty for two ticks after its next turn, which is time enough for those
whom the turn concerned to come back, and takes the post again if none has.  Then it was in vain, and is not tried again
before twice as many have asked.  While somebody stands in the keeper is parked.  It is woken each time that one is
done, and parks again if somebody has come by then: the same one, for example, with its next request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import trio

from .._transport import Port

#: Ticks for which the post stays empty.
TICKS: Final = 2
#: How many must ask, at most, before the keeper leaves its post.
MOST_ASKS: Final = 256


class Post:
    """One port's post; at most one task has it at a time."""

    __slots__ = ("_asks", "_asks_needed", "_keeper", "_keeps", "_port", "_taken", "_used", "_wanted")

    def __init__(self, port: Port) -> None:
        self._port = port
        #: Whether the keeper has the post.
        self._keeps = True
        #: Whether somebody stands in, and whether anybody has since the keeper has left.
        self._taken = False
        self._used = False
        #: The keeper, while it is parked.
        self._keeper: trio.lowlevel.Task | None = None
        #: Whether the keeper is to leave its post after the next turn.
        self._wanted = False
        #: How many have asked since it last left, and how many must for it to leave.
        self._asks = 0
        self._asks_needed = 1

    async def keep(self, turn: Callable[[], None]) -> NoReturn:
        """Take turns at the port's news, whenever nobody stands in.

        Raises:
            trio.ClosedResourceError: the port was closed.
        """
        while True:
            self._keeps = True
            if await self._port.wait():
                turn()
            if self._wanted:
                self._keeps = False
                await self._leave_to_others()

    async def _leave_to_others(self) -> None:
        """Leave the post to others: for two ticks, and then for as long as somebody is there."""
        self._wanted = self._used = False
        for _ in range(TICKS):
            await trio.lowlevel.checkpoint()
        self._asks = 0
        self._asks_needed = 1 if self._used else min(2 * self._asks_needed, MOST_ASKS)
        while self._taken:
            self._keeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._keeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def ask(self) -> bool:
        """Tell whether the caller may stand in now; if it may not, since the keeper is there, that is noted."""
        if not self._keeps:
            return not self._taken
        self._asks += 1
        if self._asks >= self._asks_needed:
            self._wanted = True
        return False

    async def stand_in(self) -> bool:
        """Wait in the keeper's place; tell whether there may be news, at which to take a turn then.

        To be called only after `ask`, in the same step.
        """
        self._taken = self._used = True
        try:
            return await self._port.wait()
        except trio.ClosedResourceError:
            return False
        finally:
            self._taken = False
            if self._keeper is not None:
                trio.lowlevel.reschedule(self._keeper)
                self._keeper = None

    def recall(self) -> None:
        """Have whoever stands in return."""
        if self._taken:
            self._port.recall()

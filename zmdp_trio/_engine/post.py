"""Where a task waits for a port's news: its keeper, or somebody who stands in.

Theory of operation.  When the keeper has taken a turn, whoever is concerned is still to be run: the caller whose reply
has come, the handler whose request has.  That is a tick of Trio's loop more, and the one thing that keeps a single
request waiting for longer than its messages take.  So a caller that has nothing to do but wait for its reply, and a
task that has no handler to run, wait for the port's news themselves, take the turn, and go on with what it brought.

The keeper never stops waiting for their sake, since to end a wait costs as much as is gained.  It is told that
somebody would have stood in (`ask`), leaves its post empty for two ticks after its next turn, which is time enough for
those whom the turn concerned to come back, and takes the post again if none has.  Then it was in vain, and is not tried
again before twice as many have asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import trio

from .._transport import Port

#: Ticks for which the post stays empty.
TICKS: Final = 2
#: How many who ask are passed over at most.
PATIENCE: Final = 256


class Post:
    """One port's post; at most one task has it at a time."""

    __slots__ = ("_keeper", "_keeps", "_passed_over", "_patience", "_port", "_taken", "_wanted")

    def __init__(self, port: Port) -> None:
        self._port = port
        #: Whether somebody stands in; the keeper, while it is parked for that; and whether it waits for the port.
        self._taken = False
        self._keeper: trio.lowlevel.Task | None = None
        self._keeps = True
        #: Somebody is to be let stand in; how many have asked since that was last so, and how many must have.
        self._wanted = False
        self._passed_over = 0
        self._patience = 1

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
        """Leave the post, until nobody has come for two ticks."""
        self._wanted = False
        for _ in range(TICKS):
            await trio.lowlevel.checkpoint()
        self._passed_over = 0
        self._patience = 1 if self._taken else min(2 * self._patience, PATIENCE)
        while self._taken:
            self._keeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._keeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def ask(self) -> bool:
        """Tell whether the caller may stand in now; if it may not, that is noted."""
        if not self._keeps:
            return not self._taken
        self._passed_over += 1
        if self._passed_over >= self._patience:
            self._wanted = True
        return False

    async def stand_in(self) -> bool:
        """Wait in the keeper's place; tell whether there may be news, at which to take a turn then.

        To be called only after `ask`, in the same step.
        """
        self._taken = True
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

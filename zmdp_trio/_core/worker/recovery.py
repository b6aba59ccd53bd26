"""After a broker's restart: what the worker still has of the last one's requests, for those who claim it.

Executions whose callers may yet claim them run on without a broker.  The next one is told of them, behind the greeting,
and of the outcomes that the last one may not have passed on; it sends a RESUME for each that it has a claim for.  Then
the caller is sent what it has not got, and the execution belongs to the new session.  What nobody claims within the
resume limit is cancelled.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import msgspec

from ..._errors import BrokerLost, ProtocolError
from ..._settings import Settings
from ..._wire import commands as c
from ..dialler import Dialler
from ..shared import MAX_HOLDINGS, Origin
from ..uplink import UP, Greeted, Identity, Uplink
from ..weights import weight
from .execution import Execution, unread
from .outcomes import Outcome, Outcomes

#: Requests that one HOLDINGS names.
HOLDINGS_EACH = 256


class Unclaimed:
    """What there is for a broker to come, until the callers say whether they still wait for it.

    Attributes:
        executions: what ran when the broker was restarted, and runs yet.
        ended: what ended while there was no broker to tell.
    """

    __slots__ = ("ended", "executions", "uplink")

    def __init__(self, uplink: Uplink) -> None:
        self.uplink = uplink
        self.executions: dict[Origin, Execution] = {}
        self.ended: set[Origin] = set()

    def __bool__(self) -> bool:
        return bool(self.executions or self.ended)


class Recovery(Dialler):
    """Executions and outcomes, by whether a broker has them, is to be told of them, or has given them up."""

    def __init__(self, identity: Identity, settings: Settings) -> None:
        super().__init__(identity, settings)
        self._held: dict[Uplink, dict[int, Execution]] = {}
        self._unclaimed: dict[Uplink, Unclaimed] = {}
        #: What runs though nobody wants it any more.
        self._strays: set[Execution] = set()
        self._outcomes = Outcomes(settings)

    @abstractmethod
    def _adopt(self, uplink: Uplink, execution: Execution) -> None:
        """An execution belongs to a session that did not start it."""

    @abstractmethod
    def _cancel(self, execution: Execution) -> None:
        """Cancel an execution's handler, unless that was done."""

    @abstractmethod
    def _answer(self, uplink: Uplink, command: c.Reject | c.Error) -> None:
        """Tell a broker that nothing was made of its command."""

    def add(self, endpoint: str) -> Uplink:
        uplink = super().add(endpoint)
        self._held[uplink] = {}
        self._unclaimed[uplink] = Unclaimed(uplink)
        return uplink

    def handle_timer(self, *, now: float) -> None:
        super().handle_timer(now=now)
        self._outcomes.forget_old(now)

    @property
    def _owes(self) -> bool:
        """Callers may yet claim something, once their broker is back."""
        return any(self._unclaimed.values())

    def _remember(self, execution: Execution, outcome: c.Final | c.Error, size: int) -> None:
        """Keep an outcome for a broker to come.  (What was rejected may be with another worker by then.)"""
        self._outcomes.add(execution, outcome, size, self._now)
        if execution.orphaned or execution.uplink.state is not UP:
            # Only what nobody waits for any more, and is not active, may outlive its uplink.
            self._unclaimed[execution.uplink].ended.add(execution.origin)

    # ---- what runs

    @property
    def running(self) -> int:
        """Handlers that have not ended."""
        unclaimed = sum(len(each.executions) for each in self._unclaimed.values())
        return sum(map(len, self._held.values())) + unclaimed + len(self._strays)

    def _holds(self, uplink: Uplink) -> bool:
        return bool(self._held[uplink])

    def _executions(self) -> Iterator[Execution]:
        for held in self._held.values():
            yield from held.values()
        for unclaimed in self._unclaimed.values():
            yield from unclaimed.executions.values()
        yield from self._strays

    # ---- a new session

    def _await_claims(self, uplink: Uplink) -> None:
        """Let go on what runs for the broker before this one, but for what nobody can claim."""
        unclaimed = self._unclaimed[uplink]
        for id, execution in list(self._held[uplink].items()):
            if execution.active and execution.request.caller and execution.origin not in unclaimed.executions:
                del self._held[uplink][id]
                execution.orphaned = True
                unclaimed.executions[execution.origin] = execution
        self._orphan_held(uplink)

    def _limit_wait(self, uplink: Uplink, now: float) -> None:
        """Callers have so long to claim what there is, now that their broker is back."""
        unclaimed = self._unclaimed[uplink]
        if unclaimed:
            self._timers.set(unclaimed, now + self.settings.resume)

    def _tell_holdings(self, uplink: Uplink, greeted: Greeted, now: float) -> None:
        """Tell a broker what we have of the requests that its predecessor sent."""
        holdings = [
            c.Holding(*each.origin, each.asked, each.request.key, each.payload, offered=each.offered)
            for each in self._unclaimed[uplink].executions.values()
        ]
        keyed_only = greeted is not Greeted.RESTARTED
        outcomes = self._outcomes.unknown_to(uplink.endpoint, uplink.epoch, keyed_only=keyed_only)
        holdings = [*(outcome.holding(now) for outcome in outcomes), *holdings][-MAX_HOLDINGS:]
        for start in range(0, len(holdings), HOLDINGS_EACH):
            command = c.Holdings(holdings[start : start + HOLDINGS_EACH])
            uplink.link.put(command, weight(command))

    # ---- claims

    def _on_resume(self, uplink: Uplink, command: c.Resume, now: float) -> None:
        """A caller is back: give it what it has not got, and go on."""
        if command.id in self._held[uplink]:
            raise ProtocolError(f"request {command.id} came twice")
        origin = command.caller, command.call
        self._unclaimed[uplink].ended.discard(origin)
        execution = self._unclaimed[uplink].executions.pop(origin, None)
        outcome = self._outcomes.get(origin)
        if execution is not None:
            self._go_on(execution, uplink, command, now)
        elif outcome is None or not self._tell_again(outcome, uplink, command):
            self._put_gone(uplink, command.id)

    def _go_on(self, execution: Execution, uplink: Uplink, command: c.Resume, now: float) -> None:
        again = execution.go_on(uplink, command, now)
        if again is None:
            self._strays.add(execution)
            self._cancel(execution)
            self._put_gone(uplink, command.id)
            return
        self._put_again(uplink, again)
        self._adopt(uplink, execution)

    def _tell_again(self, outcome: Outcome, uplink: Uplink, command: c.Resume) -> bool:
        """Send an outcome to another broker; tell whether all that the caller has not got is still there."""
        if outcome.epoch == uplink.epoch:
            return False
        again = unread(outcome.sent, outcome.first, command)
        if again is None:
            return False
        outcome.epoch = uplink.epoch
        self._put_again(uplink, again)
        last = msgspec.structs.replace(outcome.command, id=command.id)
        uplink.link.put(last, weight(last))
        return True

    def _put_again(self, uplink: Uplink, partials: list[c.Partial]) -> None:
        for partial in partials:
            uplink.link.put(partial, weight(partial))

    def _put_gone(self, uplink: Uplink, id: int) -> None:
        message = "its replies were lost with the broker"
        self._answer(uplink, c.Error(id, BrokerLost.default_code.value, BrokerLost.reason, message))

    # ---- what is given up

    def cancel_all(self) -> None:
        """Cancel every handler, as the worker is about to leave."""
        for held in self._held.values():
            for execution in held.values():
                self._cancel(execution)
        for unclaimed in self._unclaimed.values():
            self._abandon(unclaimed)

    def _orphan(self, uplink: Uplink) -> None:
        """The session is over: nobody wants what its handlers have to say."""
        self._orphan_held(uplink)
        self._abandon(self._unclaimed[uplink])

    def _orphan_held(self, uplink: Uplink) -> None:
        for execution in self._held[uplink].values():
            execution.orphaned = True
            self._strays.add(execution)
            self._cancel(execution)
        self._held[uplink] = {}

    def _abandon(self, unclaimed: Unclaimed) -> None:
        """Cancel what was not claimed."""
        self._timers.cancel(unclaimed)
        unclaimed.ended.clear()
        for execution in unclaimed.executions.values():
            self._strays.add(execution)
            self._cancel(execution)
        unclaimed.executions = {}

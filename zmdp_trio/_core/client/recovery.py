"""What becomes of calls whose broker is lost, or was restarted, or could not have them run.

A session that comes back goes on with its calls.  A broker that was restarted is asked for them: their workers may have
them yet.  What may run again is sent again, to another broker where there is one, and so is what no worker has seen.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..._errors import BrokerLost, ServiceNotFound, Unavailable, WorkerLost, error_from_wire
from ..._wire import commands as c
from ..._wire.frames import UNREADABLE
from ..uplink import Greeted, Uplink
from ..weights import weight
from .call import INF, Call
from .placement import Placement

#: Reasons for which a request may run again that allows it.
LOST: Final = frozenset((WorkerLost.reason, BrokerLost.reason))
#: Reasons of errors that are the broker's own: with one of these, NOT_RUN says that no worker has seen the request.
BROKERS_OWN: Final = (Unavailable.reason, ServiceNotFound.reason)


class Recovery(Placement):
    """Calls that are claimed, run again, or lost."""

    # ---- sessions

    def _on_up(self, uplink: Uplink, greeted: Greeted, now: float) -> None:
        if greeted is Greeted.RESTARTED:
            self._claim_calls(uplink, now)
        elif greeted is Greeted.FRESH:
            self._lose_calls(uplink, "it has forgotten the session", now)
        self.choice.note_up(uplink, now, resumed=greeted is Greeted.RESUMED)
        self._send_waiting(now)

    def lost(self, uplink: Uplink, reason: str, *, now: float) -> None:
        was_up = uplink.up
        super().lost(uplink, reason, now=now)
        self.choice.note_loss(uplink, now, was_up=was_up)
        if self._waiting:
            # A keyed call may have waited for this one.
            self._send_waiting(now)

    def looked_up(self, name: str, reason: str | None, *, now: float) -> None:
        super().looked_up(name, reason, now=now)
        self._send_waiting(now)

    def _on_down(self, uplink: Uplink, now: float) -> None:
        """Calls stay where they are: the session may come back."""

    def _on_given_up(self, uplink: Uplink, now: float) -> None:
        self._lose_calls(uplink, uplink.reason, now)

    def _claim_calls(self, uplink: Uplink, now: float) -> None:
        """The broker was restarted: ask it for what was sent before, and send what was not."""
        unsent = {command.id for command in uplink.unsent if isinstance(command, c.Request)}
        for call in list(self._calls[uplink].values()):
            if call.id in unsent:
                self._take_back(call)
                self._send_again(call, uplink, now)
                continue
            call.claimed = True
            self.credit.forgive(call)
            claim = c.Claim(
                call.id,
                call.request.service,
                received=None if call.discards else call.partials,
                messages=call.granted_messages,
                bytes=call.granted,
                left=None if call.deadline == INF else max(call.deadline - now, 0.0),
                key=call.request.key,
            )
            call.sent_deadline = call.deadline
            uplink.link.put(claim, weight(claim))

    def _lose_calls(self, uplink: Uplink, why: str, now: float) -> None:
        """The session is over: have those calls run again that may, and end the others.

        Where a session can't come back, those that were never sent are placed anew.
        """
        dropped = uplink.link.drop_outbox()
        # Elsewhere they have waited for the session to come back, which was long enough.
        unsent = () if uplink.resume else {command.id for command in dropped if isinstance(command, c.Request)}
        lost = list(self._calls[uplink].values())
        for call in lost:
            if call.id in unsent:
                self._take_back(call)
                self._place(call, now)
            elif self._may_run_again(call):
                self._again(call, now)
            else:
                self._end(call, BrokerLost(f"the broker is lost: {why}", service=call.request.service))

    # ---- errors

    def _on_error(self, uplink: Uplink, error: c.Error, now: float) -> None:
        call = self._calls[uplink].get(error.id)
        if call is None:
            self.late_replies += 1
            return
        try:
            details = msgspec.msgpack.decode(error.details) if error.details else None
        except UNREADABLE:
            details = None
        # With any other reason they are a handler's own details.
        not_run = error.reason in BROKERS_OWN and details == c.NOT_RUN
        ours = call.claimed or not uplink.reruns
        if ours and (not_run or error.reason in LOST) and self._may_run_again(call):
            # The restarted broker has no payload to run it again with; another one does not do it by itself.
            self._again(call, now)
            return
        if not_run:
            details = None
        failure = error_from_wire(error.code, error.reason, error.message, details, call.request.service)
        if not_run and isinstance(failure, ServiceNotFound):
            self.choice.note_absence(uplink, call.request, now)
        # A broker that lost its last worker has waited for another one with a retry in hand: there is one run left.
        once_more = type(failure) is Unavailable and self._may_run_again(call)
        other = self.choice.other_for(call, uplink, now) if (not_run and not call.claimed) or once_more else None
        if other is None:
            self._end(call, failure)
            return
        if not not_run:
            call.retries = call.request.retry = 0
        self._take_back(call)
        self._timers.cancel(call)
        self._send_again(call, other, now)

    # ---- again

    def _may_run_again(self, call: Call) -> bool:
        return call.retries > 0 and not call.partials

    def _again(self, call: Call, now: float) -> None:
        lost = call.uplink
        self._take_back(call)
        call.retries -= 1
        call.request.retry = call.retries
        self._place(call, now, avoid=lost)

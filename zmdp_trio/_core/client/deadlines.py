"""How long callers wait: until their deadlines, for a sign of life, and for a broker."""

from __future__ import annotations

from typing import Final

from ..._errors import BrokerLost, DeadlineExceeded
from ..._wire import commands as c
from ..uplink import Uplink
from .call import INF, SENT, WAITING, Call
from .choice import PATIENCE
from .placement import Placement

#: Waits shorter than this are not split to look at the caller's deadline again.
RESAMPLE_MIN: Final = 0.02


class Deadlines(Placement):
    """The calls whose callers wait, and what ends that, or has them look at their deadlines again."""

    # ---- for the shell

    def wait(self, call: Call, *, now: float) -> None:
        """The caller waits from now on: silence counts, and its deadline is looked at again in time."""
        call.waited_for = True
        if call.state is WAITING:
            return
        call.heard = now
        self._watch(call, now)

    def unwait(self, call: Call) -> None:
        """The caller does something else: silence doesn't count."""
        call.waited_for = False
        if call.state is SENT:
            if call.enforced < INF:
                self._timers.set(call, call.enforced)
            else:
                self._timers.cancel(call)

    def move_deadline(self, call: Call, deadline: float, *, now: float) -> None:
        """Tell the handler that its caller's deadline was moved."""
        call.deadline = deadline
        if call.state is SENT and deadline != call.sent_deadline:
            call.sent_deadline = deadline
            assert call.uplink is not None
            call.uplink.link.put(c.Heartbeat([c.Held(call.id, max(deadline - now, 0.0))]))

    # ---- timers

    def _watch(self, call: Call, now: float) -> None:
        """Wake the call when it was silent for too long, or when half of its time left has gone."""
        call.looked = now
        self._set_timer(call)

    def _set_timer(self, call: Call) -> None:
        """Set a call's timer if it is due before the next beat, which sets those that are due after it.

        Most calls are over by then, and never need one: setting and cancelling it cost a microsecond.
        """
        looked = call.looked
        due = looked + self.settings.heartbeat
        if call.deadline < INF:
            due = min(due, looked + max((call.deadline - looked) / 2, RESAMPLE_MIN))
        silent = call.heard + call.timeout
        if silent < due:
            due = silent
        if call.enforced < INF:
            self._timers.set(call, min(due, call.enforced))
        elif due < self._next_beat:
            self._timers.set(call, due)

    def _beat(self, uplink: Uplink, now: float) -> None:
        super()._beat(uplink, now)
        for call in self._calls[uplink].values():
            if call.waited_for:
                self._set_timer(call)

    def _on_timer(self, key: Call, now: float) -> None:
        call = key
        if now >= call.enforced:
            self._give_up(call, DeadlineExceeded("the deadline passed", service=call.request.service))
        elif call.state is WAITING and call.request.key is not None and not call.hasty:
            call.hasty = True
            self._timers.set(call, min(now + max(self.settings.connect - PATIENCE, 0.0), call.enforced))
            self._send_waiting(now)
        elif call.state is WAITING:
            self._end(call, BrokerLost(self._why_down(), service=call.request.service))
        elif now >= call.heard + call.timeout:
            message = f"no reply for {call.timeout:g} s"
            self._give_up(call, DeadlineExceeded(message, service=call.request.service))
        else:
            self._watch(call, now)
            self._news.append(call)

    def _why_down(self) -> str:
        reasons = [f"{uplink.endpoint}: {uplink.reason or 'no answer'}" for uplink in self.uplinks.values()]
        reasons += [f"{name}: {reason or 'no answer of the name service'}" for name, reason in self.unresolved.items()]
        return f"no broker within {self.settings.connect:g} s ({'; '.join(reasons)})"

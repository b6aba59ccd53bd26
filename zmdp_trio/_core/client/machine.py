"""The client's machine: calls out, replies in, over one uplink per broker.

A call's way: `start` has `Placement` send it to the broker that is chosen, or keep it until there is one; `Deadlines`
says how long its caller waits; `Recovery` claims it, or sends it again, when its broker is lost; and what comes for it
is in this file.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..._errors import RequestCancelled, RequestError
from ..._settings import Settings
from ..._wire import commands as c
from ..dialler import Dialler
from ..protocol import ZMDP1, Protocol
from ..uplink import Identity, Uplink
from .call import ENDED, SENT, Call, check_request
from .deadlines import Deadlines
from .recovery import Recovery


class ClientMachine(Recovery, Deadlines):
    """Requests, their replies, credit, and time-outs.

    `take_news` returns the calls whose callers have something to look at: a partial reply, an outcome, or a moment at
    which to look whether their deadline was moved.
    """

    def __init__(self, identity: Identity, settings: Settings, protocol: Protocol = ZMDP1) -> None:
        super().__init__(identity, settings, protocol)
        self.started = 0

    # ---- for the shell

    def start(self, call: Call, *, now: float) -> None:
        """Send the call, or keep it until a broker is connected.

        Raises:
            RequestError: a broker would not take it, or can't be asked for it; nothing was sent.
        """
        self._protocol.prepare(call.request)
        uplink = self.choice.choose(call, now)
        check_request(call.request, uplink.limits if uplink else c.Limits.of(self.settings))
        self.started += 1
        call.heard = now
        if uplink is None:
            self._wait(call, now)
        else:
            self._send(call, uplink, now)

    def take(self, call: Call) -> c.Partial:
        """Take the oldest partial reply from the inbox, and grant credit for more as that gets short."""
        partial = call.inbox.popleft()
        if call.handed:
            call.handed = False
        else:
            self._count_taken(call, partial)
        return partial

    def hand(self, call: Call) -> None:
        """The caller is about to take the oldest partial reply: grant credit as if it had, in this turn already."""
        if call.state is SENT:
            call.handed = True
            self._count_taken(call, call.inbox[0])

    def _count_taken(self, call: Call, partial: c.Partial) -> None:
        short = self.credit.taken(call, len(partial.body))  # type: ignore[arg-type]
        if short and call.state is SENT:
            assert call.uplink is not None
            call.uplink.link.put(self.credit.grant(call))

    def cancel(self, call: Call) -> None:
        """The caller has left: whatever its state, nothing of the call remains here."""
        self._call_off(call)
        if call.state is not ENDED:
            call.outcome = RequestCancelled("the request was left", service=call.request.service)
            self._retire(call)
        self.credit.forget(call)
        call.inbox.clear()

    def fail_all(self, error: RequestError) -> None:
        """End every call with an error, and tell the brokers."""
        for call in self.calls():
            self._give_up(call, error)

    def take_news(self) -> list[Call]:
        """Return the calls with news, and forget them."""
        news, self._news = self._news, []
        return news

    def statistics(self) -> dict[str, Any]:
        """Return the numbers that the shell's record is made of."""
        return {
            "waiting": len(self._waiting),
            "outstanding": sum(map(len, self._calls.values())),
            "started": self.started,
            "late_replies": self.late_replies,
            "duplicates": sum(uplink.link.duplicates for uplink in self.uplinks.values()),
            "protocol_errors": self.protocol_errors,
            "timers": len(self._timers),
        }

    # ---- receiving

    def _on_partial(self, uplink: Uplink, partial: c.Partial, now: float) -> None:
        call = self._calls[uplink].get(partial.id)
        if call is None:
            self.late_replies += 1
            return
        size = len(partial.body)  # type: ignore[arg-type]
        call.heard = now
        call.partials += 1
        credit = self.credit.arrived(call, size)
        if credit is not None:
            uplink.link.put_credit(credit)
        if call.discards:
            return
        call.inbox.append(partial)
        if call.waiter is not None:
            self._news.append(call)

    def _on_final(self, uplink: Uplink, final: c.Final, now: float) -> None:
        call = self._calls[uplink].get(final.id)
        if call is None:
            self.late_replies += 1
        else:
            self._end(call, final)

    def _on_heartbeat(self, uplink: Uplink, heartbeat: c.Heartbeat, now: float) -> None:
        for held in heartbeat.held:
            call = self._calls[uplink].get(held.id)
            if call is None:
                continue
            call.heard = now
            if held.retry is not None:
                call.retries = call.request.retry = min(call.retries, held.retry)

    def _on_drain(self, uplink: Uplink, command: c.Drain, now: float) -> None:
        uplink.draining = True
        uplink.link.put(c.Drained())

    _handlers: ClassVar[dict[type[c.Command], Any]] = Dialler._handlers | {
        c.Partial: _on_partial,
        c.Final: _on_final,
        c.Error: Recovery._on_error,
        c.Heartbeat: _on_heartbeat,
        c.Drain: _on_drain,
    }

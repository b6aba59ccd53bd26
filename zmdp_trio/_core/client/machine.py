"""The client's machine: calls out, replies in, over one uplink per broker."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import msgspec

from ..._errors import (
    BrokerLost,
    DeadlineExceeded,
    InvalidArgument,
    RequestCancelled,
    RequestError,
    ServiceNotFound,
    Unavailable,
    WorkerLost,
    error_from_wire,
)
from ..._settings import Settings
from ..._wire import commands as c
from ..._wire.frames import UNREADABLE
from ..dialler import Dialler
from ..protocol import ZMDP1, Protocol
from ..uplink import Greeted, Identity, Uplink
from ..weights import request_weight, weight
from .call import AGAIN, END, ENDED, SEND, SENT, WAIT, WAITING, Call, check_request
from .choice import PATIENCE, BrokerChoice
from .credit import CreditBudget

INF = math.inf
#: Waits shorter than this are not split to look at the caller's deadline again.
RESAMPLE_MIN = 0.02
#: Reasons for which a request may run again that allows it.
LOST = frozenset((WorkerLost.reason, BrokerLost.reason))
#: Reasons of errors that are the broker's own: with one of these, NOT_RUN says that no worker has seen the request.
BROKERS_OWN = (Unavailable.reason, ServiceNotFound.reason)


class ClientMachine(Dialler):
    """Requests, their replies, credit, and time-outs.

    `take_news` returns the calls whose callers have something to look at: a partial reply, an outcome, or a moment at
    which to look whether their deadline was moved.
    """

    def __init__(self, identity: Identity, settings: Settings, protocol: Protocol = ZMDP1) -> None:
        super().__init__(identity, settings)
        self._protocol = protocol
        self._calls: dict[Uplink, dict[int, Call]] = {}
        self._waiting: dict[Call, None] = {}
        self._news: list[Call] = []
        self._next_id = 0
        self.credit = CreditBudget(settings)
        self.choice = BrokerChoice(self.uplinks, self.unresolved, self._calls)
        #: Replies to requests that had ended already.
        self.late_replies = 0
        self.started = 0

    # ---- for the shell

    def add(self, endpoint: str) -> Uplink:
        uplink = super().add(endpoint)
        self._calls[uplink] = {}
        return uplink

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
        if call.state is SENT:
            assert call.uplink is not None
            call.uplink.link.put(c.Cancel(call.id))
        self._forget(call)

    def fail_all(self, error: RequestError) -> None:
        """End every call with an error, and tell the brokers."""
        for call in self.calls():
            if call.state is SENT:
                assert call.uplink is not None
                call.uplink.link.put(c.Cancel(call.id))
            self._end(call, error)

    def goodbye(self) -> None:
        """Take leave of every broker."""
        for uplink in self.uplinks.values():
            uplink.goodbye()

    def calls(self) -> list[Call]:
        """Return the calls that have no outcome yet."""
        return [*self._waiting, *(call for calls in self._calls.values() for call in calls.values())]

    def take_news(self) -> list[Call]:
        """Return the calls with news, and forget them."""
        news, self._news = self._news, []
        return news

    def _make_uplink(self, endpoint: str, identity: Identity) -> Uplink:
        return self._protocol.client(endpoint, identity, self.settings, self._wiring)

    # ---- sending

    def _wait(self, call: Call, now: float) -> None:
        call.step(WAIT)
        self._waiting[call] = None
        connect = self.settings.connect
        if call.request.key is not None and not call.hasty:
            connect = min(PATIENCE, connect)
        self._timers.set(call, min(now + connect, call.enforced))

    def _send_waiting(self, now: float) -> None:
        """Send what waits for a broker, and may have one now."""
        for call in list(self._waiting):
            uplink = self.choice.choose(call, now)
            if uplink is not None:
                del self._waiting[call]
                self._timers.cancel(call)
                self._send_again(call, uplink, now)

    def _send(self, call: Call, uplink: Uplink, now: float) -> None:
        call.step(SEND)
        self._next_id += 1
        call.id = request_id = self._next_id
        call.uplink = uplink
        self._calls[uplink][request_id] = call
        request = call.request
        request.id = request_id
        call.sent_deadline = call.deadline
        request.left = None if call.deadline == INF else max(0.0, call.deadline - now)
        self.credit.open(call)
        if call.enforced < INF:
            self._timers.set(call, call.enforced)
        uplink.link.put(request, request_weight(request))

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

    def _ignore(self, uplink: Uplink, command: c.Command, now: float) -> None:
        """A BATCH was the link's; a WELCOME came twice, as its HELLO did."""

    _handlers: ClassVar[dict[type[c.Command], Any]] = {
        c.Batch: _ignore,
        c.Welcome: _ignore,
        c.Partial: _on_partial,
        c.Final: _on_final,
        c.Error: _on_error,
        c.Heartbeat: _on_heartbeat,
        c.Drain: _on_drain,
        c.Goodbye: Dialler._on_goodbye,
    }

    # ---- time

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

    def _give_up(self, call: Call, error: RequestError) -> None:
        if call.state is SENT:
            assert call.uplink is not None
            call.uplink.link.put(c.Cancel(call.id))
        self._end(call, error)

    def _why_down(self) -> str:
        reasons = [f"{uplink.endpoint}: {uplink.reason or 'no answer'}" for uplink in self.uplinks.values()]
        reasons += [f"{name}: {reason or 'no answer of the name service'}" for name, reason in self.unresolved.items()]
        return f"no broker within {self.settings.connect:g} s ({'; '.join(reasons)})"

    # ---- sessions

    def _holds(self, uplink: Uplink) -> bool:
        return bool(self._calls[uplink])

    def _on_up(self, uplink: Uplink, greeted: Greeted, now: float) -> None:
        if greeted is Greeted.RESTARTED:
            self._claim_calls(uplink, now)
        elif greeted is Greeted.FRESH:
            self._lose_calls(uplink, "it has forgotten the session", now)
        self.choice.note_up(uplink, now, resumed=greeted is Greeted.RESUMED)
        self._send_waiting(now)

    def _on_removed(self, uplink: Uplink) -> None:
        del self._calls[uplink]
        self.choice.forget(uplink)

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
        """The session is over: send again what may run again, and what was never sent; end the rest."""
        dropped = uplink.link.drop_outbox()
        # What has waited for a session to come back has waited long enough.
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

    def _may_run_again(self, call: Call) -> bool:
        return call.retries > 0 and not call.partials

    def _take_back(self, call: Call) -> None:
        """Make a call one that was not sent."""
        assert call.uplink is not None
        del self._calls[call.uplink][call.id]
        call.step(AGAIN)
        self.credit.close(call)
        call.uplink = None
        call.claimed = False

    def _again(self, call: Call, now: float) -> None:
        lost = call.uplink
        self._take_back(call)
        call.retries -= 1
        call.request.retry = call.retries
        self._place(call, now, avoid=lost)

    def _place(self, call: Call, now: float, avoid: Uplink | None = None) -> None:
        """Send a call that has no broker to one, or let it wait for one."""
        uplink = self.choice.choose(call, now, avoid=avoid)
        if uplink is None:
            self._wait(call, now)
        else:
            self._send_again(call, uplink, now)

    def _send_again(self, call: Call, uplink: Uplink, now: float) -> None:
        """Send a call whose caller was waiting already, unless this broker would not take it."""
        try:
            check_request(call.request, uplink.limits)
        except InvalidArgument as error:
            self._end(call, error)
            return
        self._send(call, uplink, now)
        call.heard = now
        if call.waited_for:
            self._watch(call, now)

    # ---- the end

    def _end(self, call: Call, outcome: c.Final | RequestError) -> None:
        call.outcome = outcome
        self._retire(call)
        if call.waiter is not None:
            self._news.append(call)

    def _forget(self, call: Call) -> None:
        if call.state is not ENDED:
            if call.outcome is None:
                call.outcome = RequestCancelled("the request was left", service=call.request.service)
            self._retire(call)
        self.credit.forget(call)
        call.inbox.clear()

    def _retire(self, call: Call) -> None:
        """Take the call out of every table; the inbox may still be read."""
        self._timers.cancel(call)
        if call.state is WAITING:
            self._waiting.pop(call, None)
        elif call.uplink is not None:
            self._calls[call.uplink].pop(call.id, None)
            self.credit.close(call)
        call.step(END)

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

"""Where each call is: with a broker, waiting for one, or at its end."""

from __future__ import annotations

from abc import abstractmethod

from ..._errors import InvalidArgument, RequestError
from ..._settings import Settings
from ..._wire import commands as c
from ..dialler import Dialler
from ..protocol import Protocol
from ..uplink import Identity, Uplink
from ..weights import request_weight
from .call import AGAIN, END, INF, SEND, SENT, WAIT, WAITING, Call, check_request
from .choice import PATIENCE, BrokerChoice
from .credit import CreditBudget


class Placement(Dialler):
    """The calls of each broker, those that have none, and how they come from one to the other."""

    def __init__(self, identity: Identity, settings: Settings, protocol: Protocol) -> None:
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

    @abstractmethod
    def _watch(self, call: Call, now: float) -> None:
        """Mind how long a call's caller waits."""

    def calls(self) -> list[Call]:
        """Return the calls that have no outcome yet."""
        return [*self._waiting, *(call for calls in self._calls.values() for call in calls.values())]

    # ---- brokers

    def add(self, endpoint: str) -> Uplink:
        uplink = super().add(endpoint)
        self._calls[uplink] = {}
        return uplink

    def _make_uplink(self, endpoint: str, identity: Identity) -> Uplink:
        return self._protocol.client(endpoint, identity, self.settings, self._wiring)

    def _holds(self, uplink: Uplink) -> bool:
        return bool(self._calls[uplink])

    def _on_removed(self, uplink: Uplink) -> None:
        del self._calls[uplink]
        self.choice.forget(uplink)

    # ---- to a broker

    def _place(self, call: Call, now: float, avoid: Uplink | None = None) -> None:
        """Send a call that has no broker to one, or let it wait for one."""
        uplink = self.choice.choose(call, now, avoid=avoid)
        if uplink is None:
            self._wait(call, now)
        else:
            self._send_again(call, uplink, now)

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

    # ---- back from it

    def _take_back(self, call: Call) -> None:
        """Make a call one that was not sent."""
        assert call.uplink is not None
        del self._calls[call.uplink][call.id]
        call.step(AGAIN)
        self.credit.close(call)
        call.uplink = None
        call.claimed = False

    # ---- the end

    def _call_off(self, call: Call) -> None:
        """Tell its broker, if it has one, that nobody waits for a call any more."""
        if call.state is SENT:
            assert call.uplink is not None
            call.uplink.link.put(c.Cancel(call.id))

    def _give_up(self, call: Call, error: RequestError) -> None:
        """End a call that may run yet."""
        self._call_off(call)
        self._end(call, error)

    def _end(self, call: Call, outcome: c.Final | RequestError) -> None:
        call.outcome = outcome
        self._retire(call)
        if call.waiter is not None:
            self._news.append(call)

    def _retire(self, call: Call) -> None:
        """Take the call out of every table; the inbox may still be read."""
        self._timers.cancel(call)
        if call.state is WAITING:
            self._waiting.pop(call, None)
        elif call.uplink is not None:
            self._calls[call.uplink].pop(call.id, None)
            self.credit.close(call)
        call.step(END)

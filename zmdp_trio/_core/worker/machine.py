"""The worker's machine: requests in, replies out, over one uplink per broker."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs

from ..._errors import Code, MessageTooLarge, ProtocolError
from ..._settings import Settings
from ..._wire import commands as c
from ..dialler import Dialler
from ..protocol import ZMDP1, Protocol
from ..uplink import Greeted, Identity, Uplink
from ..weights import weight
from .counters import Counters
from .execution import END, RUNNING, Execution, ExecutionInput
from .leases import Leases
from .recovery import Recovery, Unclaimed

#: Bytes of an error's message and details that are sent; more is cut off, or left out.
MAX_ERROR_MESSAGE = 4 * 2**10
MAX_ERROR_DETAILS = 64 * 2**10
#: Requests that are turned down, and claims that are not known, for a broker that does not read it.
MAX_ANSWERS = 10_000


class WorkerEvent(enum.IntEnum):
    """What the shell is told of an execution that was started."""

    #: Cancel its handler.
    CANCEL = 0
    #: It has credit again.
    CREDIT = 1
    #: Its deadline was moved.
    DEADLINE = 2


class WorkerMachine(Recovery):
    """Executions, their replies, credit, leases, and the drain.

    `take_started`, and then `take_events`, return what the shell has to do.  Whatever becomes of a handler, the shell
    reports it with one of `finish`, `fail`, and `reject`, and only then is its slot free.
    """

    def __init__(
        self, identity: Identity, settings: Settings, services: Mapping[str, int], protocol: Protocol = ZMDP1
    ) -> None:
        """Make a worker's machine; `services` maps each service's name to its slots."""
        super().__init__(identity, settings)
        self._protocol = protocol
        self._leases: dict[str, Leases[Uplink]] = {name: Leases(slots) for name, slots in services.items()}
        self._outbox = settings.outbox
        self._started: list[Execution] = []
        #: In order, and each once, however often a broker says the same.
        self._events: dict[tuple[WorkerEvent, Execution], None] = {}
        self._choked: dict[Uplink, None] = {}
        self._undrained: dict[Uplink, None] = {}
        #: Retiring uplinks that were asked for no more requests, and whether the broker has answered.
        self._leaving: dict[Uplink, bool] = {}
        self.draining = False
        #: A WELCOME has come: the services can be called.
        self.welcomed = False
        self._counters = {name: Counters() for name in services}
        #: Of requests for services that are not offered.
        self._unknown = Counters()

    # ---- for the shell

    def take_started(self) -> list[Execution]:
        """Return the executions whose handlers are to be run, and forget them."""
        started = self._started
        if started:
            self._started = []
        return started

    def take_events(self) -> list[tuple[WorkerEvent, Execution]]:
        """Return what else is to be done, and forget it.

        An execution may have ended meanwhile, by what its handler came to.
        """
        if self._choked:
            for uplink in list(self._choked):
                self._unchoke(uplink)
        events = list(self._events)
        if events:
            self._events.clear()
        return events

    def partial(self, execution: Execution, content: int, body: bytes) -> None:
        """Send a partial reply; the execution must be active and have credit.

        Raises:
            MessageTooLarge: the broker would not take it.
        """
        size = len(body)
        uplink = execution.uplink
        if size > uplink.limits.message:
            raise self._too_large(execution, size)
        partial = c.Partial(execution.id, content, body)
        execution.keep(partial, size)
        if execution.orphaned:
            return
        link = uplink.link
        link.put(partial, size)
        if link.outbox_bytes > self._outbox:
            # Whatever credit its clients gave, the broker does not take it as fast.
            uplink.choked = True
            self._choked[uplink] = None

    def _unchoke(self, uplink: Uplink) -> None:
        """Let handlers go on when half of what waited for a broker has left."""
        if uplink.link.outbox_bytes > self._outbox // 2:
            return
        self._choked.pop(uplink, None)
        uplink.choked = False
        for execution in (*self._held[uplink].values(), *self._unclaimed[uplink].executions.values()):
            self._tell(WorkerEvent.CREDIT, execution)

    def _tell(self, event: WorkerEvent, execution: Execution) -> None:
        self._events[event, execution] = None

    def finish(self, execution: Execution, content: int, body: bytes) -> None:
        """Send the final reply, or what stands for it if the broker would not take that one."""
        size = len(body)
        if size > execution.uplink.limits.message:
            self.fail(execution, Code.INTERNAL, self._too_large(execution, size).message)
            return
        counters = execution.counters
        if execution.state is RUNNING:
            counters.replied += 1
        else:
            counters.cancelled += 1
        self._end(execution, c.Final(execution.id, content, body), size)

    def fail(self, execution: Execution, code: Code, message: str, *, reason: str = "", details: bytes = b"") -> None:
        """End with an error."""
        if len(details) > MAX_ERROR_DETAILS:
            details = b""
            message += " (details left out: too large)"
        if not execution.active:
            execution.counters.cancelled += 1
        elif code is Code.DEADLINE_EXCEEDED:
            execution.counters.expired += 1
        else:
            execution.counters.failed += 1
        # A message may hold what is no text, lone surrogates of a file's name, say.
        message = message[:MAX_ERROR_MESSAGE].encode(errors="replace").decode()
        error = c.Error(execution.id, code.value, reason, message, details)
        self._end(execution, error, weight(error))

    def reject(self, execution: Execution) -> None:
        """Hand the request back, for another worker to run."""
        self._end(execution, c.Reject(execution.id), 0)
        execution.counters.rejected += 1

    def heartbeat(self, execution: Execution) -> None:
        """Tell the caller that its request is being worked on."""
        if execution.active and not execution.orphaned:
            execution.uplink.link.put(c.Heartbeat([c.Held(execution.id)]))

    def drain(self) -> None:
        """Ask every broker for no more requests; `drained` tells when they all have said so."""
        if not self.draining:
            self.draining = True
            self._undrained = {uplink: None for uplink in self.uplinks.values() if uplink.up}
            for uplink in self._undrained:
                uplink.link.put(c.Drain())

    @property
    def drained(self) -> bool:
        """No broker will send another request, nothing runs, and what the handlers said has left.

        What a broker was away for is said when it is back, if that is in time.
        """
        if not self.draining or self._undrained or self.running or self._owes:
            return False
        return all(uplink.link.flushed for uplink in self.uplinks.values() if uplink.up)

    @property
    def running(self) -> int:
        """Handlers that have not ended."""
        unclaimed = sum(len(each.executions) for each in self._unclaimed.values())
        return sum(map(len, self._held.values())) + unclaimed + len(self._strays)

    def cancel_all(self) -> None:
        """Cancel every handler, as the worker is about to leave."""
        for held in self._held.values():
            for execution in held.values():
                self._cancel(execution)
        for unclaimed in self._unclaimed.values():
            self._abandon(unclaimed)

    def goodbye(self) -> None:
        """Take leave of every broker."""
        for uplink in self.uplinks.values():
            uplink.goodbye()

    # ---- sessions

    def lost(self, uplink: Uplink, reason: str, *, now: float) -> None:
        super().lost(uplink, reason, now=now)
        self._leaving.pop(uplink, None)
        for leases in self._leases.values():
            leases.suspend(uplink)
        self._share_out()

    def retire(self, uplink: Uplink) -> None:
        if not uplink.retiring:
            for leases in self._leases.values():
                leases.ask(uplink)
            self._share_out()
        super().retire(uplink)

    def _is_done(self, uplink: Uplink) -> bool:
        """A broker that has work for us, a draining one for example, is served until it has none."""
        if self._held[uplink] or self._unclaimed[uplink]:
            return False
        if not uplink.up or self._leaving.get(uplink):
            return True
        if uplink not in self._leaving and not any(leases.has_work(uplink) for leases in self._leases.values()):
            self._leaving[uplink] = False
            uplink.link.put(c.Drain())
        return False

    def _parting(self, uplink: Uplink) -> bool:
        return uplink in self._leaving

    def _on_removed(self, uplink: Uplink) -> None:
        self._leaving.pop(uplink, None)
        self._undrained.pop(uplink, None)
        del self._held[uplink], self._unclaimed[uplink]
        for leases in self._leases.values():
            leases.close(uplink)
        self._share_out()

    def _make_uplink(self, endpoint: str, identity: Identity) -> Uplink:
        return self._protocol.worker(endpoint, identity, self.settings, self._wiring, tuple(self._leases))

    def _offers(self, uplink: Uplink) -> list[c.Offer] | None:
        if self.draining:
            return []
        return [c.Offer(name, leases.offer(uplink)) for name, leases in self._leases.items()]

    def _holds(self, uplink: Uplink) -> bool:
        return bool(self._held[uplink])

    def _on_up(self, uplink: Uplink, greeted: Greeted, now: float) -> None:
        self.welcomed = True
        for leases in self._leases.values():
            if greeted is Greeted.RESUMED:
                leases.resumed(uplink)
            else:
                leases.fresh(uplink)
        if greeted is Greeted.RESTARTED:
            self._await_claims(uplink)
        elif greeted is Greeted.FRESH:
            self._orphan(uplink)
        self._limit_wait(uplink, now)
        self._tell_holdings(uplink, greeted, now)
        if self.draining:
            # It was greeted before the drain.
            uplink.link.put(c.Drain())
        self._share_out()

    def _on_down(self, uplink: Uplink, now: float) -> None:
        """Handlers go on: the session may come back."""
        self._undrained.pop(uplink, None)
        self._timers.cancel(self._unclaimed[uplink])

    def _on_given_up(self, uplink: Uplink, now: float) -> None:
        uplink.link.drop_outbox()
        for leases in self._leases.values():
            leases.close(uplink)
        self._undrained.pop(uplink, None)
        self._orphan(uplink)
        self._share_out()

    def _on_timer(self, key: Unclaimed | str, now: float) -> None:
        """A service's slots are to be shared out anew, or callers have not come back in time.

        (The handlers' deadlines are the shell's cancel scopes.)
        """
        if isinstance(key, Unclaimed):
            self._abandon(key)
        else:
            self._balance(key, now)

    def _share_out(self) -> None:
        for name, leases in self._leases.items():
            self._tell_leases(name, leases)
            if leases.contended:
                self._timers.set(name, 0.0)  # at once: whoever frees a slot does not know the time

    def _balance(self, name: str, now: float) -> None:
        """Let a service's slots follow the demand."""
        leases = self._leases[name]
        self._timers.set(name, leases.balance(now))
        self._tell_leases(name, leases)

    def _tell_leases(self, name: str, leases: Leases[Uplink]) -> None:
        for uplink, slots in leases.changes():
            if uplink.up:
                uplink.link.put(c.Slots(name, slots))

    # ---- receiving

    def _on_request(self, uplink: Uplink, request: c.Request, now: float) -> None:
        held, id, service = self._held[uplink], request.id, request.service
        if id in held:
            raise ProtocolError(f"request {id} came twice")
        leases = self._leases.get(service)
        counters = self._unknown if leases is None else self._counters[service]
        counters.received += 1
        if leases is None or (self.draining and uplink not in self._undrained):
            counters.refused += 1
            self._answer(uplink, c.Reject(request.id))
            return
        lease = leases.lease(uplink)
        # A lease that was cut counts in full until the broker has said that it holds to it.
        if lease.running >= lease.slots and lease.running >= lease.told:
            self.protocol_errors += 1
            counters.refused += 1
            self._answer(uplink, c.Reject(request.id))
            return
        lease.start(now)
        held[id] = execution = Execution(request, uplink, lease, counters, now)
        self._started.append(execution)

    def _answer(self, uplink: Uplink, command: c.Reject | c.Error) -> None:
        """Tell a broker that nothing was made of its command."""
        if not uplink.link.outbox:
            uplink.answers = 0
        uplink.answers += 1
        if uplink.answers > MAX_ANSWERS:
            raise ProtocolError("it does not read the answers to its commands")
        uplink.link.put(command, weight(command))

    def _on_cancel(self, uplink: Uplink, command: c.Cancel, now: float) -> None:
        execution = self._held[uplink].get(command.id)
        if execution is not None:
            self._cancel(execution)

    def _cancel(self, execution: Execution) -> None:
        if execution.state is RUNNING:
            execution.step(ExecutionInput.CANCEL)
            self._tell(WorkerEvent.CANCEL, execution)

    def _on_credit(self, uplink: Uplink, credit: c.Credit, now: float) -> None:
        execution = self._held[uplink].get(credit.id)
        if execution is None:
            return
        starved = not execution.has_credit
        execution.grant(credit.messages, credit.bytes)
        if starved and execution.has_credit:
            self._tell(WorkerEvent.CREDIT, execution)
        if credit.left is not None:
            self._move_deadline(execution, now + credit.left)

    def _on_heartbeat(self, uplink: Uplink, heartbeat: c.Heartbeat, now: float) -> None:
        for held in heartbeat.held:
            execution = self._held[uplink].get(held.id)
            if execution is not None and held.left is not None:
                self._move_deadline(execution, now + held.left)

    def _adopt(self, uplink: Uplink, execution: Execution) -> None:
        self._held[uplink][execution.id] = execution
        execution.lease = self._leases[execution.request.service].adopted(uplink)
        self._tell(WorkerEvent.CREDIT, execution)
        self._tell(WorkerEvent.DEADLINE, execution)
        self._share_out()

    def _move_deadline(self, execution: Execution, deadline: float) -> None:
        execution.deadline = deadline
        self._tell(WorkerEvent.DEADLINE, execution)

    def _on_slots(self, uplink: Uplink, command: c.Slots, now: float) -> None:
        leases = self._leases.get(command.service)
        if leases is not None:
            leases.acknowledged(uplink, command.slots)
            self._share_out()

    def _on_wanted(self, uplink: Uplink, command: c.Wanted, now: float) -> None:
        leases = self._leases.get(command.service)
        if leases is not None:
            leases.want(uplink, command.queued, now)
            self._balance(command.service, now)

    def _on_drained(self, uplink: Uplink, command: c.Drained, now: float) -> None:
        self._undrained.pop(uplink, None)
        if uplink in self._leaving:
            self._leaving[uplink] = True

    def _ignore(self, uplink: Uplink, command: c.Command, now: float) -> None:
        """A BATCH was the link's; a WELCOME came twice, as its HELLO did; a DRAIN is followed by a GOODBYE."""

    _handlers: ClassVar[dict[type[c.Command], Any]] = {
        c.Batch: _ignore,
        c.Welcome: _ignore,
        c.Request: _on_request,
        c.Cancel: _on_cancel,
        c.Credit: _on_credit,
        c.Heartbeat: _on_heartbeat,
        c.Slots: _on_slots,
        c.Wanted: _on_wanted,
        c.Drain: _ignore,
        c.Drained: _on_drained,
        c.Resume: Recovery._on_resume,
        c.Goodbye: Dialler._on_goodbye,
    }

    # ---- the end

    def _end(self, execution: Execution, outcome: c.Final | c.Error | c.Reject, size: int) -> None:
        request = execution.request
        if request.caller and execution.state is RUNNING and not isinstance(outcome, c.Reject):
            self._remember(execution, outcome, size)
        execution.step(END)
        execution.handler = None  # which has it, in turn: a cycle for each request costs more than the request itself
        leases = self._leases[request.service]
        uplink = execution.uplink
        if execution.orphaned:
            self._strays.discard(execution)
            unclaimed = self._unclaimed.get(uplink)
            if unclaimed is not None and unclaimed.executions.get(execution.origin) is execution:
                del unclaimed.executions[execution.origin]
            leases.stray -= 1
            self._share_out()
            return
        del self._held[uplink][execution.id]
        lease = execution.lease
        lease.running -= 1
        uplink.link.put(outcome, size)
        if lease.running >= lease.told or leases.contended:
            # It ran beside a lease that had been taken back, or the slot is idle now while another broker wants one.
            self._share_out()

    def _too_large(self, execution: Execution, size: int) -> MessageTooLarge:
        limit = execution.uplink.limits.message
        return MessageTooLarge(f"a reply of {size:,} bytes, the limit is {limit:,}", service=execution.request.service)

    def counters(self) -> dict[str, Counters]:
        """Return what became of the requests for each service; under "", of those for others."""
        counted = {name: attrs.evolve(counters) for name, counters in self._counters.items()}
        for execution in self._executions():
            if execution.active:
                counted[execution.request.service].running += 1
            else:
                counted[execution.request.service].cancelling += 1
        return {**counted, "": attrs.evolve(self._unknown)}

    def _executions(self) -> Iterator[Execution]:
        for held in self._held.values():
            yield from held.values()
        for unclaimed in self._unclaimed.values():
            yield from unclaimed.executions.values()
        yield from self._strays

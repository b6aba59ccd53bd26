"""The worker's machine: requests in, replies out, over one uplink per broker.

A request's way: `Requests` makes an execution of it, if its broker's lease has a slot (`Sharing`); the shell runs its
handler, and what that comes to is in this file.  `Sessions` has brokers come and go, and the worker leave; what ran for
a broker that was restarted, `Recovery` keeps until somebody claims it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import attrs

from ..._errors import Code, MessageTooLarge
from ..._settings import Settings
from ..._wire import commands as c
from ..dialler import Dialler
from ..protocol import ZMDP1, Protocol
from ..uplink import Identity, Uplink
from ..weights import weight
from .counters import Counters
from .execution import END, RUNNING, Execution
from .recovery import Recovery
from .requests import Requests, WorkerEvent
from .sessions import Sessions
from .sharing import Sharing

#: Bytes of an error's message and details that are sent; more is cut off, or left out.
MAX_ERROR_MESSAGE: Final = 4 * 2**10
MAX_ERROR_DETAILS: Final = 64 * 2**10


class WorkerMachine(Requests):
    """Executions, their replies, credit, leases, and the drain.

    `take_started`, and then `take_events`, return what the shell has to do.  Whatever becomes of a handler, the shell
    reports it with one of `finish`, `fail`, and `reject`, and only then is its slot free.
    """

    def __init__(
        self, identity: Identity, settings: Settings, services: Mapping[str, int], protocol: Protocol = ZMDP1
    ) -> None:
        """Make a worker's machine; `services` maps each service's name to its slots."""
        super().__init__(identity, settings, services, protocol)
        self._outbox = settings.outbox
        self._choked: dict[Uplink, None] = {}

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

    def _unchoke(self, uplink: Uplink) -> None:
        """Let handlers go on when half of what waited for a broker has left."""
        if uplink.link.outbox_bytes > self._outbox // 2:
            return
        self._choked.pop(uplink, None)
        uplink.choked = False
        for execution in (*self._held[uplink].values(), *self._unclaimed[uplink].executions.values()):
            self._tell(WorkerEvent.CREDIT, execution)

    def _on_removed(self, uplink: Uplink) -> None:
        super()._on_removed(uplink)
        self._choked.pop(uplink, None)

    def counters(self) -> dict[str, Counters]:
        """Return what became of the requests for each service; under "", of those for others."""
        counted = {name: attrs.evolve(counters) for name, counters in self._counters.items()}
        for execution in self._executions():
            if execution.active:
                counted[execution.request.service].running += 1
            else:
                counted[execution.request.service].cancelling += 1
        return {**counted, "": attrs.evolve(self._unknown)}

    # ---- what handlers say

    def heartbeat(self, execution: Execution) -> None:
        """Tell the caller that its request is being worked on."""
        if execution.active and not execution.orphaned:
            execution.uplink.link.put(c.Heartbeat([c.Held(execution.id)]))

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

    def _too_large(self, execution: Execution, size: int) -> MessageTooLarge:
        limit = execution.uplink.limits.message
        return MessageTooLarge(f"a reply of {size:,} bytes, the limit is {limit:,}", service=execution.request.service)

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

    # ---- what brokers say

    _handlers: ClassVar[dict[type[c.Command], Any]] = Dialler._handlers | {
        c.Request: Requests._on_request,
        c.Cancel: Requests._on_cancel,
        c.Credit: Requests._on_credit,
        c.Heartbeat: Requests._on_heartbeat,
        c.Slots: Sharing._on_slots,
        c.Wanted: Sharing._on_wanted,
        c.Drain: Dialler._ignore,  # it is followed by a GOODBYE
        c.Drained: Sessions._on_drained,
        c.Resume: Recovery._on_resume,
    }

"""What brokers ask for: requests, and what is to become of those that run."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from ..._errors import ProtocolError
from ..._settings import Settings
from ..._wire import commands as c
from ..protocol import Protocol
from ..uplink import Identity, Uplink
from ..weights import weight
from .counters import Counters
from .execution import RUNNING, Execution, ExecutionInput
from .sessions import Sessions

#: Answers that may wait for a broker which does not read them: to requests turned down, and claims not known.
MAX_ANSWERS: Final = 10_000


class WorkerEvent(enum.IntEnum):
    """What the shell is told of an execution that was started."""

    #: Cancel its handler.
    CANCEL = 0
    #: It has credit again.
    CREDIT = 1
    #: Its deadline was moved.
    DEADLINE = 2


class Requests(Sessions):
    """Executions that start, and are cancelled, given credit, or given more time."""

    def __init__(self, identity: Identity, settings: Settings, services: Mapping[str, int], protocol: Protocol) -> None:
        super().__init__(identity, settings, services, protocol)
        self._started: list[Execution] = []
        #: In order, and each once, however often a broker says the same.
        self._events: dict[tuple[WorkerEvent, Execution], None] = {}
        self._counters = {name: Counters() for name in services}
        #: Of requests for services that are not offered.
        self._unknown = Counters()

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

    def _move_deadline(self, execution: Execution, deadline: float) -> None:
        execution.deadline = deadline
        self._tell(WorkerEvent.DEADLINE, execution)

    def _adopt(self, uplink: Uplink, execution: Execution) -> None:
        self._held[uplink][execution.id] = execution
        execution.lease = self._leases[execution.request.service].adopted(uplink)
        self._tell(WorkerEvent.CREDIT, execution)
        self._tell(WorkerEvent.DEADLINE, execution)
        self._share_out()

    def _tell(self, event: WorkerEvent, execution: Execution) -> None:
        self._events[event, execution] = None

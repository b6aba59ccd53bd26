"""Workers: run services for the requests that brokers send."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, NoReturn, Unpack

import attrs
import trio

from . import _payload
from ._chance import chance
from ._client import Client
from ._core.foreign import protocol_of
from ._core.protocol import ZMDP1, Protocol
from ._core.uplink import Identity
from ._core.worker import RUNNING, Counters, Execution, WorkerEvent, WorkerMachine
from ._crew import Crew, Hand
from ._engine import DialEngine
from ._errors import Code, InvalidArgument
from ._failures import Failures
from ._handlers import Handler, Run, WayOut
from ._names import distinct, peer_name
from ._nursery import open_plain_nursery
from ._service import Service
from ._settings import Overrides, Settings, settings_with
from ._watchdog import Watched, watched_over

#: What ends one request alone.  That one handler wants to exit is no reason for the others to.
HANDLED: Final = (Exception, SystemExit)


@attrs.frozen
class WorkerServiceStatistics:
    """One service's numbers at one moment, at one worker.

    received = refused + replied + failed + cancelled + expired + rejected + running + cancelling.
    """

    #: Requests that brokers sent.
    received: int
    #: Requests turned down unseen: beyond what was leased, after a drain, or for a service that is not offered.
    refused: int
    #: Final replies sent.
    replied: int
    #: Requests that ended with an error.
    failed: int
    #: Requests whose handlers ended after their callers had left.
    cancelled: int
    #: Requests whose deadlines passed while their handlers ran.
    expired: int
    #: Requests handed back for another worker.
    rejected: int
    #: Handlers at work for somebody who waits.
    running: int
    #: Handlers that were cancelled and have not ended.
    cancelling: int


@attrs.frozen
class WorkerStatistics(WorkerServiceStatistics):
    """A worker's numbers at one moment: those of all services, and its own."""

    services: Mapping[str, WorkerServiceStatistics]
    #: Messages and commands of brokers that were not to be expected.
    protocol_errors: int
    #: How often the event loop was blocked for longer than the setting `blocked_after`.
    blocks: int
    #: Seconds that the longest of these blocks took, so far.
    longest_block: float


class Worker:
    """Serves services; made by `open_worker` and `serve_worker`."""

    def __init__(
        self,
        services: Iterable[Service[..., Any]],
        brokers: tuple[str, ...],
        name: str,
        settings: Settings,
        protocol: Protocol = ZMDP1,
    ) -> None:
        self.name = name
        self.settings = settings
        self.services = _by_name(services, settings)
        self._brokers = distinct(brokers)
        self._protocol = protocol
        slots = {service.name: self._slots(service) for service in self.services.values()}
        self._machine = WorkerMachine(Identity(chance().randbytes(16), name), settings, slots, protocol)
        self._served = {name: Handler(service, slots[name]) for name, service in self.services.items()}
        self._engine = DialEngine(self._machine, self._act, settings, self._brokers, log_level=logging.WARNING)
        self._failures = Failures(name, self._machine, self.services)
        self._way_out = WayOut(self._machine, self._engine, self._client)
        self._welcomed = trio.Event()
        self._drained = trio.Event()
        #: Its handlers were cut off: what they say from now on is no reply.
        self._leaving = False
        self._callers: Client | None = None
        self._watched = Watched(settings.blocked_after, settings.hung_after, self._name_handler)
        self._nursery: trio.Nursery
        self._handlers: trio.Nursery
        self._crew: Crew[Run]

    def __repr__(self) -> str:
        return f"<Worker {self.name} {' '.join(self.services)} running={self._machine.running}>"

    def _slots(self, service: Service[..., Any]) -> int:
        default = self.settings.sync_concurrency if service.shape.sync else self.settings.concurrency
        return service.concurrency or default

    def statistics(self) -> WorkerStatistics:
        """Return the numbers of this moment."""
        counters = self._machine.counters()
        total = sum(counters.values(), Counters())
        services = {name: WorkerServiceStatistics(**attrs.asdict(counters[name])) for name in self.services}
        return WorkerStatistics(
            **attrs.asdict(total),
            services=MappingProxyType(services),
            protocol_errors=self._machine.protocol_errors,
            blocks=self._watched.blocks,
            longest_block=self._watched.longest,
        )

    async def wait_welcomed(self) -> None:
        """Wait until a broker has taken the services on."""
        await self._welcomed.wait()

    async def drain(self, grace: float | None = None) -> bool:
        """Take no new requests, and wait until those that run have ended.

        Args:
            grace: seconds to wait for them; by default the setting `drain_grace`.

        Returns:
            Whether all of them ended in time.
        """
        self._machine.drain()
        self._engine.wake()
        if self._machine.drained:
            await trio.lowlevel.checkpoint()
            return True
        with trio.move_on_after(self.settings.drain_grace if grace is None else grace):
            await self._drained.wait()
        return self._machine.drained

    # ---- the engine's part

    def _act(self) -> None:
        """Start, cancel, and wake handlers, as the machine says."""
        machine = self._machine
        if started := machine.take_started():
            for execution in started:
                execution.handler = Run(execution, self._way_out)
            self._crew.start([execution.handler for execution in started])
        for event, execution in machine.take_events():
            run = execution.handler
            if run is None:
                pass  # it has ended since
            elif event is WorkerEvent.CREDIT:
                run.on_credit()
            elif event is WorkerEvent.CANCEL:
                run.on_cancel()
            else:
                run.on_deadline()
        if machine.welcomed:
            self._welcomed.set()
        if machine.drained:
            self._drained.set()

    async def _handle(self) -> None:
        """Run one handler after the other, and report their outcomes, for as long as the crew needs this task.

        All of them in one scope, until it is used or something is raised: a scope costs as much as a task.
        """
        hand = Hand(self._crew)
        while hand.take() or await hand.next():
            scope = trio.CancelScope()
            try:
                with scope:
                    while await self._work_off(hand, scope) and await hand.next():
                        pass
            except HANDLED as error:
                self._failures.raised(_execution(hand), error, leaving=self._leaving)
            except BaseExceptionGroup as group:
                cancelled, rest = group.split(trio.Cancelled)
                if rest is None or rest.split(HANDLED)[1] is not None:
                    raise
                self._failures.raised(_execution(hand), rest, leaving=self._leaving)
                if cancelled is not None:
                    raise cancelled from None
            else:
                if scope.cancelled_caught:
                    self._failures.cancelled(_execution(hand), leaving=self._leaving)
            self._note_end()
        hand.leave()

    async def _work_off(self, hand: Hand[Run], scope: trio.CancelScope) -> bool:
        """Run what this task takes from the queue; report replies; tell whether the scope is good for more.

        What came and what was sent is not kept beyond this, while there is nothing to do.
        """
        machine, served = self._machine, self._served
        run, scopes = hand.piece, hand.scopes
        while run is not None:
            execution = run.execution
            request = execution.request
            handler = served[request.service]
            try:
                payload = handler.decode(request.content, request.body)
            except ValueError as error:
                machine.fail(execution, Code.INVALID_ARGUMENT, str(error), reason=InvalidArgument.reason)
            else:
                run.begin(scope)
                content, body = _payload.encode(await handler.run(payload, run))
                if execution.state is RUNNING or not self._leaving:
                    machine.finish(execution, content, body)
                if not run.end() or hand.scopes is not scopes:
                    # The latter where a handler has left a scope open: that is for Trio to say, and its own fault.
                    return False
            self._note_end()
            run = hand.take()
        return True

    def _note_end(self) -> None:
        """Have what a handler came to sent, which may be the last that a drain waits for."""
        self._engine.wake()
        if self._machine.draining and self._machine.drained:
            self._drained.set()

    def _client(self) -> Client:
        """Return the client for the handlers' own requests, which is opened when the first one wants it."""
        if self._callers is None:
            # Cut, so that no name is too long to be sent.
            self._callers = Client(self._brokers, f"{self.name[:60]} (calls)", self.settings, self._protocol)
            self._callers._engine.open()
            self._nursery.start_soon(self._callers._engine.run)
        return self._callers

    def _name_handler(self, task: trio.lowlevel.Task) -> str | None:
        """Name the handler that runs in a task, for the watchdog."""
        hand = self._crew.hands.get(task)
        if hand is None or hand.piece is None:
            return None
        return self._failures.describe(hand.piece.execution)

    def _close(self) -> None:
        """Take leave of the brokers, now."""
        self._machine.goodbye()
        self._engine.close()
        if self._callers is not None:
            self._callers._close()


def _execution(hand: Hand[Run]) -> Execution:
    """Return what a task runs."""
    assert hand.piece is not None
    return hand.piece.execution


def _by_name(services: Iterable[Service[..., Any]], settings: Settings) -> dict[str, Service[..., Any]]:
    by_name: dict[str, Service[..., Any]] = {}
    for service in services:
        if not isinstance(service, Service):
            raise TypeError(f"not a service: {service!r}; decorate it with @service(name)")
        if len(service.name.encode()) > settings.max_service_name:
            limit = settings.max_service_name
            raise ValueError(f"a service's name has at most {limit} bytes, not {len(service.name):,}")
        if service.name in by_name:
            raise ValueError(f"two services are called {service.name!r}")
        by_name[service.name] = service
    if not by_name:
        raise ValueError("a worker serves at least one service")
    return by_name


@asynccontextmanager
async def open_worker(
    services: Iterable[Service[..., Any]],
    *brokers: str,
    name: str | None = None,
    protocol: str = ZMDP1.name,
    settings: Settings | None = None,
    **overrides: Unpack[Overrides],
) -> AsyncIterator[Worker]:
    """Serve services for as long as the block runs; leaving it drains, cancelling it means now.

    Args:
        services: what `@service` made of functions.
        brokers: endpoints of one broker or more; each may be away, and come back.  A host name stands for all of its
            addresses, and is looked up again as they change.
        name: whom callers may ask for with `worker=`; by default random.
        protocol: what the brokers speak, if they are others than ours: `mdp/0.1`, `mdp/0.2`, `majortomo`, `omdp`,
            `pigato`.  What is then not to be had, docs/foreign.md tells.
        settings: limits and intervals; `overrides` replaces some, such as `concurrency=4`.

    Raises:
        EndpointError: an endpoint is malformed.
        ValueError: there is no such protocol.
    """
    all_settings = settings_with(settings, **overrides)
    worker = Worker(services, brokers, peer_name(name, "worker"), all_settings, protocol_of(protocol))
    async with open_plain_nursery() as nursery:
        worker._nursery = nursery
        try:
            with watched_over(worker._watched):
                async with open_plain_nursery() as handlers:
                    worker._handlers = handlers
                    worker._crew = Crew(handlers, worker._handle, worker._engine)
                    worker._engine.open()
                    nursery.start_soon(worker._engine.run)
                    try:
                        yield worker
                        await worker.drain()
                    finally:
                        worker._leaving = True
                        worker._machine.cancel_all()
                        handlers.cancel_scope.cancel()
        finally:
            worker._close()
            nursery.cancel_scope.cancel()


async def serve_worker(
    services: Iterable[Service[..., Any]],
    *brokers: str,
    name: str | None = None,
    protocol: str = ZMDP1.name,
    settings: Settings | None = None,
    task_status: trio.TaskStatus[Worker] = trio.TASK_STATUS_IGNORED,
    **overrides: Unpack[Overrides],
) -> NoReturn:
    """Serve services until cancelled; `nursery.start` returns the worker at its first WELCOME, from any broker.

    Args and errors are those of `open_worker`.
    """
    async with open_worker(services, *brokers, name=name, protocol=protocol, settings=settings, **overrides) as worker:
        await worker.wait_welcomed()
        task_status.started(worker)
        await trio.sleep_forever()
    raise AssertionError("unreachable")

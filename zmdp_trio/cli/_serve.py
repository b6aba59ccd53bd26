"""`zmdp broker`, `zmdp worker`, and `zmdp gateway`: run until a signal, drain, exit."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

import attrs
import click
import trio

from zmdp_trio import (
    Broker,
    Gateway,
    Service,
    Settings,
    Worker,
    open_broker,
    open_gateway,
    open_rep_service,
    open_worker,
)

from ._failures import Failure, explain, usage
from ._modules import collect
from ._signals import with_signals
from ._values import to_json

_Server = TypeVar("_Server", Broker, Worker, Gateway)

#: Seconds without a broker after which a worker says what it is waiting for.
_PATIENCE = 1.0
#: Seconds between two lines that say how many requests a drain still waits for.
_PROGRESS = 5.0
#: Seconds that a second signal leaves for saying goodbye, if no request is unfinished.
_GOODBYE = 0.9


@attrs.frozen
class _Command(Generic[_Server]):
    """What the commands differ in.

    Attributes:
        name: of the command.
        who: may keep the process from ending.
        open: makes the server.
        announce: says that the server is ready.
        held: counts the requests that it has.
        at_last: says what becomes of so many requests when the grace time is over.
    """

    name: str
    who: str
    open: Callable[[], AbstractAsyncContextManager[_Server]]
    announce: Callable[[_Server], Awaitable[None]]
    held: Callable[[_Server], int]
    at_last: str = "cancelling {}"

    def say(self, line: str) -> None:
        """Write a line for people, if the terminal is still there."""
        with suppress(OSError):
            click.echo(f"zmdp {self.name}: {line}", err=True)


def run_broker(endpoints: Sequence[str], *, protocols: Sequence[str] | None, settings: Settings, json: bool) -> int:
    """Run a broker until a signal.

    Returns:
        The status to exit with.
    """

    async def announce(broker: Broker) -> None:
        record = {"endpoints": list(broker.endpoints)}
        _announce(record, f"zmdp broker: listening at {', '.join(broker.endpoints)}", json)

    def held(broker: Broker) -> int:
        total = broker.statistics().total
        return total.queued + total.running + total.cancelling

    at_last = (
        "leaving {} unfinished: what runs goes on with a broker that is started in this one's place "
        f"within {settings.resume:g} s, or else ends as BrokerLost"
    )
    return _run(
        _Command(
            "broker",
            "something",
            lambda: open_broker(*endpoints, protocols=protocols, settings=settings),
            announce,
            held,
            at_last,
        )
    )


def run_worker(
    modules: Sequence[str], brokers: Sequence[str], *, protocol: str, name: str | None, settings: Settings, json: bool
) -> int:
    """Run a worker until a signal.

    Returns:
        The status to exit with.
    """
    services = _collect(modules)
    names = [service.name for service in services]

    async def announce(worker: Worker) -> None:
        where = await _wait_welcomed(worker, "worker", brokers)
        line = f"zmdp worker: offering {', '.join(names)} at {where}"
        _announce({"services": names, "brokers": list(brokers)}, line, json)

    def open_it() -> AbstractAsyncContextManager[Worker]:
        return open_worker(services, *brokers, name=name, protocol=protocol, settings=settings)

    # A thread can't be interrupted; a shielded clean-up of an async handler won't be.
    who = "a handler's thread" if any(service.shape.sync for service in services) else "a handler"
    return _run(_Command("worker", who, open_it, announce, _held_by_worker))


def run_gateway(
    binds: Sequence[str],
    service: str,
    brokers: Sequence[str],
    *,
    retry: int,
    protocol: str,
    name: str | None,
    settings: Settings,
    json: bool,
) -> int:
    """Let REQ clients call a service until a signal.

    Returns:
        The status to exit with.
    """

    async def announce(gateway: Gateway) -> None:
        record = {"endpoints": list(gateway.endpoints), "service": service, "brokers": list(brokers)}
        line = f"from {', '.join(gateway.endpoints)} to {service} at {', '.join(brokers)}"
        _announce(record, f"zmdp gateway: passing requests on {line}", json)

    def held(gateway: Gateway) -> int:
        statistics = gateway.statistics()
        return statistics.running + statistics.waiting

    def open_it() -> AbstractAsyncContextManager[Gateway]:
        return open_gateway(
            *binds, service=service, brokers=brokers, retry=retry, name=name, protocol=protocol, settings=settings
        )

    return _run(_Command("gateway", "something", open_it, announce, held, "answering {} with an error"))


def run_rep_service(
    server: str,
    service: str,
    brokers: Sequence[str],
    *,
    concurrency: int,
    protocol: str,
    name: str | None,
    settings: Settings,
    json: bool,
) -> int:
    """Offer a REP server as a service until a signal.

    Returns:
        The status to exit with.
    """

    async def announce(worker: Worker) -> None:
        where = await _wait_welcomed(worker, "gateway", brokers)
        line = f"zmdp gateway: offering {server} as {service} at {where}"
        _announce({"server": server, "service": service, "brokers": list(brokers)}, line, json)

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Worker]:
        async with (
            open_rep_service(
                service, server, concurrency=concurrency, timeout=settings.timeout, settings=settings
            ) as offered,
            open_worker([offered], *brokers, name=name, protocol=protocol, settings=settings) as worker,
        ):
            yield worker

    return _run(_Command("gateway", "something", open_it, announce, _held_by_worker))


async def _wait_welcomed(worker: Worker, command: str, brokers: Sequence[str]) -> str:
    """Wait until a broker has taken a worker on; return where that is or may be."""
    where = ", ".join(brokers)
    with trio.move_on_after(_PATIENCE) as scope:
        await worker.wait_welcomed()
    if scope.cancelled_caught:
        click.echo(f"zmdp {command}: waiting for a broker at {where}", err=True)
        await worker.wait_welcomed()
    return where


def _held_by_worker(worker: Worker) -> int:
    statistics = worker.statistics()
    return statistics.running + statistics.cancelling


def _collect(targets: Sequence[str]) -> list[Service[..., Any]]:
    """Gather the services, and say of a class that it is no service: what it raised when it was called hides that."""
    try:
        return collect(targets)
    except Failure as failure:
        for target in targets:
            module, _, name = target.partition(":")
            if isinstance(getattr(sys.modules.get(module), name, None), type):
                raise usage(f"{target!r} is a class, not a service, nor a function that returns some") from failure
        raise


def _run(command: _Command[_Server]) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        return trio.run(_until_signal, command)
    except Exception as error:
        failure = explain(error)
        if failure is not None:
            raise failure from error
        raise


async def _until_signal(command: _Command[_Server]) -> int:
    """Serve until a signal: the first one drains, the second one cancels, and so does the end of the grace time."""
    scope = trio.CancelScope()
    stop, late = trio.Event(), trio.Event()
    ready: _Server | None = None

    def first() -> None:
        stop.set()
        if ready is None:
            scope.cancel()

    def second() -> None:
        if ready is None or late.is_set() or command.held(ready):
            scope.cancel()
        else:
            scope.deadline = trio.current_time() + _GOODBYE

    def overdue() -> None:
        command.say(f"{command.who} is still at work; another signal ends the process")

    async def serve() -> None:
        nonlocal ready
        with scope:
            async with command.open() as server:
                await command.announce(server)
                # What stands now stays: to look through it for garbage would stop everybody for 30 ms now and then.
                gc.freeze()
                ready = server
                await stop.wait()
                if not await _drain(command, server):
                    late.set()
                    await trio.sleep_forever()

    signum = await with_signals(serve, first, second, overdue=overdue, hurry=late)
    return 128 + signum if signum and ready is not None and scope.cancelled_caught else 0


async def _drain(command: _Command[_Server], server: _Server) -> bool:
    """Let what runs finish, and say how many requests that are; tell whether all did in time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell_progress, command, server)
        finished = await server.drain()
        nursery.cancel_scope.cancel()
    if not finished:
        held = command.held(server)
        what = command.at_last.format(_requests(held)) if held else "somebody at the other end did not answer"
        command.say(f"the grace time is over; {what}")
    return finished


async def _tell_progress(command: _Command[_Server], server: _Server) -> None:
    held = command.held(server)
    command.say(f"finishing {_requests(held)}; a second signal ends it now" if held else "leaving")
    while True:
        await trio.sleep(_PROGRESS)
        command.say(f"still finishing {_requests(command.held(server))}")


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number:,} requests"


def _announce(record: dict[str, Any], line: str, json: bool) -> None:
    click.echo(to_json(record).decode() if json else line)

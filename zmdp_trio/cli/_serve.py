"""`zmdp broker` and `zmdp worker`: run until a signal, drain, exit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import click
import trio

from zmdp_trio import Broker, Service, Worker, open_broker, open_worker

from ._failures import Failure, explain, usage
from ._modules import collect
from ._signals import with_signals
from ._values import to_json

_Server = TypeVar("_Server")

#: Seconds without a broker after which a worker says what it is waiting for.
_PATIENCE = 1.0


def run_broker(endpoints: Sequence[str], *, grace: float, json: bool) -> int:
    """Run a broker until a signal.

    Returns:
        The status to exit with.
    """

    async def announce(broker: Broker) -> None:
        record = {"endpoints": list(broker.endpoints)}
        _announce(record, f"zmdp broker: listening at {', '.join(broker.endpoints)}", json)

    return _run(lambda: open_broker(*endpoints, drain_grace=grace), announce)


def run_worker(modules: Sequence[str], brokers: Sequence[str], *, name: str | None, json: bool) -> int:
    """Run a worker until a signal.

    Returns:
        The status to exit with.
    """
    services = _collect(modules)
    names = [service.name for service in services]

    async def announce(worker: Worker) -> None:
        where = ", ".join(brokers)
        with trio.move_on_after(_PATIENCE) as scope:
            await worker.wait_welcomed()
        if scope.cancelled_caught:
            click.echo(f"zmdp worker: waiting for a broker at {where}", err=True)
            await worker.wait_welcomed()
        line = f"zmdp worker: offering {', '.join(names)} at {where}"
        _announce({"services": names, "brokers": list(brokers)}, line, json)

    # A thread can't be interrupted; a shielded clean-up of an async handler won't be.
    who = "a handler's thread" if any(service.shape.sync for service in services) else "a handler"
    return _run(lambda: open_worker(services, *brokers, name=name), announce, who)


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


def _run(
    open_server: Callable[[], AbstractAsyncContextManager[_Server]],
    announce: Callable[[_Server], Awaitable[None]],
    who: str = "something",
) -> int:
    """Serve until a signal; `who` may keep the process from ending."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        return trio.run(_until_signal, open_server, announce, who)
    except Exception as error:
        failure = explain(error)
        if failure is not None:
            raise failure from error
        raise


async def _until_signal(
    open_server: Callable[[], AbstractAsyncContextManager[_Server]],
    announce: Callable[[_Server], Awaitable[None]],
    who: str,
) -> int:
    """Serve until a signal: the first one drains, the second one cancels."""
    scope = trio.CancelScope()
    stop = trio.Event()
    ready = False

    def first() -> None:
        stop.set()
        if ready:
            click.echo("zmdp: finishing what still runs; a second signal ends it now", err=True)
        else:
            scope.cancel()

    def overdue() -> None:
        click.echo(f"zmdp: {who} is still at work; a third signal ends the process", err=True)

    async def serve() -> None:
        nonlocal ready
        with scope:
            async with open_server() as server:
                await announce(server)
                ready = True
                await stop.wait()

    signum = await with_signals(serve, first, scope.cancel, overdue=overdue)
    return 128 + signum if signum and ready and scope.cancelled_caught else 0


def _announce(record: dict[str, Any], line: str, json: bool) -> None:
    click.echo(to_json(record).decode() if json else line)

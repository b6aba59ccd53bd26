"""Put a measurement together: what is asked, the worker of its own, the warm-up, each level, the figures."""

from __future__ import annotations

import gc
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import click
import trio

from zmdp_trio import Client, ServiceNotFound, open_client

from .._child import open_worker_process
from .._failures import EXIT_CODES, Failure, give_up, not_written
from .._signals import with_signals
from .._values import to_json
from ._load import Load, Work
from ._plan import Options, Plan, read_plan
from ._progress import run_shown
from ._report import Record, lines, record
from ._tally import size_of
from ._timer import exact_timer

_ECHO: Final = (sys.executable, "-m", "zmdp_trio.cli.bench._echo")


def run_bench(options: Options) -> int:
    """Measure, and print the figures; also what there is of them at a signal.

    Returns:
        The status to exit with: if no request at all was answered, that of the most frequent error.
    """
    try:
        if sys.stdout is None:
            raise Failure("standard output is closed")
        bench = _Bench(read_plan(options))
        # What was imported is there to stay.  Measured: a full collection that looks at it takes 18 ms, and would be
        # the longest latency of most runs.
        gc.freeze()
        signum = trio.run(bench.until_signal)
        if options["json"] and bench.records:
            _print(to_json(bench.summary()).decode())
    except Exception as error:
        return give_up(error, options["endpoints"], json=options["json"])
    return 128 + signum if signum else bench.status()


class _Bench:
    """A measurement.

    Attributes:
        records: of the levels that are done.
    """

    def __init__(self, plan: Plan) -> None:
        self.records: list[Record] = []
        self._plan = plan
        self._sent = size_of(plan.work.payload)
        self._load: Load | None = None
        self._stopped = False
        self._scope = trio.CancelScope()

    async def until_signal(self) -> int | None:
        """Measure; the first signal ends the load, and the second one does not wait for goodbyes.

        Returns:
            The number of the signal, or None.
        """

        async def body() -> None:
            with self._scope:
                await self._measure()

        return await with_signals(body, self._stop, self._scope.cancel)

    def summary(self) -> Record:
        """Return what --json prints."""
        plan = self._plan
        return {
            "brokers": plan.endpoints,
            "protocol": plan.protocol,
            "payload_bytes": self._sent,
            "stream": plan.work.stream,
            "interrupted": self._stopped,
            "runs": self.records,
        }

    def status(self) -> int:
        """Return the status to exit with when there was no signal."""
        errors: Counter[str] = Counter()
        for total in (each["total"] for each in self.records):
            if total["replies"] or total["chunks"]:
                return 0
            errors.update({code: failed["count"] for code, failed in total["errors"].items()})
        return EXIT_CODES[max(errors, key=errors.__getitem__, default="DEADLINE_EXCEEDED")][0]

    def _stop(self) -> None:
        """End the load; before there is one, there is nothing to show."""
        self._stopped = True
        if self._load is None:
            self._scope.cancel()
        else:
            self._load.stop()

    async def _measure(self) -> None:
        plan = self._plan
        async with open_client(*plan.endpoints, protocol=plan.protocol, settings=plan.settings) as client:
            if plan.services:
                await self._measure_services(client, plan.services)
            else:
                async with _open_echo(client, plan) as service:
                    await self._measure_services(client, [service])

    async def _measure_services(self, client: Client, services: Sequence[str]) -> None:
        plan = self._plan
        for service in services:
            await _try(client, service, plan.work)
        with exact_timer() as sleep_until:
            for level in plan.levels:
                make = partial(Load, client, services, plan.work, level, sleep_until=sleep_until)
                if plan.warm_up:
                    await run_shown(make(plan.warm_up), "warming up   ")
                self._load = make(plan.seconds)
                await run_shown(self._load)
                self._note(self._load)
                self._load = None
                if self._stopped:
                    break

    def _note(self, load: Load) -> None:
        self.records.append(record(load, self._sent))
        if not self._plan.json:
            _print("\n".join(lines(self.records[-1], self._sent)) + "\n")


@asynccontextmanager
async def _open_echo(client: Client, plan: Plan) -> AsyncIterator[str]:
    """Run a worker of our own, in a process of its own; yield the service that it offers.

    Raises:
        RequestError: there is no broker, or not for us.
        Failure: the process did not start, or ended too early.
    """
    name = f"bench-{secrets.token_hex(4)}"
    async with trio.open_nursery() as nursery:
        # A worker waits for its broker for ever; a client knows better.
        finding = trio.CancelScope()
        nursery.start_soon(_find_broker, client, name, finding)
        async with open_worker_process([*_ECHO, name, plan.protocol, *plan.endpoints]):
            finding.cancel()
            yield f"{name}.stream" if plan.work.stream else name


async def _find_broker(client: Client, service: str, scope: trio.CancelScope) -> None:
    """Wait until a broker says that nobody offers a service yet, or until somebody does."""
    with scope, suppress(ServiceNotFound):
        await client.request(service, timeout=None)


async def _try(client: Client, service: str, work: Work) -> None:
    """Ask once, so that what can't work is told before it has failed ten thousand times.

    Raises:
        RequestError: it does not work.
    """
    if not work.stream:
        await client.request(service, work.payload, timeout=work.timeout)
        return
    async with client.stream(service, work.payload, timeout=work.timeout) as stream:
        async for _ in stream:
            break


def _print(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise not_written(error) from error

"""A rolling restart: `zmdp worker` processes under load, each ended by SIGTERM and replaced, one after the other.

    python -m chaos.rolling [--seconds 60] [--rate 500] [--rounds 4] [--json]

Nothing may fail, though no request has `retry`: a worker that was told to stop takes no new work, and finishes what it
has.  Every worker must exit with status 0.  The exit code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from zmdp_trio import Service, Settings, open_client

from .load import Load, load_figures
from .processes import PATIENCE, ROOT
from .program import add_options, carry_out
from .services import Ledger, noted_services, read_ledger
from .verdict import Evidence, check_at_rest, check_protocol, violations

#: Environment variables that tell a worker process where to note its executions, and under which name.
LEDGER, NAME = "CHAOS_LEDGER", "CHAOS_NAME"


def services() -> list[Service[..., Any]]:
    """Return what a worker process offers: `zmdp worker chaos.rolling:services`."""
    return noted_services(Ledger(Path(os.environ[LEDGER]), os.environ[NAME]))


class Command:
    """A `zmdp` process that runs until a signal."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str, log: Path, **environment: str) -> tuple[Command, dict[str, Any]]:
        """Start one, and return it with what it says when it is ready."""
        with log.open("ab") as errors:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "zmdp_trio", *arguments, "--json"],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for us alone
            )
        command = cls(process)
        try:
            return command, json.loads(await command._first_line())
        except BaseException:
            await command.kill()
            raise

    async def _first_line(self) -> bytes:
        assert self.process.stdout is not None
        line = b""
        with trio.fail_after(PATIENCE):
            while not line.endswith(b"\n"):
                chunk = await self.process.stdout.receive_some()
                if not chunk:
                    raise EOFError("the process ended before it was ready")
                line += chunk
        return line

    async def stop(self) -> int:
        """Send SIGTERM, and return the status that the process exits with."""
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            status = await self.process.wait()
        await self.kill()
        return status

    async def kill(self) -> None:
        """kill -9, if it lives; close what we have of it."""
        self.process.kill()
        with trio.CancelScope(shield=True):
            await self.process.wait()
            assert self.process.stdout is not None
            await self.process.stdout.aclose()


class Fleet:
    """The worker processes of one broker."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.ledger = folder / "ledger"
        self.statuses: list[int] = []
        self._endpoint = endpoint
        self._log = folder / "log"
        self._workers: list[Command] = []
        self._started = 0

    async def start_worker(self) -> None:
        """Start one more."""
        self._started += 1
        name = f"worker-{self._started}"
        arguments = ("worker", "chaos.rolling:services", "--connect", self._endpoint, "--name", name)
        worker, _ = await Command.start(*arguments, log=self._log, **{LEDGER: str(self.ledger), NAME: name})
        self._workers.append(worker)

    async def replace_oldest(self) -> None:
        """End the oldest worker in good order, then start another one."""
        worker = self._workers.pop(0)
        try:
            self.statuses.append(await worker.stop())
        finally:
            await worker.kill()
        await self.start_worker()

    async def close(self) -> None:
        """Kill those that are left."""
        for worker in self._workers:
            await worker.kill()


@asynccontextmanager
async def open_fleet(folder: Path, workers: int) -> AsyncIterator[tuple[str, Fleet]]:
    """Start a broker and its workers; kill them all at the end."""
    broker, ready = await Command.start("broker", "--bind", "tcp://127.0.0.1:*", log=folder / "log")
    fleet = Fleet(ready["endpoints"][0], folder)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(fleet.start_worker)
        yield ready["endpoints"][0], fleet
    finally:
        await fleet.close()
        await broker.kill()


async def main(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run it; return the figures and what was violated."""
    async with open_fleet(folder, options.workers) as (endpoint, fleet), open_client(endpoint, name="driver") as client:
        load = Load(client, rate=options.rate, seed=options.seed, retry=0, timeout=options.timeout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, options.seconds)
            due = trio.current_time()
            for _ in range(options.workers * options.rounds):
                due += options.seconds / (options.workers * options.rounds + 1)
                await trio.sleep_until(due)
                await fleet.replace_oldest()
        numbers = attrs.asdict(client.statistics())
        executions = read_ledger(fleet.ledger)
    found = violations(Evidence(load.outcomes, executions, [], {}, Settings().silence))
    found += [f"a worker exited with status {status}" for status in fleet.statuses if status]
    found += [*check_at_rest("client", numbers), *check_protocol("client", numbers)]
    return {
        **load_figures(load, options.seconds),
        "executions": sum(map(len, executions.values())),
        "workers replaced": len(fleet.statuses),
    }, found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seconds=60)
    parser.add_argument("--rounds", type=int, default=4, help="how often each worker is replaced (default 4)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(carry_out(main, parse()))

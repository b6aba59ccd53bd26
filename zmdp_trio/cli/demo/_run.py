"""Put the demo together, and clean up after it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import trio

from zmdp_trio import open_broker, open_client

from .._child import open_worker_process
from .._failures import Failure, explain
from .._signals import with_signals
from .._values import size, to_json
from ._show import Show
from ._steps import REQUESTS, Figures, leave_midway, meet_error, stream_file, time_requests

#: What starts the worker; its arguments follow.
WORKER_COMMAND: Final = (sys.executable, "-m", "zmdp_trio.cli.demo._worker")
_MIB: Final = 2**20
#: MiB in the file that the demo makes when it is not given one.
_MADE: Final = 128


def run_demo(path: Path | None, *, json: bool = False, worker: Sequence[str] = WORKER_COMMAND) -> int:
    """Run the demo with the file at `path`, or with one of its own.

    Returns:
        The status to exit with.
    """
    try:
        figures, signum = trio.run(_until_signal, path and path.resolve(), Show(quiet=json), worker)
    except Exception as error:
        failure = explain(error)
        if failure is None:
            raise
        if not json:
            raise failure from error
        click.echo(to_json({"ok": False, "error": failure.record()}))
        return failure.status
    if signum:
        return 128 + signum
    if json:
        click.echo(to_json({"ok": True} | figures))
    return 0


async def _until_signal(path: Path | None, show: Show, worker: Sequence[str]) -> tuple[Figures, int | None]:
    scope = trio.CancelScope()
    figures: Figures = {}

    async def body() -> None:
        with scope, tempfile.TemporaryDirectory(prefix="zmdp-demo-") as scratch:
            figures.update(await _demo(path, Path(scratch), show, worker))

    def patience() -> None:
        """Ignore a second signal: cleaning up has started, and is short."""

    return figures, await with_signals(body, scope.cancel, *[patience] * 10)


async def _demo(path: Path | None, scratch: Path, show: Show, command: Sequence[str]) -> Figures:
    file = path or await _make_file(scratch / "sample.bin")
    total = (await trio.Path(file).stat()).st_size
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker_process([*command, broker.endpoints[0], str(file.parent), str(scratch)]) as worker,
        open_client(broker.endpoints[0]) as client,
    ):
        show.heading("Set up")
        show.fact("broker", f"{broker.endpoints[0]}, in this process")
        show.fact("worker", f"process {worker.pid}, with the services of examples/files.py")
        show.heading("Stream a file through the broker")
        show.fact("file", f"{file.name}, {size(total)}{'' if path else ' of random bytes'}")
        figures = {"file": await stream_file(client, show, file, total)}
        show.heading(f"Make {REQUESTS:,} small requests (files.stat)")
        figures["requests"] = await time_requests(client, show, file)
        show.heading("Leave a stream midway (files.tail)")
        figures["cancellation"] = await leave_midway(client, show, scratch / "growing.log")
        show.heading("Ask for a service that nobody offers")
        figures["error"] = await meet_error(client, show)
    show.end("All of it worked, and nothing is left behind.")
    return figures


async def _make_file(path: Path) -> Path:
    try:
        await trio.to_thread.run_sync(_write_random, path)
    except OSError as error:
        raise Failure(f"can't make a file of {_MADE} MiB to stream: {error}") from error
    return path


def _write_random(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(_MADE):
            trio.from_thread.check_cancelled()
            file.write(os.urandom(_MIB))

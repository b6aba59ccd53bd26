"""Run a worker process of a command's own, and never leave it behind.

The worker says `ready` on its standard output, and ends when its standard input does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import IO, Final

import trio

from ._failures import Failure, explain

#: Seconds in which the worker must be ready, and in which it must have ended by itself.
_START, _END = 30.0, 4.0
#: Seconds in which the end of a worker that was lost becomes known.
_REAP = 0.5
#: Seconds that ending may take the worker itself.
_PATIENCE: Final = 2.0


# ---- the command


@asynccontextmanager
async def open_worker_process(command: Sequence[str]) -> AsyncIterator[trio.Process]:
    """Start the worker, wait until it is ready, and end it on the way out, whatever the way.

    Raises:
        Failure: it did not start; the message holds its last words.  Or it ended while it was needed.
    """
    with tempfile.TemporaryFile() as words:
        process = await _start(command, words)
        try:
            await _ready(process, words)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_must_live, process, words)
                try:
                    yield process
                except Exception as error:
                    await _blame(error, process, words)
                    raise
                nursery.cancel_scope.cancel()
        finally:
            await _end(process)


async def _start(command: Sequence[str], words: IO[bytes]) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,  # Ctrl-C is for us alone; the worker ends when its standard input does
        )
    except OSError as error:
        raise Failure(f"the worker process did not start: {error}") from error


async def _ready(process: trio.Process, words: IO[bytes]) -> None:
    assert process.stdout is not None
    with trio.move_on_after(_START) as scope:
        if await process.stdout.receive_some():
            return
        await process.wait()
    if scope.cancelled_caught:
        raise Failure(f"the worker process was not ready within {_START:g} s{_last(words)}")
    raise Failure(f"the worker process did not start: {_status(process)}{_last(words)}")


async def _must_live(process: trio.Process, words: IO[bytes]) -> None:
    await process.wait()
    raise Failure(f"the worker process ended too early: {_status(process)}{_last(words)}")


async def _blame(error: Exception, process: trio.Process, words: IO[bytes]) -> None:
    """Give the better reason where requests failed because the worker died: they may tell of it first."""
    failure = explain(error)
    if failure is not None and failure.code == "UNAVAILABLE":
        with trio.move_on_after(_REAP):
            await _must_live(process, words)


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.CancelScope(shield=True):
        await process.stdin.aclose()
        with trio.move_on_after(_END):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        await process.stdout.aclose()


def _status(process: trio.Process) -> str:
    status = process.returncode or 0
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _last(words: IO[bytes]) -> str:
    words.seek(0)
    lines = words.read().decode(errors="replace").split("\n")
    return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")


# ---- the worker


async def end_with_parent(scope: trio.CancelScope) -> None:
    """Cancel `scope` when standard input ends, as it does with whoever started this process, however that ended."""
    while await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 1, abandon_on_cancel=True):
        pass
    timer = threading.Timer(_PATIENCE, os._exit, [1])
    timer.daemon = True
    timer.start()
    scope.cancel()

"""Workers whose event loops are blocked: reported, not taken for dead, and ended if that is wanted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from test_cli import LIMIT, ROOT, line_with, start, start_broker

from zmdp_trio import Client, open_broker, open_client

#: Blocks the event loop until there is a file of that name.
STUCK = """
import time
from pathlib import Path
from zmdp_trio import service

@service("stuck")
async def stuck(file: str):
    print("entered", flush=True)
    while not Path(file).exists():
        time.sleep(0.01)
    return "free"
"""

#: A worker whose handlers sleep for longer than a peer may be silent, one in the loop and one in a thread.
SLEEPERS = """
import itertools, sys, time
import msgspec, trio
from zmdp_trio import Settings, open_worker, service

runs = itertools.count(1)

@service("async")
async def in_the_loop(seconds: float):
    time.sleep(seconds)
    return next(runs)

@service("sync")
def in_a_thread(seconds: float):
    time.sleep(seconds)
    return next(runs)

async def main(endpoint, settings):
    async with open_worker([in_the_loop, in_a_thread], endpoint, name="sleeper", settings=settings) as worker:
        await worker.wait_welcomed()
        print("welcomed", flush=True)
        await trio.sleep_forever()

import logging
logging.basicConfig()
trio.run(main, sys.argv[1], msgspec.json.decode(sys.argv[2], type=Settings))
"""


def test_a_blocked_event_loop_is_reported_once_with_the_handler_and_its_stack(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    go = tmp_path / "go"
    with start_broker(tmp_path) as (_, endpoint):
        options = ("--connect", endpoint, "--name", "w", "--blocked-after", "0.5")
        with start(tmp_path, "worker", "stuck", *options) as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "stuck", json.dumps(str(go)), "--connect", endpoint) as call:
                report = line_with(worker.stderr, "the event loop has been blocked for")
                assert "WARNING zmdp_trio.watchdog" in report
                assert "by service 'stuck' of w, request 1 of " in report
                assert "stuck.py" in line_with(worker.stderr, ", in stuck")
                assert "time.sleep(0.01)" in line_with(worker.stderr, "sleep")
                go.touch()
                assert "by service 'stuck' of w" in line_with(worker.stderr, "it turns again")
                line_with(call.stdout, "free")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(LIMIT) == 0
            assert worker.stderr is not None
            assert b"blocked" not in worker.stderr.read()


def test_a_hung_worker_is_ended_and_its_request_lost(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    with start_broker(tmp_path) as (_, endpoint):
        with start(tmp_path, "worker", "stuck", "--connect", endpoint, "--hung-after", "0.5") as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "stuck", '"never"', "--connect", endpoint) as call:
                report = line_with(worker.stderr, "the process ends with status 70")
                assert "CRITICAL zmdp_trio.watchdog" in report
                assert "by service 'stuck'" in report
                line_with(worker.stderr, ", in stuck")
                assert worker.wait(LIMIT) == 70
                assert call.wait(LIMIT) == 8
                assert call.stderr is not None
                assert b"was lost" in call.stderr.read()


@contextmanager
def start_sleepers(folder: Path, endpoint: str, settings: dict[str, float]) -> Iterator[subprocess.Popen[bytes]]:
    program = folder / "sleepers.py"
    program.write_text(SLEEPERS)
    command = [sys.executable, str(program), endpoint, json.dumps(settings)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_worker_that_is_blocked_for_good(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    with start_broker(tmp_path) as (_, endpoint):
        with start(tmp_path, "worker", "stuck", "--connect", endpoint) as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "stuck", '"never"', "--connect", endpoint) as call:
                line_with(worker.stdout, "entered")
                while worker.poll() is None:
                    worker.send_signal(number)
                    with suppress(subprocess.TimeoutExpired):
                        worker.wait(0.1)
                assert worker.returncode == 128 + number
                assert call.wait(LIMIT) == 8


async def test_a_blocked_worker_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Handlers that sleep for five times what a silent peer is granted: one execution each, one reply, one report."""
    settings = {"heartbeat": 0.1, "misses": 3, "blocked_after": 0.5}
    seconds = 5 * 3 * 0.1
    replies: list[int] = []

    async def call(client: Client, name: str) -> None:
        replies.append(await client.request(name, seconds, retry=3))

    with trio.fail_after(LIMIT):
        async with open_broker("tcp://127.0.0.1:*", heartbeat=0.1, misses=3) as broker:
            with start_sleepers(tmp_path, broker.endpoints[0], settings) as worker:
                await trio.to_thread.run_sync(line_with, worker.stdout, "welcomed")
                async with open_client(broker.endpoints[0], heartbeat=0.1) as client, trio.open_nursery() as nursery:
                    nursery.start_soon(call, client, "async")
                    nursery.start_soon(call, client, "sync")
                assert sorted(replies) == [1, 2]
                total = broker.statistics().total
                assert (total.received, total.replied, total.lost) == (2, 2, 0)
                report = await trio.to_thread.run_sync(line_with, worker.stderr, "the event loop has been blocked for")
                assert "by service 'async' of sleeper" in report
                await trio.to_thread.run_sync(line_with, worker.stderr, "it turns again")
                worker.kill()
                _, rest = await trio.to_thread.run_sync(worker.communicate)
                assert b"blocked" not in rest


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
def test_a_process_that_was_stopped_reports_nothing_when_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    go = tmp_path / "go"
    with start_broker(tmp_path) as (_, endpoint):
        options = ("--connect", endpoint, "--blocked-after", "3")
        with start(tmp_path, "worker", "stuck", *options) as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "stuck", json.dumps(str(go)), "--connect", endpoint) as call:
                line_with(worker.stdout, "entered")
                worker.send_signal(signal.SIGSTOP)
                with pytest.raises(subprocess.TimeoutExpired):
                    call.wait(3.5)
                go.touch()
                worker.send_signal(signal.SIGCONT)
                line_with(call.stdout, "free")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(LIMIT) == 0
            assert worker.stderr is not None
            assert b"blocked" not in worker.stderr.read()

"""Workers whose event loops are blocked: reported, and ended if that is wanted."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from test_cli import LIMIT, line_with, start, start_broker

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
                assert b"was lost" in call.stderr.read()


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
                        worker.wait(0.2)
                assert worker.returncode == 128 + number
                line_with(worker.stderr, "the event loop is blocked; one more signal ends the process now")
                assert call.wait(LIMIT) == 8


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
def test_a_process_that_was_stopped_reports_nothing_when_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    go = tmp_path / "go"
    with start_broker(tmp_path) as (_, endpoint):
        options = ("--connect", endpoint, "--blocked-after", "1.5")
        with start(tmp_path, "worker", "stuck", *options) as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "stuck", json.dumps(str(go)), "--connect", endpoint) as call:
                line_with(worker.stdout, "entered")
                worker.send_signal(signal.SIGSTOP)
                with pytest.raises(subprocess.TimeoutExpired):
                    call.wait(2)
                go.touch()
                worker.send_signal(signal.SIGCONT)
                line_with(call.stdout, "free")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(LIMIT) == 0
            assert b"blocked" not in worker.stderr.read()

"""Workers are ended by SIGTERM and replaced, one after the other, under load: nothing fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Seconds of load, requests a second, and worker processes.
SECONDS, RATE, WORKERS = 3, 150, 3


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    """`python -m chaos.rolling`, in short: no request has `retry`, and none fails."""
    options = ("--seconds", SECONDS, "--rate", RATE, "--workers", WORKERS, "--rounds", 1, "--folder", tmp_path / "run")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZMDP_")}
    run = subprocess.run(
        [sys.executable, "-m", "chaos.rolling", *map(str, options), "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert run.stdout, run.stderr.decode()
    figures = json.loads(run.stdout)
    assert figures["violations"] == []
    assert run.returncode == 0
    assert figures["workers replaced"] == WORKERS
    assert set(figures["without retry"]) == {"answered", "left"}
    assert not figures["with retry"]
    assert figures["requests"] > SECONDS * RATE / 2
    assert "Traceback" not in (tmp_path / "run" / "log").read_text()

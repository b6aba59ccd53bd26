"""examples/node: its README, run word for word."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import trio
from outsiders import NODE, PATIENCE, WORKERS, need

from zmdp_trio import open_broker

ROOT = Path(__file__).parents[2]
BROKER = "zmdp broker &"


def steps() -> list[tuple[str, str]]:
    """Return the last block's commands, and what each prints."""
    *_, block = re.findall(r"^```console\n(.*?)^```$", (ROOT / "examples/node/README.md").read_text(), re.M | re.S)
    return [(step[0], step[1]) for step in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.M)]


def arguments(line: str) -> list[str]:
    program, *rest = shlex.split(line.removesuffix("&"))
    return {
        "node": ["node", "--no-deprecation"],
        "python": [sys.executable],
        "zmdp": [sys.executable, "-m", "zmdp_trio"],
    }[program] + rest


async def test_the_readme() -> None:
    need(WORKERS["PIGATO"])
    (first, _), *rest = steps()
    assert first == BROKER
    # In the place of the first line, a broker at a free port, and with patience for workers that start slowly.
    async with open_broker("tcp://127.0.0.1:*", appear=PATIENCE) as broker, trio.open_nursery() as nursery:
        environment = os.environ | {
            "ZMDP_BROKER": broker.endpoints[0],
            "NODE_PATH": str(NODE / "node_modules"),
            "PYTHONPATH": str(ROOT),
        }
        with trio.fail_after(3 * PATIENCE):
            for line, expected in rest:
                if line.endswith("&"):
                    nursery.start_soon(run_in_background, line, environment)
                else:
                    done = await trio.run_process(
                        arguments(line),
                        cwd=ROOT,
                        env=environment,
                        capture_stdout=True,
                        capture_stderr=True,
                        check=False,
                    )
                    assert (done.stdout.decode(), done.stderr.decode()) == (expected, ""), line
        nursery.cancel_scope.cancel()


async def run_in_background(line: str, environment: dict[str, str]) -> None:
    """Run a command until the test is over."""
    await trio.run_process(arguments(line), cwd=ROOT, env=environment, check=False, stderr=subprocess.DEVNULL)


def test_there_is_something_to_run() -> None:
    assert [line for line, expected in steps() if expected] == [
        "node examples/node/client.js",
        "python examples/node/caller.py",
    ]

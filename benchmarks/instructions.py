"""How many instructions a request takes at client, broker, and worker: the same on a busy machine as on a quiet one.

    python benchmarks/instructions.py [--in-flight 1 100] [--json]

All three run in one process, over inproc, under valgrind (`apt-get install valgrind`), which counts whatever they
execute: Python, Trio, and libzmq, but not the kernel.  Two runs that differ in the number of requests are subtracted,
so that imports and greetings don't count.  For comparing two versions of the code; seconds it does not tell.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any, Final

import trio

from zmdp_trio import open_broker, open_client, open_worker, service

#: Requests of the two runs whose difference counts.
FEW: Final = 500
MANY: Final = 2_500
#: Requests before those, until nothing changes any more.
WARM_UP: Final = 100


@service("echo")
async def echo(payload: Any) -> Any:
    """Return what came."""
    return payload


async def serve(requests: int, in_flight: int) -> None:
    """Make so many requests of 16 bytes, and do nothing else."""
    async with open_broker("inproc://*") as broker, open_worker([echo], *broker.endpoints) as worker:
        await worker.wait_welcomed()
        async with open_client(*broker.endpoints) as client, trio.open_nursery() as nursery:
            for _ in range(WARM_UP):
                await client.request("echo", b"x" * 16)
            gc.freeze()
            gc.disable()

            async def ask(number: int) -> None:
                for _ in range(number):
                    await client.request("echo", b"x" * 16)

            for task in range(in_flight):
                nursery.start_soon(ask, (requests + task) // in_flight)


def counted(requests: int, in_flight: int) -> int:
    """Return the instructions of a process that makes so many requests."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, __file__]
    run = subprocess.run(
        [*command, "--run", str(requests), str(in_flight)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
    found = re.search(r"Collected : (\d+)", run.stderr)
    assert found is not None, run.stderr
    return int(found[1])


def main() -> None:
    """Count for each number of requests in flight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 100], help="numbers of requests at once to try")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--run", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        trio.run(serve, *arguments.run)
        return
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is missing; on Debian: apt-get install valgrind")
    figures = {}
    for in_flight in arguments.in_flight:
        spent = counted(MANY, in_flight) - counted(FEW, in_flight)
        figures[in_flight] = round(spent / (MANY - FEW))
        if not arguments.json:
            sys.stdout.write(f"{in_flight:>4} in flight: {figures[in_flight]:>9,} instructions per request\n")
            sys.stdout.flush()
    if arguments.json:
        json.dump({"instructions_per_request": figures, "python": sys.version.split()[0]}, sys.stdout)


if __name__ == "__main__":
    main()

"""Serve the files of one folder to plain REQ clients: a broker, worker processes, and a gateway with one command.

    python examples/files/serve.py FOLDER
    node examples/files/requester.js notes.txt

The README beside this file tells how to start the pieces one by one, which is what one would do in production.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from zmdp_trio import open_broker, open_gateway, open_worker

sys.path.insert(0, str(Path(__file__).parents[1]))  # where files.py is

from files import file_services


async def serve(root: Path, endpoint: str, workers: int) -> None:
    """Run all of it until the first signal; then let what has come finish."""
    command = [sys.executable, __file__, "--worker", str(root)]
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery, open_broker("tcp://127.0.0.1:*") as broker:
            start = partial(trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes = [await nursery.start(start, [*command, *broker.endpoints]) for _ in range(workers)]
            for process in processes:
                await process.stdout.receive_some(1)
            async with open_gateway(endpoint, service="files.content", brokers=broker.endpoints) as gateway:
                print(f"serving {root} at {gateway.endpoints[0]} with {workers} workers; Ctrl-C ends it", flush=True)
                await anext(signals)
            for process in processes:
                await process.stdin.aclose()
                await process.wait()


async def work(root: Path, broker: str) -> None:
    """Be one of the workers, until whoever started this process closes standard input, or is no more."""
    async with open_worker(file_services(root), broker) as worker:
        await worker.wait_welcomed()
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the files of one folder to plain REQ clients.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="the folder; by default the current one")
    parser.add_argument("--bind", default="tcp://127.0.0.1:60401", metavar="ENDPOINT", help="[default: %(default)s]")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes [default: %(default)s]")
    parser.add_argument("--worker", nargs=2, metavar=("ROOT", "BROKER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # they are for whoever started this process
        trio.run(work, Path(arguments.worker[0]), arguments.worker[1])
    else:
        trio.run(serve, arguments.root.resolve(), arguments.bind, arguments.workers)


if __name__ == "__main__":
    main()

"""A million messages with mistakes, against the broker's, the worker's, and the client's machine.

    python -m fuzz.machines [--messages 1000000] [--seed N] [broker] [legacy] [worker] [client]

`legacy` is the broker's machine with peers of the older dialects.

Messages with a mistake are counted; those without, which take the sessions to where mistakes hurt, come on top.
Nothing but protocol errors may come of them, the counters must add up, every table must keep its limit, and the memory
of the process must be at the end what it was after the first tenth, or the first 20,000.  The exit code is 1 if it was
not; any other failure ends the run with its traceback, below the seed that repeats it.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import sys
import time
from pathlib import Path

from fuzzing import TARGETS, Target

MIB = 2**20
#: What the process may grow by after the first tenth, since what is free is not always given back; and by how many
#: blocks of Python's own, whose number is exact: what the tables may hold at one time and not at another.
TOLERATED, TOLERATED_BLOCKS = 16 * MIB, 20_000
#: Messages with mistakes that fill the largest table, that of the peers which are ignored; a shorter run tells nothing.
WARM_UP = 20_000
#: Messages between two looks at the counters and tables.
LOOK = 100


def resident() -> int:
    """Return the process's memory in bytes: what is resident now, or where that can't be had, at most so far."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fuzz(target: Target, messages: int) -> bool:
    """Send so many messages with mistakes; tell whether memory stayed flat."""
    begun, before, blocks = time.perf_counter(), 0, 0
    next_report = messages // 10
    while target.mutator.mistakes < messages:
        target.step()
        if target.steps % LOOK == 0:
            target.check()
        if target.mutator.mistakes >= next_report:
            next_report += messages // 10
            memory = resident()
            if not before and target.mutator.mistakes >= WARM_UP:
                before, blocks = memory, sys.getallocatedblocks()
            report(target, time.perf_counter() - begun, memory)
    target.finish()
    if not before:
        print(f"{target.name}: too few messages to tell whether memory is flat")
        return True
    grown, more = resident() - before, sys.getallocatedblocks() - blocks
    flat = grown <= TOLERATED and more <= TOLERATED_BLOCKS
    verdict = f"{'flat' if flat else 'NOT FLAT'}: {grown / MIB:+.1f} MiB and {more:+,} blocks"
    print(f"{target.name}: memory {verdict} since the first tenth (at least {WARM_UP:,})")
    return flat


def report(target: Target, seconds: float, memory: int) -> None:
    tables = ", ".join(f"{name} {count:,}" for name, count in target.tables.items())
    print(
        f"{target.name}: {target.mutator.mistakes:,} with mistakes of {target.steps:,} messages, "
        f"{target.steps / seconds:,.0f}/s, {target.machine.protocol_errors:,} protocol errors, "
        f"{memory / MIB:.1f} MiB ({tables})",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000, help="with mistakes, for each machine")
    parser.add_argument("--seed", type=int)
    parser.add_argument("targets", nargs="*", metavar="target", help=" ".join(TARGETS))
    args = parser.parse_args()
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"no such machine: {' '.join(unknown)}")
    seed = random.randrange(10**9) if args.seed is None else args.seed
    flat = True
    for name in args.targets or TARGETS:
        print(f"{name}: seed {seed}", flush=True)
        flat &= fuzz(TARGETS[name](random.Random(seed)), args.messages)
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())

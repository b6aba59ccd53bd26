"""Honest and lying peers around a broker's machine: its books balance at each step, and are empty in the end.

    python -m fuzz.steps [--steps 100000] [--seed N] [--runs 4]

Each run has a seed of its own, and settings that its seed chooses.  A failure names the seed that repeats it.  Behind
each run with our own peers there is one with peers of all dialects.
"""

from __future__ import annotations

import argparse
import random
import time

import crowd
import legacy_crowd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="in each run")
    parser.add_argument("--seed", type=int, help="of the first run; the others count on from it")
    parser.add_argument("--runs", type=int, default=4)
    args = parser.parse_args()
    first = random.randrange(10**9) if args.seed is None else args.seed
    for seed in range(first, first + args.runs):
        begun = time.perf_counter()
        seen = crowd.run(seed, args.steps).seen
        told = ", ".join(f"{seen[what]:,} {what}" for what in ("Partial", "Final", "Error"))
        report(seed, begun, args.steps, f"{told}; {seen['dropped']:,} peers dropped")
        begun = time.perf_counter()
        seen = legacy_crowd.run(seed, args.steps).seen
        told = ", ".join(f"{seen[f'client gets {what}']:,} {what}" for what in ("Partial", "Final", "Failure"))
        report(seed, begun, args.steps, f"{told}; {seen['somebody_comes']:,} peers of all dialects")


def report(seed: int, begun: float, steps: int, told: str) -> None:
    print(f"seed {seed}: {steps:,} steps in {time.perf_counter() - begun:.1f} s; {told}")


if __name__ == "__main__":
    main()

"""`zmdp bench`: what a user's own brokers and workers do under load."""

from ._run import run_bench as run_bench

"""`zmdp demo`: the main job on a real file, with a broker here and a worker in a process of its own."""

from ._run import run_demo as run_demo

"""Long runs: what is killed, what is cancelled, and what must hold all the same.

    python -m chaos.simulated      a thousand clusters in memory, with every fault there is

Over real processes and tcp:

    python -m chaos.kills          kill -9 of workers and of the broker, under load
    python -m chaos.two_brokers    kill -9 of one broker of two, under load
    python -m chaos.rolling        SIGTERM of one worker after the other, under load
    python -m chaos.soak           ten minutes of mixed load: memory and file descriptors

`make chaos` and `make soak` run them in full; the tests run a short form of each.
"""

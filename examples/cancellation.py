"""Leave a stream midway, and see the handler end on the other side.

    python examples/cancellation.py

The handler needs no code for it: Trio cancels it at its next checkpoint, and its `finally` runs.
"""

import itertools
from collections.abc import AsyncIterator

import trio

from zmdp_trio import open_broker, open_client, open_worker, service

cleaned_up = trio.Event()


@service("ticks")
async def ticks() -> AsyncIterator[int]:
    try:
        for tick in itertools.count():
            yield tick
            await trio.sleep(0.01)
    finally:
        print("handler: the caller has left, cleaning up")
        cleaned_up.set()


async def main() -> None:
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker([ticks], *broker.endpoints),
        open_client(*broker.endpoints) as client,
    ):
        async with client.stream("ticks") as stream:
            async for tick in stream:
                print("client: tick", tick)
                if tick == 3:
                    break
        print("client: left")
        with trio.fail_after(5):
            await cleaned_up.wait()


if __name__ == "__main__":
    trio.run(main)

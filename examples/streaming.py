"""Get many replies to one request, each as soon as it is there.

    python examples/streaming.py

`count` may run ahead of its reader by no more than the credit that the reader granted: `yield` waits.
"""

from collections.abc import AsyncIterator

import trio

from zmdp_trio import Final, open_broker, open_client, open_worker, service


@service("count")
async def count(n: int) -> AsyncIterator[int | Final[str]]:
    for i in range(n):
        yield i
    yield Final(f"counted to {n}")


async def main() -> None:
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker([count], *broker.endpoints),
        open_client(*broker.endpoints) as client,
        client.stream("count", 5) as stream,
    ):
        async for number in stream:
            print(number)
        print("final reply:", stream.final)


if __name__ == "__main__":
    trio.run(main)

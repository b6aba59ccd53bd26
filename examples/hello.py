"""Say hello: a broker, a worker, and a client in one process.

    python examples/hello.py

Or in three terminals: `zmdp broker`, `zmdp worker examples.hello`, `zmdp call hello '"World"'`.
"""

import trio

from zmdp_trio import open_broker, open_client, open_worker, service


@service("hello")
async def hello(name: str) -> str:
    return f"Hello, {name}!"


async def main() -> None:
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker([hello], *broker.endpoints),
        open_client(*broker.endpoints) as client,
    ):
        print(await client.request("hello", "World"))


if __name__ == "__main__":
    trio.run(main)

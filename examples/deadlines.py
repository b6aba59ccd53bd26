"""Give one second to A, which calls B, which calls C: all three share that second.

    python examples/deadlines.py

Each handler sees what is left of it, and C, which would take for ever, is cancelled when it is over.
"""

import trio

from zmdp_trio import Request, open_broker, open_client, open_worker, service


def time_left(request: Request) -> str:
    return f"{max(0, request.deadline - trio.current_time()):.1f} s left"


@service("A")
async def a(request: Request) -> object:
    print("A:", time_left(request))
    return await request.request("B")


@service("B")
async def b(request: Request) -> object:
    print("B:", time_left(request))
    return await request.request("C")


@service("C")
async def c(request: Request) -> None:
    print("C:", time_left(request))
    try:
        await trio.sleep_forever()
    finally:
        print("C: cancelled with", time_left(request))


async def main() -> None:
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker([a, b, c], *broker.endpoints),
        open_client(*broker.endpoints) as client,
    ):
        try:
            with trio.fail_after(1):
                await client.request("A")
        except trio.TooSlowError:
            print("client: one second is over")


if __name__ == "__main__":
    trio.run(main)

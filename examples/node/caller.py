"""A client in Python calls a PIGATO worker: worker.js."""

from __future__ import annotations

import os

import trio

from zmdp_trio import RequestError, open_client


async def main() -> None:
    async with open_client(os.environ.get("ZMDP_BROKER", "tcp://127.0.0.1:5555")) as client:
        async with client.stream("words", "partial replies from Node") as stream:
            async for word in stream:
                print(word)
        print(stream.final)
        try:
            await client.request("words", 7)
        except RequestError as error:
            print(error)


trio.run(main)

"""The services that test_cli.py calls."""

import math
from collections.abc import AsyncIterator
from typing import Any

import trio

from zmdp_trio import Code, Final, Request, Service, ServiceError, service


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final({"counted": n})


@service("chunks")
async def chunks() -> AsyncIterator[Any]:
    yield b"one\n"
    yield b"\x00\xff\n"
    yield Final({"chunks": 2})


@service("steps")
async def steps(request: Request) -> str:
    await request.send({"progress": 0.5})
    return "done"


@service("endless")
async def endless(name: str) -> AsyncIterator[str]:
    try:
        while True:
            yield name
            await trio.sleep(0.01)
    finally:
        print("left", name, flush=True)


@service("flood")
async def flood(name: str, request: Request) -> None:
    sending = True

    async def watch() -> None:
        nonlocal sending
        while sending:
            sending = False
            await trio.sleep(0.2)
        print(name, "waits for credit", flush=True)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            while True:
                await request.send(bytes(100_000))
                sending = True
    finally:
        print("left", name, flush=True)


@service("once")
async def once(name: str) -> AsyncIterator[str]:
    try:
        yield name
        await trio.sleep_forever()
    finally:
        print("left", name, flush=True)


@service("silent")
async def silent(name: str) -> None:
    print("entered", name, flush=True)
    try:
        await trio.sleep_forever()
    finally:
        print("left", name, flush=True)


@service("patient")
async def patient(file: str) -> str:
    print("entered", file, flush=True)
    while not await trio.Path(file).exists():  # noqa: ASYNC110 - another process makes it
        await trio.sleep(0.01)
    return "done"


@service("refuse")
async def refuse() -> None:
    raise ServiceError(Code.PERMISSION_DENIED, "not today", {"day": "Sunday"})


@service("broken")
async def broken() -> None:
    raise RuntimeError("a secret")


@service("half")
async def half() -> AsyncIterator[int]:
    yield 1
    raise ServiceError(Code.RESOURCE_EXHAUSTED, "that is all")


@service("headers")
async def headers(request: Request) -> dict[str, Any]:
    return dict(request.headers)


@service("left")
async def left(request: Request) -> float:
    return request.deadline - trio.current_time()


@service("odd")
async def odd() -> dict[Any, Any]:
    return {1: b"bytes", "nested": [math.inf]}


def chosen() -> list[Service[..., Any]]:
    return [echo, count]


def failing() -> list[Service[..., Any]]:
    raise LookupError("none today")


nothing: list[Service[..., Any]] = []

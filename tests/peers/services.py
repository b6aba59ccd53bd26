"""Services of ours that other people's clients call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from zmdp_trio import Final, service


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("count")
async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)

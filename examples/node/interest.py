"""A service for Node: `zmdp worker examples.node.interest`.  Its caller is client.js."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec

from zmdp_trio import Final, service


class Account(msgspec.Struct, forbid_unknown_fields=True):
    """What is saved, at how many percent a year, for how long."""

    balance: float
    percent: float
    years: Annotated[int, msgspec.Meta(ge=1, le=100)]


@service("interest")
async def interest(account: Account) -> AsyncIterator[Any]:
    """Tell the balance after each year; the final reply is the interest in all."""
    balance = account.balance
    for year in range(1, account.years + 1):
        balance *= 1 + account.percent / 100
        yield {"year": year, "balance": round(balance, 2)}
    yield Final({"interest": round(balance - account.balance, 2)})

"""Ends of our own transports."""

from __future__ import annotations

from zmdp_trio._transport import Options, dial, listen
from zmdp_trio.testing._checks.ends import OPTIONS as OPTIONS
from zmdp_trio.testing._checks.ends import End as End
from zmdp_trio.testing._checks.ends import greet as greet
from zmdp_trio.testing._checks.ends import running as running


def bind(*endpoints: str, options: Options = OPTIONS) -> End:
    """A listening end."""
    return End(listen(*endpoints, options=options))


def call(endpoint: str, options: Options = OPTIONS) -> End:
    """A dialling end."""
    return End(dial(endpoint, options))


async def connected(end: End) -> None:
    """Wait until a dialled end is."""
    await end.get_connected()

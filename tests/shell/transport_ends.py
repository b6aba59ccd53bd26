"""Ends of our own transports."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

from zmdp_trio._transport import Options, dial, listen
from zmdp_trio.testing._checks.ends import OPTIONS as OPTIONS
from zmdp_trio.testing._checks.ends import End as End
from zmdp_trio.testing._checks.ends import greet as greet
from zmdp_trio.testing._checks.ends import running as running
from zmdp_trio.testing.transport import Transport

#: Our transports; those whose checks take longest come first.
KINDS: Final = ("tcp", "ipc", "inproc", "memory")


def transport_of(kind: str, folder: Path) -> Transport:
    """Return one of ours, and keep what it has of files in a folder."""
    serial = itertools.count()
    kinds: dict[str, dict[str, Any]] = {
        "memory": {"endpoint": lambda: "memory://*", "nobody": "memory://nobody"},
        "tcp": {"endpoint": lambda: "tcp://127.0.0.1:*", "nobody": "tcp://127.0.0.1:1"},
        "ipc": {"endpoint": lambda: f"ipc://{folder}/{next(serial)}", "nobody": f"ipc://{folder}/nobody"},
        "inproc": {"endpoint": lambda: "inproc://*", "limits_frames": False},
    }
    return Transport(listen=listen, dial=dial, **kinds[kind])


def bind(*endpoints: str, options: Options = OPTIONS) -> End:
    """A listening end."""
    return End(listen(*endpoints, options=options))


def call(endpoint: str, options: Options = OPTIONS) -> End:
    """A dialling end."""
    return End(dial(endpoint, options))


async def connected(end: End) -> None:
    """Wait until a dialled end is."""
    await end.get_connected()

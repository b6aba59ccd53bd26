"""What peers must see alike: origins, keys, outcomes, how far a stream is ahead, how much is told after a restart."""

from __future__ import annotations

import zlib
from typing import Final, TypeAlias

from .._errors import Code
from .._wire import commands as c

#: Requests of the last broker that one worker may tell of.
MAX_HOLDINGS: Final = 65_536
#: A long stream may be ahead of its reader by this part of what was read: its client grants it so much, and its worker
#: keeps as much for the case that the broker is lost.
AHEAD: Final = 16
#: `caller` and `call` of a REQUEST: what a request is called whichever broker it came by.
Origin: TypeAlias = tuple[bytes, int]
#: Content type, length, and CRC-32.
Fingerprint: TypeAlias = tuple[int, int, int]

#: Errors that say nothing of what the handler did, as those with a reason don't, which are ours: a repeat runs anew.
NOT_REMEMBERED: Final = frozenset(
    code.value for code in (Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)
)


def is_reserved(name: str) -> bool:
    """Whether brokers answer a name themselves, and no worker may offer it: `mmi.` and more (RFC 8), `$dir`."""
    return name.startswith("mmi.") or name == "$dir"


def fingerprint(request: c.Request) -> Fingerprint:
    """Return what tells payloads apart by mistake, not by malice."""
    body = request.body
    assert body is not None
    return request.content, len(body), zlib.crc32(body)


def is_remembered(outcome: c.Command) -> bool:
    """Whether repeats of a request with a key have this outcome, instead of an execution of their own."""
    if isinstance(outcome, c.Error):
        return not outcome.reason and outcome.code not in NOT_REMEMBERED
    return isinstance(outcome, c.Final)

"""Which broker a key belongs to: the same one for every client, without a word between them.

Rendezvous hashing: each broker has a weight for each key, and the key belongs to the heaviest.  While that one is away
it belongs to the next; no other key moves when a broker comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from ..uplink import Uplink


def weight_of(endpoint: str, service: str, key: str) -> bytes:
    """Return a broker's weight for a key; docs/protocol.md has it for clients of other languages."""
    return blake2b("\0".join((endpoint, service, key)).encode(errors="replace"), digest_size=8).digest()


def ranked(uplinks: Iterable[Uplink], service: str, key: str) -> list[Uplink]:
    """Return the brokers in the order in which a key belongs to them."""
    return sorted(uplinks, key=lambda uplink: weight_of(uplink.endpoint, service, key), reverse=True)

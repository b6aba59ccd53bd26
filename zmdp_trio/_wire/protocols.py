"""What brokers, workers, and clients can speak, by the names that users give."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from . import zmdp1
from .majordomo import DIALECTS

#: Every protocol: ours first.
PROTOCOLS: Final = (zmdp1.NAME, *(name for name, dialect in DIALECTS.items() if not dialect.variant_of))


def dialect_names(protocols: Collection[str]) -> frozenset[str]:
    """Return the names of the dialects that protocols comprise, variants and `zmdp/1` among them.

    Raises:
        ValueError: a protocol is unknown, or there is none.
    """
    if not protocols:
        raise ValueError(f"no protocol is left: choose from {', '.join(PROTOCOLS)}")
    for name in protocols:
        if name not in PROTOCOLS:
            raise unknown(name)
    variants = {name for name, dialect in DIALECTS.items() if dialect.variant_of in protocols}
    return frozenset(protocols) | variants


def unknown(name: object) -> ValueError:
    """Return the error for what is no protocol's name; the known ones are listed."""
    return ValueError(f"{name!r} is no protocol: choose from {', '.join(PROTOCOLS)}")

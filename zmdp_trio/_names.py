"""What brokers, workers, and clients are called, and where brokers are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ._chance import chance
from ._wire.commands import MAX_NAME
from ._wire.majordomo import DIALECTS
from ._wire.zmdp1 import NAME

#: What brokers, workers, and clients can speak, as `protocol=` takes it: ours first.
PROTOCOLS: Final = (NAME, *(name for name in DIALECTS if "+" not in name))


def peer_name(name: str | None, kind: str) -> str:
    """Return the name that was chosen, or make one up.

    Raises:
        ValueError: it can't be sent.
    """
    if name is None:
        return f"{kind}-{chance().randbytes(4).hex()}"
    try:
        size = len(name.encode())
    except (AttributeError, UnicodeEncodeError) as error:
        raise ValueError(f"a name is a string of Unicode text, not {name!r}") from error
    if not 0 < size <= MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} bytes, this one has {size:,}")
    return str(name)


def distinct(brokers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the endpoints of brokers, each once.

    Raises:
        TypeError: there is none, or one is no string.
    """
    if not brokers:
        raise TypeError("give the endpoint of at least one broker")
    for endpoint in brokers:
        if not isinstance(endpoint, str):
            raise TypeError(f"an endpoint is a string such as tcp://127.0.0.1:5555, not {endpoint!r}")
    return tuple(dict.fromkeys(brokers))


def dialect_names(protocols: Collection[str]) -> frozenset[str]:
    """Return the dialects that protocols comprise: MDP 0.2 may come behind an empty frame.

    Raises:
        ValueError: a protocol is unknown, or there is none; the known ones are listed.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown or not protocols:
        what = f"{unknown[0]!r} is no protocol" if unknown else "no protocol is left"
        raise ValueError(f"{what}: choose from {', '.join(PROTOCOLS)}")
    return frozenset(name for name in (NAME, *DIALECTS) if name.partition("+")[0] in protocols)

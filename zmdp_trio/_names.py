"""What brokers, workers, and clients are called, and where brokers are."""

from __future__ import annotations

from ._chance import chance
from ._wire.commands import MAX_NAME


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

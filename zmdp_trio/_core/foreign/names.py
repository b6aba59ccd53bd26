"""What requests and connections are called at a broker of another kind: unique there, though nobody agreed on them."""

from __future__ import annotations

from hashlib import blake2b
from itertools import count

#: Bytes of a peer's own name that its connections are called by.
LONGEST = 128


class Names:
    """Makes names that nobody else makes: a session id is random."""

    def __init__(self, session: bytes) -> None:
        self._session = session
        self._serial = count(1)

    def uuid(self) -> bytes:
        """Return a name that looks like a UUID: 36 characters with dashes."""
        digits = self._digest(16)
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])).encode()

    def short(self) -> bytes:
        """Return a name of 20 characters without dashes."""
        return self._digest(10).encode()

    def _digest(self, size: int) -> str:
        return blake2b(b"%d" % next(self._serial), key=self._session[:64], digest_size=size).hexdigest()


def prefix(name: str) -> bytes:
    """Return a peer's name as far as there is room for it."""
    return name.encode()[:LONGEST].decode(errors="ignore").encode()

"""What comes of the requests to one service, noted as it happens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs
import msgspec

from zmdp_trio import RequestError

from ._histogram import Histogram

_encode_into: Final = msgspec.msgpack.Encoder().encode_into
_scratch: Final = bytearray()


@attrs.frozen
class Failed:
    """The requests that ended with one code.

    Attributes:
        count: how many.
        first: what the first one said.
    """

    count: int
    first: str


@attrs.frozen
class Progress:
    """How far it was at some moment."""

    replies: int
    chunks: int
    received: int


@attrs.define
class Tally:
    """The requests to one service, or to several together.

    Attributes:
        service: its name.
        latency: of those that were answered, to the final reply.
        first: of streams, to the first partial reply.
        begun: requests that were sent.
        chunks: partial replies that were read.
        received: bytes of all replies.
        errors: by code.
    """

    service: str
    latency: Histogram = attrs.field(factory=Histogram)
    first: Histogram = attrs.field(factory=Histogram)
    begun: int = 0
    chunks: int = 0
    received: int = 0
    errors: dict[str, Failed] = attrs.field(factory=dict)

    def fail(self, error: RequestError) -> None:
        """Count an error."""
        self._count(error.code.name, Failed(1, error.message))

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return sum(each.count for each in self.errors.values())

    @property
    def unfinished(self) -> int:
        """Requests that have not ended."""
        return self.begun - self.latency.count - self.failed

    def progress(self) -> Progress:
        """Tell how far it is now."""
        return Progress(self.latency.count, self.chunks, self.received)

    def add(self, other: Tally) -> None:
        """Count what another one has, too."""
        self.latency.add(other.latency)
        self.first.add(other.first)
        self.begun += other.begun
        self.chunks += other.chunks
        self.received += other.received
        for code, failed in other.errors.items():
            self._count(code, failed)

    def _count(self, code: str, failed: Failed) -> None:
        before = self.errors.get(code)
        self.errors[code] = Failed(before.count + failed.count, before.first) if before else failed


def together(tallies: Iterable[Tally]) -> Tally:
    """Count what several have as one."""
    total = Tally("")
    for tally in tallies:
        total.add(tally)
    return total


def size_of(value: Any) -> int:
    """Tell how many bytes a payload or a reply is: as they are, or as MessagePack; none if it is None."""
    if type(value) is bytes:
        return len(value)
    if value is None:
        return 0
    try:
        _encode_into(value, _scratch)
    except OverflowError:  # a whole number that only JSON can write
        return len(repr(value))
    return len(_scratch)

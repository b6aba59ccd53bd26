"""What a message is made of."""

from __future__ import annotations

from typing import Protocol, TypeAlias


class Frame(Protocol):
    """Bytes-like and sized: `bytes`, or a transport's own frame that is passed on without a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


Frames: TypeAlias = list[Frame]

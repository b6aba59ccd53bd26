"""What a message is made of."""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

import msgspec

#: What msgspec may raise for bytes, or for what they stand for: RecursionError for deep nesting, TypeError where a set
#: would hold what can't be hashed, the others by its documentation.
UNREADABLE: Final = (
    msgspec.MsgspecError,
    RecursionError,
    UnicodeDecodeError,
    OverflowError,
    MemoryError,
    TypeError,
    ValueError,
)


class Frame(Protocol):
    """Bytes-like and sized: `bytes`, or a transport's own frame that is passed on without a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


Frames: TypeAlias = list[Frame]

"""Mistakes in messages: in their fields, their commands, and their bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1


def nested(depth: int) -> list[Any]:
    """Return a list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: What a field may hold instead of what it should.
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, -1, 0, 1, 255, 2**31, 2**48, 2**48 + 1, 2**62, 2**62 + 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.5, 1e-320, 1e300, math.inf, -math.inf, math.nan),
    *("", "a", "x" * 300, "\x00\n", b"", b"x", b"x" * 300, "y" * 50_000, b"y" * 50_000),
    *([], {}, [[]], {"a": 1}, {1: 2}, [None] * 50, [[1, 2.0]] * 200, nested(50), msgspec.msgpack.Ext(5, b"ext")),
)
#: Bytes that begin something large: arrays, maps, texts, and extensions of 2^32-1 items, and what MessagePack forbids.
HEADS: Final = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff",
    b"\xc1",
)

Commands = list[list[Any]]


class Mutator:
    """Makes mistakes in messages."""

    def __init__(self, random: Random) -> None:
        self.random = random
        #: Messages that it made a mistake in.
        self.mistakes = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._structural: tuple[Callable[[Commands, list[bytes]], None], ...] = (
            *(self._change_field,) * 6,
            *(self._drop_field, self._add_field, self._change_tag, self._swap, self._double, self._drop, self._body),
        )
        self._bytewise = (self._flip, self._flip, self._truncate, self._insert, self._head)

    def frames(self, commands: Commands, bodies: list[bytes], *, honest: float) -> list[bytes]:
        """Return the message's frames, as they should be in so many of 1.0 cases."""
        random = self.random
        if random.random() < honest:
            return [zmdp1.MAGIC, self._encode(commands), *bodies]
        self.mistakes += 1
        if random.random() < 0.75:
            for _ in range(random.choice((1, 1, 2, 4))):
                random.choice(self._structural)(commands, bodies)
            frames = [zmdp1.MAGIC, self._encode(commands), *bodies]
            if random.random() < 0.8:
                return frames
        else:
            frames = [zmdp1.MAGIC, self._encode(commands), *bodies]
        which = random.randrange(len(frames)) if random.random() < 0.1 else 1
        frames[which] = random.choice(self._bytewise)(frames[which])
        if random.random() < 0.02:
            random.shuffle(frames)
        return frames

    def plain_frames(self, frames: list[Any], *, honest: float) -> list[Any]:
        """Return frames that all have a meaning of their own, as they should be in so many of 1.0 cases."""
        random = self.random
        if random.random() < honest:
            return frames
        self.mistakes += 1
        for _ in range(random.choice((1, 1, 2, 4))):
            at = random.randrange(len(frames))
            kind = random.random()
            if kind < 0.5:
                frames[at] = random.choice(self._bytewise)(bytes(frames[at]))
            elif kind < 0.65:
                frames.insert(at, random.choice((b"", b"\xff", b"x" * 300, b"y" * 50_000, frames[at])))
            elif kind < 0.8 and len(frames) > 1:
                del frames[at]
            elif kind < 0.9:
                frames[at] = random.choice((b"", b"undefined", b"null", b"1" * 400, b"z" * 120_000))
            else:
                random.shuffle(frames)
        return frames

    def _command(self, commands: Commands) -> list[Any]:
        return self.random.choice(commands) if commands else []

    def _change_field(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        if command:
            command[self.random.randrange(len(command))] = self.random.choice(VALUES)

    def _drop_field(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        if command:
            del command[self.random.randrange(len(command))]

    def _add_field(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        command.insert(self.random.randint(0, len(command)), self.random.choice(VALUES))

    def _change_tag(self, commands: Commands, bodies: list[bytes]) -> None:
        command = self._command(commands)
        if command:
            command[0] = self.random.randint(-1, len(c.ALL))

    def _swap(self, commands: Commands, bodies: list[bytes]) -> None:
        self.random.shuffle(commands)

    def _double(self, commands: Commands, bodies: list[bytes]) -> None:
        commands.extend([self._command(commands)] * self.random.choice((1, 1, 30)))

    def _drop(self, commands: Commands, bodies: list[bytes]) -> None:
        if commands:
            del commands[self.random.randrange(len(commands))]

    def _body(self, commands: Commands, bodies: list[bytes]) -> None:
        if bodies and self.random.random() < 0.5:
            bodies.pop()
        else:
            bodies.append(self.random.choice((b"", b"z", b"z" * 120_000)))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return b"\x00"
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 3, 10))):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _truncate(self, data: bytes) -> bytes:
        return data[: self.random.randint(0, len(data))]

    def _insert(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + self.random.randbytes(self.random.randint(1, 8)) + data[at:]

    def _head(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + self.random.choice(HEADS) + data[at + 1 :]

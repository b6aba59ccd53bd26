"""majordomo.json, the golden frames of the older Majordomo dialects, as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import attrs

from zmdp_trio._wire.majordomo import DIALECTS, Dialect, Route, messages
from zmdp_trio._wire.majordomo.messages import Message


@attrs.frozen
class Vector:
    """A message, and the frames that it is, on a route of a dialect."""

    name: str
    dialect: Dialect
    route: Route
    frames: list[bytes]
    #: None for what is malformed.
    message: Message | None = None
    #: Whether we say it so ourselves; some forms are only read.
    sent: bool = True

    def __str__(self) -> str:
        return f"{self.dialect.name}-{self.name}"


@attrs.frozen
class First:
    """What a peer sends first, and what is known by it; no dialects if it is refused."""

    name: str
    frames: list[bytes]
    identity: bytes = b""
    dialects: tuple[Dialect, ...] = ()
    worker: bool = False

    def __str__(self) -> str:
        return self.name


def _frame(value: Any) -> bytes:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()


def _message(document: dict[str, dict[str, Any]]) -> Message:
    ((name, fields),) = document.items()
    values: dict[str, Any] = {
        field: _frame(value) for field, value in fields.items() if field not in ("body", "service")
    }
    if "service" in fields:
        values["service"] = fields["service"]
    if "body" in fields:
        values["body"] = [_frame(frame) for frame in fields["body"]]
    made: Message = getattr(messages, name)(**values)
    return made


def _vectors(document: dict[str, list[dict[str, Any]]]) -> list[Vector]:
    return [
        Vector(
            vector["name"],
            DIALECTS[dialect],
            Route(vector["route"]),
            [_frame(frame) for frame in vector["frames"]],
            _message(vector["message"]) if "message" in vector else None,
            vector.get("sent", True),
        )
        for dialect, vectors in document.items()
        for vector in vectors
    ]


def _firsts(document: list[dict[str, Any]]) -> list[First]:
    return [
        First(
            first["name"],
            [_frame(frame) for frame in first["frames"]],
            _frame(first.get("identity", "")),
            tuple(DIALECTS[dialect] for dialect in first.get("dialects", ())),
            first.get("worker", False),
        )
        for first in document
    ]


_DOCUMENT: Final = json.loads((Path(__file__).parent / "majordomo.json").read_text())
VECTORS: Final = _vectors(_DOCUMENT["dialects"])
MALFORMED: Final = _vectors(_DOCUMENT["malformed"])
DETECTION: Final = _firsts(_DOCUMENT["detection"])
REFUSED: Final = _firsts(_DOCUMENT["refused"])

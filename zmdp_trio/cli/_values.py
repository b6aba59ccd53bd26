"""Payloads in, replies out: JSON for people and programs, bytes as they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ._failures import usage

_STDIN = "-"


def read_payload(text: str | None, file: str | None, raw: bool) -> Any:
    """Get the payload: from the argument, from `@FILE` or --file, or from standard input (`-`).

    Returns:
        Bytes if `raw`, else the value that the JSON text stands for; None if nothing was given.

    Raises:
        Failure: not JSON, no such file, two payloads.
    """
    if text is not None and file is not None:
        raise usage("give the payload either as an argument or with --file, not both")
    if text is None and file is None:
        return b"" if raw else None
    source, data = _read(text, file)
    return data if raw else _parse(data, source)


def to_json(value: Any, *, pretty: bool = False) -> bytes:
    """Write any value that a reply can hold as JSON; bytes inside it become base64."""
    try:
        text = msgspec.json.encode(value, enc_hook=repr)
    except (TypeError, ValueError):  # a key that is not a string
        text = msgspec.json.encode(_string_keys(value), enc_hook=repr)
    return msgspec.json.format(text, indent=2) if pretty else text


def as_record(name: str, value: Any) -> dict[str, Any]:
    """Make one line of --json output; `encoding` tells bytes from a string that only looks like base64.

    It is "base64" where the value is bytes, or a list of nothing else, as the frames of a message are.  Where there are
    bytes elsewhere, it is an object: for each of them a JSON Pointer (RFC 6901) into the value, and "base64".
    """
    if not holds_bytes(value):
        return {name: value}
    if _is_bytes(value) or (isinstance(value, list | tuple) and all(map(_is_bytes, value))):
        return {name: value, "encoding": "base64"}
    value = _string_keys(value)
    return {name: value, "encoding": dict.fromkeys(_pointers(value), "base64")}


def holds_bytes(value: Any) -> bool:
    """Tell whether there are bytes within a value, which JSON shows as text."""
    return any(True for _ in _pointers(value))


def size(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _pointers(value: Any, at: str = "") -> Iterator[str]:
    """Yield where there are bytes, as JSON Pointers."""
    if _is_bytes(value):
        yield at
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _pointers(item, f"{at}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _pointers(item, f"{at}/{index}")


def _read(text: str | None, file: str | None) -> tuple[str, bytes]:
    if text == _STDIN:
        file = _STDIN
    elif text is not None and text.startswith("@"):
        file = text[1:]
    if file is None:
        return "the payload", os.fsencode(text or "")
    if file == _STDIN:
        if sys.stdin is None:
            raise usage("can't read the payload from standard input: it is closed")
        return "standard input", sys.stdin.buffer.read()
    try:
        return file, Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise usage(f"can't read the payload from {file!r}: {reason}") from error


def _parse(data: bytes, source: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = data[:40].decode(errors="replace") + ("..." if len(data) > 40 else "")
        hint = """text is written '"text"'; --raw sends bytes as they are"""
        raise usage(f"{source} is not JSON: {shown!r}: {error}", hint) from error


def _string_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _string_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_string_keys(item) for item in value]
    return value

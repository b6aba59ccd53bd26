"""Bodies and errors where dialects meet: whatever comes, they are said otherwise, or refused with a ValueError."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmdp_trio._core import bodies, options
from zmdp_trio._errors import Code
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

T = TypeVar("T")

CONTENT = st.sampled_from([*map(int, c.Content), 99])
SCALARS = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=5) | st.just(msgspec.msgpack.Ext(5, b"x")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS | st.binary(max_size=3), inner, max_size=4),
    max_leaves=10,
)
SAYABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)
BODY = st.binary(max_size=30) | VALUES.map(msgspec.msgpack.encode) | SAYABLE.map(msgspec.json.encode)


def attempt(convert: Callable[..., T], *args: Any) -> T | None:
    try:
        return convert(*args)
    except ValueError:
        return None


@given(CONTENT, BODY)
def test_anything_becomes_json_or_is_refused(content: int, body: bytes) -> None:
    text = attempt(bodies.to_json, content, body)
    if text is not None:
        msgspec.json.Decoder(msgspec.Raw).decode(text)
    part = attempt(bodies.partial_to_json, content, body)
    assert (part is None) is (text is None)
    assert part is None or bytes(part).strip() != b"null"


@given(CONTENT, BODY)
def test_anything_becomes_frames_or_is_refused(content: int, body: bytes) -> None:
    frames = attempt(bodies.to_frames, content, body)
    assert frames is None or len(frames) >= 1
    if content != c.Content.MSGPACK:
        assert frames == (body,)


@given(SAYABLE)
def test_what_json_can_say_stays_what_it_is(value: Any) -> None:
    text = bodies.to_json(c.Content.MSGPACK, msgspec.msgpack.encode(value))
    assert msgspec.json.decode(text) == value
    assert bodies.to_json(*bodies.from_json(text)) == text
    assert bodies.to_json(c.Content.BYTES, text) is text


@given(VALUES)
def test_nothing_is_made_something_else_of(value: Any) -> None:
    """msgspec itself would make text of bytes, and null of what is no number."""
    text = attempt(bodies.to_json, c.Content.MSGPACK, msgspec.msgpack.encode(value))
    if text is not None:
        assert not holds(value, lambda item: isinstance(item, bytes | msgspec.msgpack.Ext))
        assert not holds(value, lambda item: isinstance(item, float) and not math.isfinite(item))


def holds(value: Any, what: Callable[[Any], bool]) -> bool:
    if isinstance(value, dict):
        return any(holds(each, what) for each in (*value, *value.values()))
    return any(holds(each, what) for each in value) if isinstance(value, list) else what(value)


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=5))
def test_frames_come_back_as_they_went(frames: list[bytes]) -> None:
    assert list(bodies.to_frames(*bodies.from_frames(frames))) == frames


@given(CONTENT, st.text(max_size=5), st.text(max_size=5), BODY)
def test_any_error_has_a_form_for_each_dialect(content: int, code: str, message: str, details: bytes) -> None:
    text = bodies.error_to_json(c.Error(1, code, "", message, details))
    value = msgspec.json.decode(text)
    assert (value["code"], value["message"]) == (code, message)
    assert msgspec.json.decode(bodies.error_to_frame(c.Error(1, code, "", message, details))) == {"error": value}
    error = bodies.error_from_json(1, text)
    if code in Code.__members__:
        assert (error.code, error.message) == (code, message)


@given(BODY | VALUES.map(repr).map(str.encode))
def test_any_json_is_an_error(frame: bytes) -> None:
    error = bodies.error_from_json(7, frame)
    assert error.id == 7
    assert error.code in Code.__members__
    if error.details:
        msgspec.msgpack.decode(error.details)


@pytest.mark.parametrize(
    "frame", [memoryview(b" null"), memoryview(b'{"a":1}'), memoryview(b"undefined"), memoryview(b"")]
)
def test_frames_of_a_transport_s_own(frame: memoryview) -> None:
    attempt(bodies.from_json, frame)
    attempt(bodies.partial_to_json, c.Content.JSON, frame)
    bodies.error_from_json(1, frame)
    options.read(frame)
    options.concurrency(frame)


@given(
    BODY
    | st.dictionaries(st.sampled_from(["timeout", "retry", "workerId", "persist", "x"]), VALUES)
    .map(repr)
    .map(str.encode)
)
def test_any_options(frame: bytes) -> None:
    read = options.read(frame)
    assert read.timeout >= 0
    assert 0 <= read.retry <= c.MAX_RETRY
    value = options.concurrency(frame)
    assert value is None or isinstance(value, int)


@given(st.dictionaries(st.sampled_from(["timeout", "retry", "workerId", "persist", "x", "concurrency"]), SAYABLE))
def test_any_options_that_are_json(value: dict[str, Any]) -> None:
    frame = msgspec.json.encode(value)
    read = options.read(frame)
    assert read.headers == ({"opts": frame.decode()} if {"x", "concurrency"} & value.keys() else None)
    options.concurrency(frame)
    fields: dict[str, Any] = {"retry": read.retry, "worker": read.worker, "headers": read.headers}
    request = c.Request(1, "echo", 0, b"", 1, 1, timeout=read.timeout, **fields)
    [_, told], _ = zmdp1.decode(zmdp1.encode(c.Batch(1, 0), [request]))
    assert told == request, "a worker of ours would not take it"


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(-0.5, 0.0), (-1, math.inf), (0, 60.0), (1, 0.001), (1e-300, 0.0)]
)
def test_odd_time_outs(milliseconds: float, seconds: float) -> None:
    assert options.read(b'{"timeout":%b}' % repr(milliseconds).encode()).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", [None, 0.0, 1e-320, 59.9, 1e15, 1e300, math.inf])
def test_what_a_pigato_worker_is_told_of_any_time_out(timeout: float | None) -> None:
    request = c.Request(1, "echo", 0, b"", 1, 1, timeout=timeout)
    told = msgspec.json.decode(options.for_worker(request))["timeout"]
    # 0 would be the default, a minute.
    assert told == (-1 if timeout is None or timeout > 1e9 else max(int(timeout * 1000), 1))

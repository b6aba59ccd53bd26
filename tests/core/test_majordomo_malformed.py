"""Whatever frames come, the older dialects' decoders return, or raise a ProtocolError; and copy nothing large."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fuzzing.frames import attempt, take
from golden import MALFORMED, VECTORS, Vector
from hypothesis import given
from hypothesis import strategies as st

from zmdp_trio._errors import ProtocolError
from zmdp_trio._wire.majordomo import DIALECTS, Dialect, Route, detect, is_worker
from zmdp_trio._wire.majordomo.rows import Row

#: Types of frames: `bytes`, and what stands for a transport's own.  An array equals no bytes, as there.
WRAPS = [bytes, memoryview, partial(array, "B")]
HUGE = bytes(8 * 2**20)

#: What frames are made of, and what is nearly so.
KNOWN = sorted({frame for vector in (*VECTORS, *MALFORMED) for frame in vector.frames})
FRAME = st.sampled_from(KNOWN) | st.binary(max_size=40)
IDENTITY = st.binary(max_size=255) | st.sampled_from([b"C0a1b2c3d-4e5f-4607-8899-aabbccddeeff", b"0a1b2c3d-"])


@pytest.mark.parametrize("vector", [*VECTORS, *MALFORMED], ids=str)
def test_golden_frames_with_a_frame_too_few_or_too_many(vector: Vector) -> None:
    frames = vector.frames
    for i in range(len(frames) + 1):
        take(frames[:i])
        take(frames[i:])
        take([*frames[:i], *frames[i + 1 :]])
        take([*frames[:i], *frames[i : i + 1], *frames[i:]])
        take([*frames[:i], b"", *frames[i:]])


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_golden_frames_with_a_frame_cut_short_or_doubled(vector: Vector) -> None:
    frames = vector.frames
    for i, frame in enumerate(frames):
        for other in (*(frame[:size] for size in range(len(frame))), frame * 2, frame + b"\0", frame.lower()):
            take([*frames[:i], other, *frames[i + 1 :]])


@given(st.lists(FRAME, max_size=10), IDENTITY)
def test_any_frames(frames: list[bytes], identity: bytes) -> None:
    take(frames, identity)


@given(st.sampled_from([vector.frames for vector in VECTORS]), st.sampled_from(WRAPS), st.data())
def test_golden_frames_with_any_frames_among_them(
    frames: list[bytes], wrap: Callable[[bytes], Any], data: st.DataObject
) -> None:
    mixed = list(frames)
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(mixed)))
        mixed[i : i + data.draw(st.integers(0, 2))] = data.draw(st.lists(FRAME, max_size=2))
    understood = take(mixed)
    wrapped = [wrap(frame) for frame in mixed]
    messages = [attempt(dialect.decode, route, wrapped) for dialect in DIALECTS.values() for route in Route]
    found = attempt(detect, b"peer", wrapped)
    assert sum(message is not None for message in messages) + (found is not None) == understood


NAME = st.binary(min_size=1, max_size=255)
BODY = st.binary(max_size=20)
JSON = BODY.filter(lambda frame: frame not in (b"", b"undefined"))
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    "service": st.text(max_size=40),
    "id": NAME,
    "client": NAME,
    "body*": st.lists(BODY, min_size=1, max_size=4),
    "body*?": st.lists(BODY, min_size=1, max_size=4),
    "body": JSON.map(lambda frame: [frame]),
    "error": JSON,
    "options?": JSON | st.just(b""),
}


@pytest.mark.parametrize(
    ("dialect", "row"),
    [
        pytest.param(dialect, row, id=f"{dialect.name}-{n}")
        for dialect in DIALECTS.values()
        for n, row in enumerate(dialect.rows)
    ],
)
def test_whatever_is_said_is_read(dialect: Dialect, row: Row) -> None:
    fields = {str(cell).rstrip("*?"): VALUES[cell] for cell in row.cells if cell in VALUES}

    @given(st.fixed_dictionaries(fields))
    def check(values: dict[str, Any]) -> None:
        message = row.message(**values)
        assert dialect.decode(row.route, dialect.encode(row.route, message)) == message
        assert row.reader()(row.writer()(message)) == message

    check()


@pytest.mark.parametrize("wrap", WRAPS, ids=["bytes", "view", "array"])
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_large_frame_is_never_copied(vector: Vector, wrap: Callable[[bytes], Any]) -> None:
    large = wrap(HUGE)
    tracemalloc.start()
    try:
        for i in range(len(vector.frames)):
            frames = [*vector.frames[:i], large, *vector.frames[i + 1 :]]
            attempt(vector.dialect.decode, vector.route, frames)
            attempt(detect, b"peer", frames)
            attempt(is_worker, frames)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_many_frames_are_not_all_shown() -> None:
    with pytest.raises(ProtocolError, match=r"10000 frames \[.*, \.\.\.\]$"):
        detect(b"peer", [b"x"] * 10_000)

"""The older Majordomo dialects against their golden frames: every message, both ways, and who speaks which."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import msgspec
import pytest
from golden import DETECTION, MALFORMED, REFUSED, VECTORS, First, Vector

from zmdp_trio._errors import ProtocolError
from zmdp_trio._wire.majordomo import DIALECTS, MDP01, MDP02, OMDP, PIGATO, Dialect, Route, detect, is_worker
from zmdp_trio._wire.majordomo import messages as m
from zmdp_trio._wire.majordomo.rows import MAX_NAME, MAX_SERVICE, Row
from zmdp_trio._wire.protocols import PROTOCOLS, dialect_names

SENT = [vector for vector in VECTORS if vector.sent]
EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))


def plain(message: m.Message) -> dict[str, Any]:
    """Return a message's name and fields, all frames as bytes."""
    fields = {
        name: [bytes(each) for each in value] if name == "body" else value if type(value) is str else bytes(value)
        for name, value in msgspec.structs.asdict(message).items()
    }
    return {"": type(message).__name__, **fields}


# ---- what they can say

#: Of a dialect's facts, those that hold.
FACTS = {
    "mdp/0.1": set[str](),
    "mdp/0.2": {"partials"},
    "mdp/0.2+empty": {"partials"},
    "majortomo": {"partials"},
    "omdp": {"numbered", "partials", "failures", "json", "client_beats", "request_beats"},
    "pigato": {
        *("numbered", "partials", "failures", "json", "client_beats", "request_beats"),
        *("concurrent", "acknowledged", "options"),
    },
}


@EVERY_DIALECT
def test_the_rows_tell_what_peers_can_do(dialect: Dialect) -> None:
    facts = attrs.asdict(dialect, filter=lambda field, value: type(value) is bool, recurse=False)
    assert {name for name, holds in facts.items() if holds} == FACTS[dialect.name]
    assert facts.keys() == FACTS["pigato"]


def test_a_protocol_comprises_its_variants() -> None:
    assert dialect_names(["mdp/0.2"]) == {"mdp/0.2", "mdp/0.2+empty"}
    assert dialect_names(PROTOCOLS) == {"zmdp/1", *DIALECTS}
    with pytest.raises(ValueError, match=r"'mdp/0.2\+empty' is no protocol"):
        dialect_names(["mdp/0.2+empty"])


# ---- frames and messages


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_decode(vector: Vector) -> None:
    assert vector.dialect.decode(vector.route, vector.frames) == vector.message


@pytest.mark.parametrize("vector", SENT, ids=str)
def test_encode(vector: Vector) -> None:
    assert vector.message is not None
    assert vector.dialect.encode(vector.route, vector.message) == vector.frames


@pytest.mark.parametrize("wrap", [memoryview, bytearray, partial(array, "B")], ids=["view", "bytearray", "array"])
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_frames_of_other_types_read_the_same(vector: Vector, wrap: Callable[[bytes], Any]) -> None:
    assert vector.message is not None
    message = vector.dialect.decode(vector.route, [wrap(frame) for frame in vector.frames])
    assert plain(message) == plain(vector.message)
    for name in ("id", "client"):  # they are looked up, and kept
        assert type(getattr(message, name, b"")) is bytes


@EVERY_DIALECT
def test_every_row_has_golden_frames_both_ways(dialect: Dialect) -> None:
    read: Counter[Row] = Counter()
    for vector in VECTORS:
        if vector.dialect is dialect:
            rows = [row for row in dialect.rows if row.route is vector.route]
            read[next(row for row in rows if row.reader()(vector.frames) is not None)] += 1
    assert read.keys() == set(dialect.rows)
    for row in dialect.rows:
        assert any(
            vector.dialect is dialect and vector.route is row.route and type(vector.message) is row.message
            for vector in SENT
        )


#: One of each kind.
MESSAGES = [
    m.Ready(),
    *(kind(body=[b"1"]) for kind in (m.Request, m.Partial, m.Final)),
    m.Failure(b"1"),
    m.Reject(),
    m.Heartbeat(),
    m.Disconnect(),
]


@EVERY_DIALECT
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_can_be_said_is_what_has_a_row(dialect: Dialect, message: m.Message) -> None:
    for route in Route:
        has_row = any(row.route is route and row.message is type(message) for row in dialect.rows)
        assert dialect.can_say(route, type(message)) is has_row
        if not has_row:
            with pytest.raises(KeyError):
                dialect.encode(route, message)


def test_there_are_no_other_messages() -> None:
    assert {type(message) for message in MESSAGES} == set(m.Message.__subclasses__())


@EVERY_DIALECT
def test_what_a_dialect_has_is_what_its_rows_say(dialect: Dialect) -> None:
    cells = {cell for row in dialect.rows for cell in row.cells}
    assert dialect.numbered is ("id" in cells)
    assert dialect.json is ("body" in cells)
    assert dialect.json is not bool(cells & {"body*", "body*?"})
    assert dialect.partials is dialect.can_say(Route.BROKER_TO_CLIENT, m.Partial)
    assert dialect.failures is dialect.can_say(Route.BROKER_TO_CLIENT, m.Failure)
    assert dialect.client_beats is dialect.can_say(Route.CLIENT_TO_BROKER, m.Heartbeat)
    assert dialect.acknowledged is dialect.can_say(Route.BROKER_TO_WORKER, m.Ready)
    for message in (m.Partial, m.Failure):
        says = (dialect.can_say(route, message) for route in (Route.BROKER_TO_CLIENT, Route.WORKER_TO_BROKER))
        assert len(set(says)) == 1


@pytest.mark.parametrize("dialect", [each for each in DIALECTS.values() if not each.json], ids=lambda each: each.name)
def test_a_body_without_frames_is_sent_as_one_that_is_empty(dialect: Dialect) -> None:
    for row in dialect.rows:
        if "body" in row.message.__struct_fields__:
            fields = dict.fromkeys(row.names, b"x")
            frames = dialect.encode(row.route, row.message(body=[], service="echo", **fields))
            assert len(frames) == len(row.cells)
            assert frames[-1] == b""


def test_a_body_is_not_copied() -> None:
    body = memoryview(bytes(100_000))
    cases: list[tuple[Dialect, list[Any]]] = [
        (MDP02, [b"MDPC02", b"\x01", b"echo", b"1", body]),
        (OMDP, [b"C", b"2", b"echo", b"id", body, b"{}"]),
    ]
    for dialect, frames in cases:
        request = dialect.decode(Route.CLIENT_TO_BROKER, frames)
        assert isinstance(request, m.Request)
        assert request.body[-1] is body
        final = m.Final(request.body, service="echo", id=b"id")
        assert body in dialect.encode(Route.BROKER_TO_CLIENT, final)


# ---- malformed


@pytest.mark.parametrize("vector", MALFORMED, ids=str)
def test_what_is_malformed_is_refused(vector: Vector) -> None:
    with pytest.raises(ProtocolError):
        vector.dialect.decode(vector.route, vector.frames)


def test_every_dialect_has_malformed_messages_of_clients_and_workers() -> None:
    assert {(vector.dialect.name, vector.route) for vector in MALFORMED} == {
        (name, route) for name in DIALECTS for route in (Route.CLIENT_TO_BROKER, Route.WORKER_TO_BROKER)
    }


@pytest.mark.parametrize(("size", "good"), [(0, False), (1, True), (MAX_NAME, True), (MAX_NAME + 1, False)])
def test_names_have_a_length(size: int, good: bool) -> None:
    name = b"n" * size
    for dialect, route, frames in (
        (MDP01, Route.WORKER_TO_BROKER, [b"", b"MDPW01", b"\x03", name, b"", b"body"]),
        (OMDP, Route.CLIENT_TO_BROKER, [b"C", b"2", b"echo", name, b"1"]),
        (PIGATO, Route.WORKER_TO_BROKER, [b"W", b"3", b"c", b"", name, b"0", b"1"]),
    ):
        if good:
            assert name in msgspec.structs.astuple(dialect.decode(route, frames))
        else:
            with pytest.raises(ProtocolError, match=f"has {size} bytes"):
                dialect.decode(route, frames)


def test_the_name_of_a_service_is_left_to_the_broker_unless_it_is_huge() -> None:
    for size in (0, MAX_SERVICE):
        assert MDP02.decode(Route.WORKER_TO_BROKER, [b"MDPW02", b"\x01", b"s" * size]) == m.Ready("s" * size)
    with pytest.raises(ProtocolError, match="65,537 bytes"):
        MDP02.decode(Route.WORKER_TO_BROKER, [b"MDPW02", b"\x01", b"s" * (MAX_SERVICE + 1)])


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_the_name_of_a_service_is_text(name: bytes) -> None:
    with pytest.raises(ProtocolError, match="no text"):
        MDP02.decode(Route.CLIENT_TO_BROKER, [b"MDPC02", b"\x01", name, b"body"])


# ---- who speaks what


@pytest.mark.parametrize("first", DETECTION, ids=str)
def test_detect(first: First) -> None:
    assert detect(first.identity, first.frames) == first.dialects
    assert is_worker(first.frames) is first.worker


@pytest.mark.parametrize("first", REFUSED, ids=str)
def test_others_are_refused(first: First) -> None:
    with pytest.raises(ProtocolError):
        detect(b"peer", first.frames)
    with pytest.raises(ProtocolError):
        is_worker(first.frames)


def test_why_c_majordomo_is_refused() -> None:
    with pytest.raises(ProtocolError, match="zproto"):
        detect(b"peer", [b"\xaa\xa4\x01\x04echo", b"body"])


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_whatever_a_peer_says_first_is_found_to_be_of_its_dialect_perhaps_among_others(vector: Vector) -> None:
    """From a peer with a name that tells nothing: but for what is told by the name alone."""
    if vector.route not in (Route.CLIENT_TO_BROKER, Route.WORKER_TO_BROKER):
        return
    dialects = detect(b"peer", vector.frames)
    assert is_worker(vector.frames) is (vector.route is Route.WORKER_TO_BROKER)
    if vector.name == "worker-heartbeat-as-the-ruby-worker-sends-it":
        assert dialects == (OMDP,)
    elif vector.dialect.name == "mdp/0.2+empty" and vector.route is Route.WORKER_TO_BROKER:
        (majortomo,) = dialects
        assert majortomo.decode(vector.route, vector.frames) == vector.message
    else:
        assert vector.dialect in dialects

"""ZMDP/1's codec: commands to frames and back, and one kind of error whatever the bytes."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmdp_trio._core.broker import BrokerMachine
from zmdp_trio._errors import ProtocolError
from zmdp_trio._settings import DEFAULTS, Settings
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

BATCH = c.Batch(1, 0)
LIMITS = c.Limits(1, 2, 3)


def message(*commands: Any, bodies: tuple[bytes, ...] = ()) -> list[bytes]:
    """Encode commands as plain lists: also what our own encoder would not."""
    return [zmdp1.MAGIC, msgspec.msgpack.encode([[0, 1, 0], *commands]), *bodies]


def decode(*commands: Any, bodies: tuple[bytes, ...] = ()) -> list[Any]:
    """Return what such a message reads as, without the BATCH."""
    return zmdp1.decode(message(*commands, bodies=bodies))[0][1:]


COMMANDS: list[c.Command] = [
    c.Batch(2**62, 2**62, resend=True),
    c.Hello(1, bytes(16), "anna", b"epoch", LIMITS, 2.5, ["a", "b"], None),
    c.Hello(1, bytes(16), "otto", b"", LIMITS, 2.5, [], [c.Offer("echo", 4), c.Offer("\N{EURO SIGN}", 0)]),
    c.Welcome(1, "broker", b"epoch", True, LIMITS, 0.01, []),
    c.Slots("echo", 2**48),
    c.Request(1, "echo", 1, b"body", 64, 2**20),
    c.Request(1, "echo", 1, b"body", 64, 2**20, 0.5, 60.0, {"a": "b"}, 3, "key", "worker", "peer", b"caller", 2**62),
    c.Request(1, "echo", 1, b"", 0, 0, math.inf, math.inf),
    c.Partial(1, 0, b""),
    c.Partial(1, 2, b"x" * zmdp1.INLINE),
    c.Final(2**62, 0, b"y" * (zmdp1.INLINE + 1)),
    c.Error(1, "INTERNAL", "", "ValueError"),
    c.Error(1, "NOT_FOUND", "service-not-found", "none", b"\xc0"),
    c.Cancel(1),
    c.Credit(1, 0, 2**48),
    c.Credit(1, 0, 0, 0.0),
    c.Reject(1),
    c.Heartbeat(),
    c.Heartbeat([c.Held(1), c.Held(2, 0.5)]),
    c.Drain(),
    c.Drained(),
    c.Goodbye(),
    c.Goodbye("why", refused=True),
    c.Claim(1, "echo", None, 0, 2**48),
    c.Claim(2**62, "echo", 3, 64, 2**20, 0.5, "key"),
    c.Holdings([]),
    c.Holdings([c.Holding(b"caller", 1, "echo"), c.Holding(b"caller", 2, "echo", "key", (1, 2, 2**32 - 1), 0.5)]),
    c.Resume(1, b"caller", 2, None, 0, 2**48),
    c.Resume(2**62, b"caller", 2**62, 3, 64, 2**20, math.inf),
    c.Wanted("echo", 2**48),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_every_command_comes_back_as_it_went(command: c.Command) -> None:
    commands, skipped = zmdp1.decode(zmdp1.encode(BATCH, [command]))
    assert commands == [BATCH, command]
    assert skipped == 0


def test_the_rows_above_leave_no_command_out() -> None:
    assert {type(command) for command in COMMANDS} == set(c.ALL)
    tags = [cls.__struct_config__.tag for cls in c.ALL]
    assert tags == sorted(set(tags))


def test_a_message_of_all_of_them_comes_back_in_order() -> None:
    assert zmdp1.decode(zmdp1.encode(BATCH, COMMANDS))[0] == [BATCH, *COMMANDS]


def test_encoding_changes_nothing() -> None:
    final = c.Final(1, 0, b"y" * (zmdp1.INLINE + 1))
    first = zmdp1.encode(BATCH, [final])
    assert final.body == b"y" * (zmdp1.INLINE + 1)
    assert zmdp1.encode(BATCH, [final]) == first


def test_the_fast_encoder_says_the_same_about_small_bodies() -> None:
    small = [command for command in COMMANDS if not command.carries_body or len(command.body) <= zmdp1.INLINE]
    assert zmdp1.encode_inline(BATCH, small) == zmdp1.encode(BATCH, small)


def test_a_single_command_within_every_limit_fits_into_a_frame() -> None:
    longest = "\N{PILE OF POO}"
    request = c.Request(
        2**62,
        "s" * DEFAULTS.max_service_name,
        2**63,
        b"b" * zmdp1.INLINE,
        2**48,
        2**48,
        0.1,
        0.1,
        {"h": "v" * DEFAULTS.max_headers},
        2**48,
        longest * 255,
        longest * 255,
        longest * 255,
    )
    assert len(zmdp1.encode(BATCH, [request])[1]) < zmdp1.MAX_COMMANDS


# ---- bodies of their own


LARGE = [bytes([n]) * (zmdp1.INLINE + 1) for n in range(3)]


def test_large_bodies_follow_in_the_order_of_their_commands() -> None:
    commands = [c.Partial(1, 0, LARGE[0]), c.Partial(2, 0, b"small"), c.Final(1, 0, LARGE[1]), c.Cancel(3)]
    frames = zmdp1.encode(BATCH, commands)
    assert frames[2:] == LARGE[:2]
    assert frames[2] is LARGE[0], "no copy"
    assert zmdp1.decode(frames)[0][1:] == commands


@pytest.mark.parametrize(
    ("commands", "bodies"),
    [
        pytest.param([[5, 1, 0, None]], (), id="missing"),
        pytest.param([[5, 1, 0, None], [6, 1, 0, None]], (b"a",), id="one missing"),
        pytest.param([[5, 1, 0, b"in"]], (b"a",), id="surplus"),
        pytest.param([[8, 1]], (b"a",), id="nobody's"),
        pytest.param([[5, 1, 0, None]], (b"a", b""), id="one more, and empty"),
        pytest.param([[99, None]], (b"a",), id="an unknown command's"),
    ],
)
def test_bodies_that_do_not_match_their_commands_are_refused(commands: list[Any], bodies: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError, match=r"missing|belong to no command"):
        decode(*commands, bodies=bodies)


def test_a_body_of_any_size_may_come_in_a_frame_of_its_own() -> None:
    assert decode([6, 1, 0, None], bodies=(b"",)) == [c.Final(1, 0, b"")]


# ---- room to grow


@pytest.mark.parametrize("unknown", [[50], [99, {"a": [1]}], [2**64 - 1], [-1, None], [128, b"x" * 1000]])
def test_unknown_commands_are_skipped_and_counted(unknown: list[Any]) -> None:
    frames = message([8, 1], unknown, unknown, [8, 2])
    assert zmdp1.decode(frames) == ([BATCH, c.Cancel(1), c.Cancel(2)], 2)


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: type(command).__name__)
def test_surplus_trailing_fields_are_skipped(command: c.Command) -> None:
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(command))
    defaults = {"Request": 17, "Error": 6, "Credit": 5, "Heartbeat": 2, "Goodbye": 3, "Claim": 8, "Resume": 8}
    kind = type(command).__name__
    full = plain + [None] * 0
    assert len(full) == defaults.get(kind, len(full)), "fields are never left out at the end"
    assert decode([*full, "new", {"nested": [1, 2]}]) == [command]


def test_optional_trailing_fields_may_be_missing() -> None:
    assert decode([4, 1, "echo", 0, b"", 1, 2]) == [c.Request(1, "echo", 0, b"", 1, 2)]
    assert decode([14], [11], [9, 1, 2, 3]) == [c.Goodbye(), c.Heartbeat(), c.Credit(1, 2, 3)]
    assert decode([15, 1, "echo", None, 2, 3]) == [c.Claim(1, "echo", None, 2, 3)]
    assert decode([16, [[b"caller", 1, "echo"]]]) == [c.Holdings([c.Holding(b"caller", 1, "echo")])]
    assert decode([17, 1, b"caller", 2, 3, 4, 5]) == [c.Resume(1, b"caller", 2, 3, 4, 5)]


def test_decoded_heartbeats_do_not_share_their_lists() -> None:
    one, two = decode([11], [11])
    assert one.held is not two.held


# ---- limits


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([8, -1], id="a negative number"),
        pytest.param([8, 2**62 + 1], id="a number above the largest"),
        pytest.param([8, 2**64 - 1], id="the largest of MessagePack"),
        pytest.param([8, 1.0], id="a number that is no integer"),
        pytest.param([8, True], id="a boolean for a number"),
        pytest.param([8, None], id="nil for a number"),
        pytest.param([9, 1, -1, 0], id="negative credit"),
        pytest.param([9, 1, 0, -1], id="negative credit in bytes"),
        pytest.param([9, 1, 0, 2**48 + 1], id="credit without measure"),
        pytest.param([9, 1, 0, 0, -0.5], id="negative time left"),
        pytest.param([9, 1, 0, 0, math.nan], id="NaN for the time left"),
        pytest.param([9, 1, 0, 0, -math.inf], id="minus infinity left"),
        pytest.param([11, [[1, math.nan]]], id="NaN in a heartbeat"),
        pytest.param([11, [[1, -1]]], id="negative time in a heartbeat"),
        pytest.param([4, 1, "s", 0, b"", 0, 0, math.nan], id="NaN in a request"),
        pytest.param([4, 1, "s", 0, b"", 0, 0, None, math.nan], id="NaN for a time-out"),
        pytest.param([4, 1, "s", 0, b"", 0, 0, None, None, {"a": 1}], id="a header that is no string"),
        pytest.param([4, 1, "s", 0, b"", 0, 0, None, None, None, -1], id="negative retries"),
        pytest.param([4, 1, b"s", 0, b"", 0, 0], id="bytes for a name"),
        pytest.param([4, 1, "s", 0, "text", 0, 0], id="text for a body"),
        pytest.param([3, "s", -1], id="negative slots"),
        pytest.param([3, "s", 2**48 + 1], id="slots without measure"),
        pytest.param([15, 1, "s", -1, 0, 0], id="a negative number of replies received"),
        pytest.param([15, 1, "s", 0, 0, 2**48 + 1], id="credit without measure in a claim"),
        pytest.param([15, 1, "s", 0, 0, 0, math.nan], id="NaN in a claim"),
        pytest.param([16, None], id="nil for a list"),
        pytest.param([16, [["caller", 1, "s"]]], id="text for a caller"),
        pytest.param([16, [[b"caller", 1, "s", "k", [1, 2]]]], id="a payload's mark that is too short"),
        pytest.param([16, [[b"caller", 1, "s", None, None, -1.0]]], id="an end in the future"),
        pytest.param([17, 1, b"caller", -1, 0, 0, 0], id="a negative id of a caller's"),
        pytest.param([17, 1, b"caller", 1, 0, -1, 0], id="negative credit for what goes on"),
        pytest.param([5, 1, 0], id="a field that is missing"),
        pytest.param([], id="no tag"),
        pytest.param(["8", 1], id="a tag that is no number"),
        pytest.param({"id": 1}, id="a map"),
        pytest.param(8, id="no array"),
        pytest.param([1, 1, bytes(16), "n", b"", [1, 1, -1], 1.0, [], None], id="a negative limit"),
        pytest.param([1, 1, bytes(16), "n", b"", [1, 1, 1], math.nan, [], None], id="NaN for an interval"),
    ],
)
def test_values_out_of_range_are_refused(command: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(command)
    with pytest.raises(ProtocolError):
        decode([99], command)


def test_the_batch_too_has_its_limits() -> None:
    for bad in ([0, -1, 0], [0, 1, 2**62 + 1], [0, 1], [0, 1, 0, 1], [8, 1], [99]):
        with pytest.raises(ProtocolError):
            zmdp1.decode([zmdp1.MAGIC, msgspec.msgpack.encode([bad])])


@pytest.mark.parametrize("left", [0, 0.0, -0.0, 1e308, math.inf, 5])
def test_a_time_left_that_is_read_can_be_added_to_any_time(left: float) -> None:
    [credit] = decode([9, 1, 0, 0, left])
    for now in (0.0, 1e18, math.inf):
        assert now + credit.left >= now


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xca\x7f\xc0\x00\x00", id="a float32 NaN"),
        pytest.param(b"\xcb" + struct.pack(">Q", 0xFFF8000000000001), id="a float64 NaN with a payload"),
        pytest.param(b"\xcb" + struct.pack(">Q", 0x7FF0000000000001), id="a signalling NaN"),
    ],
)
def test_no_nan_gets_through(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        zmdp1.decode([zmdp1.MAGIC, b"\x92\x93\x00\x01\x00\x95\x09\x01\x00\x00" + data])


@pytest.mark.parametrize(
    "text", [b"\xa3\xed\xa0\x80", b"\xa1\xff", b"\xa2\xc0\xaf"], ids=["surrogate", "not UTF-8", "overlong"]
)
def test_text_that_could_not_be_sent_on_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        zmdp1.decode([zmdp1.MAGIC, b"\x92\x93\x00\x01\x00\x93\x03" + text + b"\x01"])


def test_a_command_frame_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="above"):
        zmdp1.decode([zmdp1.MAGIC, bytes(zmdp1.MAX_COMMANDS + 1)])


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [zmdp1.MAGIC],
        [b"ZMDP\x02", message()[1]],
        [b"zmdp\x01", message()[1]],
        [b"MDPC02", b"\x01", b"echo"],
        [zmdp1.MAGIC, b""],
        [zmdp1.MAGIC, b"\xc1"],
        [zmdp1.MAGIC, b"\x90"],
        [zmdp1.MAGIC, b"\xc0"],
        [zmdp1.MAGIC, message()[1] + b"\x00"],
        [zmdp1.MAGIC, b"\xdd\xff\xff\xff\xff"],
        [zmdp1.MAGIC, b"\xdf\xff\xff\xff\xff"],
        [zmdp1.MAGIC, b"\xc6\xff\xff\xff\xff"],
        [zmdp1.MAGIC, b"\x91" * 100_000],
        [zmdp1.MAGIC, b"\x81" * 100_000],
        [zmdp1.MAGIC, b"\x92\x93\x00\x01\x00\x92\x63" + b"\x91" * 100_000 + b"\x00"],
        [zmdp1.MAGIC, b"\x92\x93\x00\x01\x00\x92\x63" + b"\x81\x01" * 100_000],
        [zmdp1.MAGIC, b"\x92\x93\x00\x01\x00\x92" + b"\x91" * 100_000],
    ],
    ids=lambda frames: repr(frames)[:40],
)
def test_what_is_no_message_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        zmdp1.decode(frames)


# ---- any bytes at all


SEED = [bytes(frame) for frame in zmdp1.encode(BATCH, COMMANDS)]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=10),
    lambda values: (
        st.lists(values, max_size=6) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), values, max_size=3)
    ),
    max_leaves=25,
)
PLAIN = st.tuples(st.integers(-1, 16), st.lists(ANYTHING, max_size=14)).map(lambda pair: [pair[0], *pair[1]])


def only_a_protocol_error(frames: list[bytes]) -> None:
    try:
        commands, skipped = zmdp1.decode(frames)
    except ProtocolError:
        return
    assert type(commands[0]) is c.Batch
    assert all(type(command) in c.ALL for command in commands)
    assert skipped >= 0
    zmdp1.decode(zmdp1.encode(commands[0], commands[1:]))  # what is read can be sent on


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_frames_raise_a_protocol_error_or_nothing(frames: list[bytes]) -> None:
    only_a_protocol_error(frames)
    only_a_protocol_error([zmdp1.MAGIC, *frames])


@given(st.binary(max_size=300))
def test_any_commands_frame_raises_a_protocol_error_or_nothing(data: bytes) -> None:
    only_a_protocol_error([zmdp1.MAGIC, data])
    only_a_protocol_error([zmdp1.MAGIC, b"\x92\x93\x00\x01\x00" + data])


@given(st.lists(PLAIN | ANYTHING, max_size=4), st.lists(st.binary(max_size=9), max_size=2))
def test_any_values_raise_a_protocol_error_or_nothing(commands: list[Any], bodies: list[bytes]) -> None:
    only_a_protocol_error(message(*commands, bodies=tuple(bodies)))


@given(st.integers(0, len(SEED[1])), st.integers(0, len(SEED)))
def test_truncated_messages_raise_a_protocol_error(length: int, count: int) -> None:
    frames = [SEED[0], SEED[1][:length], *SEED[2:]]
    only_a_protocol_error(frames[:count])
    if length < len(SEED[1]):
        with pytest.raises(ProtocolError):
            zmdp1.decode(frames)


@given(st.lists(st.tuples(st.integers(0, len(SEED[1]) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_messages_raise_a_protocol_error_or_nothing(damage: list[tuple[int, int]]) -> None:
    data = bytearray(SEED[1])
    for position, value in damage:
        data[position] = value
    only_a_protocol_error([SEED[0], bytes(data), *SEED[2:]])


@given(st.lists(PLAIN, max_size=4), st.booleans())
def test_a_broker_survives_any_message(commands: list[Any], greeted: bool) -> None:
    broker = BrokerMachine(name="broker", epoch=b"e", settings=Settings())
    greeting = c.Hello(1, bytes(16), "peer", b"", LIMITS, 2.5, [], [c.Offer("echo", 1)])
    if greeted:
        broker.receive(b"peer", zmdp1.encode(c.Batch(0, 0), [greeting]), now=0.0)
    broker.receive(b"peer", message(*commands), now=0.0)
    broker.receive(b"peer", [zmdp1.MAGIC, *[msgspec.msgpack.encode(command) for command in commands]], now=0.0)
    broker.lost(b"peer", now=1.0)
    while broker.deadline < 1e6:
        broker.handle_timer(now=broker.deadline)
    assert broker.sessions() == broker.services() == []


def test_the_limits_that_are_announced_are_the_settings() -> None:
    assert c.Limits.of(DEFAULTS) == c.Limits(DEFAULTS.max_message, DEFAULTS.max_headers, DEFAULTS.max_service_name)

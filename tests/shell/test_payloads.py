"""What goes in comes out, or is refused with a clear error before anything is sent."""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pytest
import trio
from cluster import Cluster, echo, open_cluster, read_into

from zmdp_trio import (
    Code,
    Final,
    InvalidArgument,
    MessageTooLarge,
    Request,
    RequestError,
    ServiceNotFound,
    open_broker,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._payload import Opaque

NOW = datetime.datetime(2026, 2, 28, 12, 30, 59, 123456, tzinfo=datetime.UTC)


@service("stream")
async def stream(payload: Any) -> AsyncIterator[Any]:
    """The payload as a chunk, and as the final reply."""
    yield payload
    yield Final(payload)


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for i in range(depth):
        value = [value] if i % 2 else {"k": value}
    return value


SAME = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    1.5,
    float("inf"),
    float("-inf"),
    5e-324,
    b"",
    b"\0",
    b"\xff" * 9_000,
    bytes(2**20),
    "",
    "a",
    "Zürich 🚋",
    "\0",
    [],
    {},
    [None, [], {}, "", b""],
    {"a": {"b": [1, 2.5, None, True, b"raw", {"c": "d"}]}},
    {1: "int key", "s": b"\0\1"},
    nested(100),
    list(range(10_000)),
]


@pytest.mark.parametrize("value", SAME, ids=lambda value: repr(value)[:30])
async def test_a_value_comes_back_the_same(value: Any, autojump_clock: Any) -> None:
    async with open_cluster(echo, stream) as cluster:
        reply = await cluster.client.request("echo", value)
        assert reply == value
        assert type(reply) is type(value)
        async with cluster.client.stream("stream", value) as replies:
            assert [chunk async for chunk in replies] == [value]
            assert replies.final == value


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Point:
    x: int
    y: int


CHANGED = [
    (bytearray(b"abc"), b"abc"),
    (memoryview(b"abc"), b"abc"),
    (memoryview(b"a-b-c-")[::2], b"abc"),
    ((1, 2), [1, 2]),
    ({3}, [3]),
    (Colour.RED, "red"),
    (Point(1, 2), {"x": 1, "y": 2}),
    (uuid.UUID(int=5), str(uuid.UUID(int=5))),
    (decimal.Decimal("1.50"), "1.50"),
    (NOW, msgspec.msgpack.decode(msgspec.msgpack.encode(NOW))),
]


@pytest.mark.parametrize(("value", "arrives"), CHANGED, ids=repr)
async def test_a_value_without_a_form_of_its_own_comes_back_as_its_nearest(
    value: Any, arrives: Any, cluster: Cluster, autojump_clock: Any
) -> None:
    reply = await cluster.client.request("echo", value)
    assert reply == arrives
    assert type(reply) is type(arrives)


async def test_bytes_like_values_arrive_as_bytes_wherever_they_are_sent(autojump_clock: Any) -> None:
    seen = []

    @service("bytes")
    async def raw(payload: Any, request: Request) -> AsyncIterator[Any]:
        seen.append(type(payload))
        yield bytearray(b"chunk")
        await request.send(memoryview(b"sent"))
        yield Final(memoryview(b"final"))

    async with open_cluster(raw) as cluster:
        async with cluster.client.stream("bytes", memoryview(b"in")) as replies:
            assert [chunk async for chunk in replies] == [b"chunk", b"sent"]
            assert replies.final == b"final"
        assert seen == [bytes]


async def test_a_chunk_that_is_changed_after_it_was_yielded_is_sent_as_it_was(autojump_clock: Any) -> None:
    @service("reuse")
    async def reuse() -> AsyncIterator[Any]:
        buffer = bytearray(4)
        for i in range(100):
            buffer[:] = i.to_bytes(4, "big")
            yield buffer

    async with open_cluster(reuse) as cluster:
        chunks = [int.from_bytes(chunk, "big") async for chunk in cluster.client.stream("reuse")]
        assert chunks == list(range(100))


async def test_a_payload_is_taken_when_the_call_is_made(cluster: Cluster, autojump_clock: Any) -> None:
    value = [1]
    replies = cluster.client.stream("echo", value)
    value.append(2)
    async with replies:
        assert [chunk async for chunk in replies] == []
    assert replies.final == [1]


async def test_ten_megabytes_come_back_identical(autojump_clock: Any) -> None:
    data = bytes(range(256)) * 40_960
    async with open_cluster(echo, stream) as cluster:
        assert await cluster.client.request("echo", data) == data
        assert await cluster.client.request("echo", {"in": [data]}) == {"in": [data]}
        async with cluster.client.stream("stream", data) as replies:
            assert [chunk async for chunk in replies] == [data]


# ---- what can't be encoded


def recursive() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


UNENCODABLE: list[Callable[[], Any]] = [
    object,
    lambda: {"in": [object()]},
    lambda: 2**64,
    lambda: -(2**63) - 1,
    lambda: "\ud800",
    lambda: lambda: None,
    lambda: 1j,
    recursive,
    lambda: {object(): 1},
]


@pytest.mark.parametrize("make", UNENCODABLE)
async def test_what_cannot_be_encoded_is_refused_before_anything_is_sent(
    make: Callable[[], Any], cluster: Cluster, autojump_clock: Any
) -> None:
    with pytest.raises(InvalidArgument, match="encoded") as info:
        await cluster.client.request("echo", make())
    assert info.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(InvalidArgument):
        cluster.client.stream("echo", make())
    assert cluster.client.statistics().started == 0


@pytest.mark.parametrize("make", UNENCODABLE)
async def test_a_final_reply_that_cannot_be_encoded_is_internal_and_logged(
    make: Callable[[], Any], autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @service("odd")
    async def odd() -> Any:
        return make()

    @service("odd chunk")
    async def odd_chunk() -> AsyncIterator[Any]:
        yield 1
        yield make()

    async with open_cluster(odd, odd_chunk) as cluster:
        with pytest.raises(RequestError) as info:
            await cluster.client.request("odd")
        assert info.value.code is Code.INTERNAL
        assert "encoded" in caplog.text
        caplog.clear()
        got: list[Any] = []
        with pytest.raises(RequestError) as info:
            await read_into(got, cluster.client.stream("odd chunk"))
        assert info.value.code is Code.INTERNAL
        assert got == [1]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "encoded" in caplog.text


# ---- annotations


class Order(msgspec.Struct):
    item: str
    amount: Annotated[int, msgspec.Meta(gt=0)] = 1


ANNOTATIONS: list[tuple[Any, list[Any], list[Any]]] = [
    (int, [0, 2**63], ["1", None, 1.5, b"1", [1]]),
    (float, [1, 1.5], ["1.5", None]),
    (str, ["", "x"], [1, b"x", None]),
    (bytes, [b"", b"x"], [None, 5, {}]),
    (bool, [True], [1, "true"]),
    (None, [None], [0, "", b""]),
    (list[int], [[], [1, 2]], [["a"], {"a": 1}, 1, b""]),
    (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, [1]]),
    (int | None, [None, 1], ["x"]),
    (Literal["a", "b"], ["a"], ["c"]),
    (datetime.datetime, [NOW], ["yesterday", 5.5j.real]),
    (Order, [{"item": "x"}, {"item": "x", "amount": 3}], [{"item": "x", "amount": 0}, {}, [], b"{}", None]),
    (Point, [{"x": 1, "y": 2}], [{"x": 1}, {"x": "a", "y": 2}]),
    (Colour, ["red"], ["blue", None]),
    (Any, [None, b"", object, 1, [1]], []),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), ANNOTATIONS, ids=lambda value: repr(value)[:30])
async def test_an_annotated_payload_is_validated_before_the_handler_runs(
    annotation: Any, good: list[Any], bad: list[Any], autojump_clock: Any
) -> None:
    ran = []

    async def typed(payload):  # type: ignore[no-untyped-def]
        ran.append(payload)

    typed.__annotations__["payload"] = annotation
    async with open_cluster(service("typed", typed)) as cluster:
        for value in bad:
            with pytest.raises(InvalidArgument):
                await cluster.client.request("typed", value)
        assert ran == []
        good = [value for value in good if value is not object]
        for value in good:
            await cluster.client.request("typed", value)
        assert len(ran) == len(good)


async def test_validation_makes_the_annotated_type(autojump_clock: Any) -> None:
    @service("order")
    async def order(order: Order) -> Any:
        assert isinstance(order, Order)
        return [order.item, order.amount]

    async with open_cluster(order) as cluster:
        assert await cluster.client.request("order", Order("x", 5)) == ["x", 5]
        with pytest.raises(InvalidArgument, match=r"amount"):
            await cluster.client.request("order", {"item": "x", "amount": -1})


# ---- bytes of peers that do not say what they are


@pytest.mark.parametrize(
    ("annotation", "body", "expected"),
    [
        (None, b"", None),
        (Any, b'{"item": "x"}', b'{"item": "x"}'),
        (bytes, b"[1]", b"[1]"),
        (bytes | None, b"null", b"null"),
        (Annotated[bytes, msgspec.Meta(title="a file")], b"1", b"1"),
        (dict[str, Any], b'{"item": "x"}', {"item": "x"}),
        (Order, b'{"item": "x"}', Order("x")),
        (Order | None, b"", None),
        (int, b"5", 5),
    ],
    ids=repr,
)
async def test_opaque_bytes_are_read_as_the_annotation_says(
    annotation: Any, body: bytes, expected: Any, autojump_clock: Any
) -> None:
    got = []

    async def typed(payload):  # type: ignore[no-untyped-def]
        got.append(payload)
        return payload

    typed.__annotations__["payload"] = annotation
    async with open_cluster(service("typed", typed)) as cluster:
        await cluster.client.request("typed", Opaque(body))
    assert got == [expected]


@pytest.mark.parametrize("body", [b"", b"{", b'{"item": 1}', b"\xff"])
async def test_opaque_bytes_that_do_not_fit_are_refused(body: bytes, autojump_clock: Any) -> None:
    @service("order")
    async def order(order: Order) -> Any:
        raise AssertionError(order)

    async with open_cluster(order) as cluster:
        with pytest.raises(InvalidArgument):
            await cluster.client.request("order", Opaque(body))


async def test_no_opaque_bytes_are_no_payload(autojump_clock: Any) -> None:
    @service("now")
    async def now() -> Any:
        return "now"

    async with open_cluster(now) as cluster:
        assert await cluster.client.request("now", Opaque(b"")) == "now"
        with pytest.raises(InvalidArgument):
            await cluster.client.request("now", Opaque(b"1"))


# ---- limits


@pytest.mark.parametrize("name", ["ü", "服务", "a b\n", "x" * 255, "é" * 127])
async def test_any_name_of_255_bytes_or_less_is_one(name: str, autojump_clock: Any) -> None:
    @service(name)
    async def handler(request: Request) -> str:
        return request.service

    async with open_cluster(handler) as cluster:
        assert await cluster.client.request(name) == name


@pytest.mark.parametrize("name", ["", "x" * 256, "x" * 10_000, "é" * 128])
async def test_a_name_that_is_empty_or_too_long_is_refused_at_once(
    name: str, cluster: Cluster, autojump_clock: Any
) -> None:
    start = trio.current_time()
    with pytest.raises(InvalidArgument) as info:
        await cluster.client.request(name)
    assert len(str(info.value)) < 500
    with pytest.raises(InvalidArgument):
        async for _ in cluster.client.stream(name):
            pass
    assert trio.current_time() == start
    assert cluster.client.statistics().started == 0


@pytest.mark.parametrize("name", ["x" * 256, "x" * 10_000])
async def test_a_service_whose_name_is_too_long_is_a_clear_error(name: str, autojump_clock: Any) -> None:
    handler = service(name, echo.function)
    with pytest.raises(ValueError, match="name"):
        async with open_worker([handler], "memory://b"):
            pass


async def test_a_name_that_is_not_a_string_is_refused(cluster: Cluster, autojump_clock: Any) -> None:
    for name in (None, b"echo", 5, echo):
        with pytest.raises(InvalidArgument):
            await cluster.client.request(name)  # type: ignore[arg-type]


async def test_a_name_that_is_no_unicode_is_refused(cluster: Cluster, autojump_clock: Any) -> None:
    with pytest.raises(InvalidArgument):
        await cluster.client.request("\ud800")
    with pytest.raises(InvalidArgument):
        await cluster.client.request("echo", headers={"a": "\ud800"})
    with pytest.raises(InvalidArgument):
        await cluster.client.request("echo", worker="\ud800")
    assert await cluster.client.request("echo", 1) == 1


async def test_an_unknown_name_of_any_kind_is_not_found(cluster: Cluster, autojump_clock: Any) -> None:
    for name in ("ü", " ", "x" * 255):
        with pytest.raises(ServiceNotFound):
            await cluster.client.request(name)
    assert set(cluster.broker.statistics().services) == {"echo", "count"}


LIMIT = 2**20


async def test_a_payload_above_the_limit_is_refused_at_the_caller(autojump_clock: Any) -> None:
    async with open_cluster(echo, max_message=LIMIT) as cluster:
        assert len(await cluster.client.request("echo", bytes(LIMIT))) == LIMIT
        started = cluster.client.statistics().started
        for value in (bytes(LIMIT + 1), "x" * LIMIT, bytes(3 * LIMIT)):
            with pytest.raises(MessageTooLarge) as info:
                await cluster.client.request("echo", value)
            assert info.value.code is Code.INVALID_ARGUMENT
        assert cluster.client.statistics().started == started
        assert await cluster.client.request("echo", 1) == 1


async def test_the_brokers_limit_counts_where_it_is_lower(autojump_clock: Any) -> None:
    async with (
        open_broker("memory://b", max_message=LIMIT) as broker,
        open_worker([echo], *broker.endpoints) as worker,
        open_client(*broker.endpoints) as client,
    ):
        await worker.wait_welcomed()
        assert await client.request("echo", 1) == 1
        with pytest.raises(MessageTooLarge):
            await client.request("echo", bytes(LIMIT + 1))
        async with open_client(*broker.endpoints) as second:  # it has no connection yet
            with pytest.raises(MessageTooLarge):
                await second.request("echo", bytes(LIMIT + 1))
            assert second.statistics().waiting == second.statistics().timers == 0


async def test_replies_above_the_limit_fail_alone(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    @service("final")
    async def final(n: int) -> bytes:
        return bytes(n)

    @service("chunk")
    async def chunk(n: int) -> AsyncIterator[bytes]:
        yield bytes(n)

    async with open_cluster(final, chunk, max_message=LIMIT) as cluster:
        for name in ("final", "chunk"):
            await cluster.client.request(name, LIMIT)
            with pytest.raises(RequestError) as info:
                await cluster.client.request(name, LIMIT + 1)
            assert info.value.code is Code.INTERNAL
        assert cluster.worker.statistics().protocol_errors == 0
        await cluster.client.request("final", 1)
    assert "MessageTooLarge" in caplog.text or "the limit is" in caplog.text


async def test_headers_arrive_and_have_a_limit(autojump_clock: Any) -> None:
    @service("headers")
    async def headers(request: Request) -> Any:
        return dict(request.headers)

    async with open_cluster(headers) as cluster:
        request = cluster.client.request
        assert await request("headers") == {}
        assert await request("headers", headers={}) == {}
        for good in ({"a": "b", "ü": "", "": "x"}, {"k": "x" * (16 * 1024 - 1)}):
            assert await request("headers", headers=good) == good
        for bad in ({"k": "x" * (16 * 1024)}, {str(i): "x" * 10 for i in range(2_000)}, {"k": "ü" * 16_000}):
            with pytest.raises(MessageTooLarge):
                await request("headers", headers=bad)
        for bad in ({"a": 1}, {1: "a"}, {"a": None}, {b"a": b"b"}):
            with pytest.raises(InvalidArgument):
                await request("headers", headers=bad)
        assert await request("headers", headers={"still": "works"}) == {"still": "works"}


BAD_OPTIONS: list[dict[str, Any]] = [
    {"timeout": -2},
    {"timeout": "1"},
    {"timeout": float("nan")},
    {"retry": -1},
    {"retry": 1.5},
    {"retry": 2**60},
    {"deadline": float("nan")},
    {"deadline": "soon"},
    {"worker": 5},
    {"key": 5},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=repr)
async def test_an_option_that_makes_no_sense_is_refused_at_the_caller(
    options: dict[str, Any], cluster: Cluster, autojump_clock: Any
) -> None:
    with pytest.raises(InvalidArgument):
        await cluster.client.request("echo", 1, **options)
    assert cluster.client.statistics().started == 0
    assert await cluster.client.request("echo", 1) == 1

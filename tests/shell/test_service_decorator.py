"""`@service`: what it takes, what it refuses, and that what it makes is still the function."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from cluster import open_cluster

from zmdp_trio import Final, Request, Service, SyncRequest, service


async def test_a_service_is_called_like_its_function() -> None:
    @service("coroutine")
    async def coroutine(n: int) -> int:
        """Add one."""
        return n + 1

    @service("async generator")
    async def async_generator(n: int) -> AsyncIterator[Any]:
        yield n
        yield Final(n + 1)

    @service("function")
    def function(n: int, scale: int = 2) -> int:
        return n * scale

    @service("generator")
    def generator(n: int) -> Iterator[int]:
        yield from range(n)

    assert await coroutine(1) == 2
    assert [x async for x in async_generator(1)] == [1, Final(2)]
    assert function(3) == 6
    assert function(3, scale=3) == 9
    assert list(generator(3)) == [0, 1, 2]
    assert (coroutine.__name__, coroutine.__doc__) == ("coroutine", "Add one.")
    assert inspect.signature(function) == inspect.signature(function.function)
    assert "coroutine" in repr(coroutine)


def test_service_works_without_the_decorators_syntax() -> None:
    async def handler(payload: Any) -> Any:
        return payload

    made = service("name", handler, concurrency=3, expose_errors=True)
    assert isinstance(made, Service)
    assert (made.name, made.concurrency, made.expose_errors) == ("name", 3, True)
    assert made.function is handler


async def no_payload() -> Any:
    return "none"


async def only_payload(p: Any) -> Any:
    return p


async def only_request(r: Request) -> Any:
    return r.service


async def payload_then_request(p: Any, r: Request) -> Any:
    return p, r.service


async def request_then_payload(r: Request, p: Any) -> Any:
    return p, r.service


async def keyword_only_payload(*, p: Any) -> Any:
    return p


async def keyword_only_request(p: Any, *, r: Request) -> Any:
    return p, r.service


async def keyword_only_both(*, r: Request, p: Any) -> Any:
    return p, r.service


async def positional_only(r: Request, p: Any, /) -> Any:
    return p, r.service


async def positional_only_payload(p: Any, /, r: Request) -> Any:
    return p, r.service


async def positional_only_alone(p: Any, /) -> Any:
    return p


async def with_defaults(p: Any, scale: int = 3, *, more: str = "x") -> Any:
    return [p, scale, more]


async def request_between(p: Any, r: Request, scale: int = 3) -> Any:
    return p, r.service, scale


SIGNATURES: list[tuple[Callable[..., Any], Any, Any]] = [
    (no_payload, None, "none"),
    (only_payload, 5, 5),
    (only_request, None, "name"),
    (payload_then_request, 5, [5, "name"]),
    (request_then_payload, 5, [5, "name"]),
    (keyword_only_payload, 5, 5),
    (keyword_only_request, 5, [5, "name"]),
    (keyword_only_both, 5, [5, "name"]),
    (positional_only, 5, [5, "name"]),
    (positional_only_payload, 5, [5, "name"]),
    (positional_only_alone, 5, 5),
    (with_defaults, 5, [5, 3, "x"]),
    (request_between, 5, [5, "name", 3]),
]


@pytest.mark.parametrize(("function", "payload", "reply"), SIGNATURES)
async def test_payload_and_request_may_stand_anywhere(
    function: Callable[..., Any], payload: Any, reply: Any, autojump_clock: Any
) -> None:
    async with open_cluster(service("name", function)) as cluster:
        assert await cluster.client.request("name", payload) == reply


async def test_annotations_may_name_what_is_local_to_a_function(autojump_clock: Any) -> None:
    import msgspec

    class Local(msgspec.Struct):
        n: int

    @service("local")
    async def local(p: Local, r: Request) -> Any:
        return [type(p).__name__, p.n, r.service]

    async with open_cluster(local) as cluster:
        assert await cluster.client.request("local", {"n": 5}) == ["Local", 5, "local"]


async def test_methods_can_be_services(autojump_clock: Any) -> None:
    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        async def add(self, payload: int, request: Request) -> Any:
            return self.n + payload, request.service

    async with open_cluster(service("add", Adder(3).add)) as cluster:
        assert await cluster.client.request("add", 4) == [7, "add"]


def two_payloads(a: int, b: int) -> None: ...
def var_positional(*args: Any) -> None: ...
def var_keyword(p: Any, **kwargs: Any) -> None: ...
def two_requests(a: Request, b: Request) -> None: ...
def request_without_annotation(payload, request): ...  # type: ignore[no-untyped-def]
def unknown_name(p: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def required_keyword(p: Any, *, more: int) -> None: ...
def two_unions(p: dict[str, int] | list[set[object]] | dict[int, int]) -> None: ...


REFUSED = [
    (two_payloads, "second payload"),
    (var_positional, "args"),
    (var_keyword, "kwargs"),
    (two_requests, "two parameters"),
    (request_without_annotation, "request: Request"),
    (unknown_name, "Nowhere"),
    (required_keyword, "more"),
    (two_unions, "validated"),
]


@pytest.mark.parametrize(("function", "why"), REFUSED)
def test_a_signature_that_cannot_be_served_is_refused_when_decorated(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(TypeError, match=why) as info:
        service("name", function)
    assert "'name'" in str(info.value)


@pytest.mark.parametrize("name", ["", None, 5, b"bytes"])
def test_a_name_is_a_string_of_at_least_one_character(name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        service(name, no_payload)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "3"])
def test_a_concurrency_is_a_positive_number(concurrency: Any) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        service("name", no_payload, concurrency=concurrency)


@pytest.mark.parametrize("thing", [5, "text", [no_payload]])
def test_only_functions_are_services(thing: Any) -> None:
    with pytest.raises(TypeError, match="function"):
        service("name", thing)


async def test_a_sync_handlers_request_is_a_sync_one_however_it_is_annotated() -> None:
    @service("one")
    def one(request: Request) -> str:
        return type(request).__name__

    @service("two")
    def two(request: SyncRequest) -> str:
        return type(request).__name__

    async with open_cluster(one, two, heartbeat=0.05) as cluster:
        assert await cluster.client.request("one") == "SyncRequest"
        assert await cluster.client.request("two") == "SyncRequest"


async def test_a_request_annotated_as_optional_is_the_context_too(autojump_clock: Any) -> None:
    @service("optional")
    async def optional(payload: Any, request: Request | None = None) -> Any:
        return request is not None

    async with open_cluster(optional) as cluster:
        assert await cluster.client.request("optional", 1) is True
    assert await optional(1) is False


async def test_handlers_are_cancelled_independently(autojump_clock: Any) -> None:
    @service("sleeper")
    async def sleeper(n: float) -> float:
        await trio.sleep(n)
        return n

    async with open_cluster(sleeper) as cluster, trio.open_nursery() as nursery:
        nursery.start_soon(cluster.client.request, "sleeper", 5)
        with trio.move_on_after(1):
            await cluster.client.request("sleeper", 5)

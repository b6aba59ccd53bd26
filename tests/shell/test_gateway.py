"""Plain REQ clients call a service through a gateway: what they get, in which order, and what becomes of who leaves."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Unpack

import msgspec
import pytest
import trio
import trio.testing
from cluster import Cluster, Probe, echo, open_cluster, until
from raw import connect, req

from zmdp_trio import (
    Code,
    EndpointError,
    Final,
    Gateway,
    GatewayStatistics,
    Request,
    Service,
    ServiceError,
    open_gateway,
    serve_gateway,
    service,
    testing,
)
from zmdp_trio._settings import Overrides


@asynccontextmanager
async def gateway_to(
    offered: Service[..., Any], cluster_settings: Overrides | None = None, **overrides: Unpack[Overrides]
) -> AsyncIterator[tuple[Gateway, Cluster]]:
    """Run a gateway to a service; whatever happens, its books are to balance, and nothing is left in the end."""
    async with open_cluster(offered, **(cluster_settings or {})) as cluster:
        async with open_gateway("memory://*", service=offered.name, brokers=cluster.endpoints, **overrides) as gateway:
            yield gateway, cluster
            await until(lambda: gateway.statistics().clients == 0, within=3600)
        balance(gateway.statistics())
        assert gateway.statistics().memory == 0
        assert gateway._machine.asked == 0


@service("sleep")
async def sleep(seconds: int) -> int:
    await trio.sleep(seconds)
    return seconds


@service("a second later")
async def a_second_later(payload: bytes) -> bytes:
    await trio.sleep(1)
    return payload


def balance(numbers: GatewayStatistics) -> None:
    ended = numbers.refused + numbers.replied + numbers.failed + numbers.cancelled
    assert numbers.received == ended + numbers.running + numbers.waiting


def error_of(frames: list[bytes]) -> dict[str, Any]:
    """Return the error that a reply is."""
    assert frames[0] == b""
    value = json.loads(frames[1])
    assert list(value) == ["error"]
    error: dict[str, Any] = value["error"]
    return error


class Query(msgspec.Struct):
    path: str


# ---- payloads and replies


@pytest.mark.parametrize("body", [[b"hello"], [b""], [b"\0\xff"], [b"a", b"b"], [b"", b""], [b"a", b"", b"c"]])
async def test_bytes_come_back_frame_by_frame(body: list[bytes], autojump_clock: Any) -> None:
    async with gateway_to(echo) as (gateway, _), connect(gateway.endpoints[0]) as client:
        client.send(*req(*body))
        assert await client.read() == [b"", *body]


async def test_an_untyped_handler_gets_bytes_and_a_typed_one_what_the_json_says(autojump_clock: Any) -> None:
    got: list[Any] = []

    @service("plain")
    async def plain(payload: Any) -> None:
        got.append(payload)

    @service("typed")
    async def typed(query: Query) -> None:
        got.append(query)

    for offered in (plain, typed):
        async with gateway_to(offered) as (gateway, _), connect(gateway.endpoints[0]) as client:
            client.send(*req(b'{"path": "x"}'))
            assert await client.read() == [b"", b"null"]
    assert got == [b'{"path": "x"}', Query("x")]


@pytest.mark.parametrize(
    ("value", "frames"),
    [
        (b"bytes", [b"bytes"]),
        (bytearray(b"bytes"), [b"bytes"]),
        ([b"a", b"b"], [b"a", b"b"]),
        ({"a": [1, None, "x"]}, [b'{"a":[1,null,"x"]}']),
        ([], [b"[]"]),
        (None, [b"null"]),
        (Query("x"), [b'{"path":"x"}']),
    ],
    ids=repr,
)
async def test_a_reply_goes_out_as_frames_or_as_json(value: Any, frames: list[bytes], autojump_clock: Any) -> None:
    @service("reply")
    async def reply(payload: Any) -> Any:
        return value

    async with gateway_to(reply) as (gateway, _), connect(gateway.endpoints[0]) as client:
        client.send(*req(b""))
        assert await client.read() == [b"", *frames]


async def test_partial_replies_are_dropped(autojump_clock: Any) -> None:
    @service("count")
    async def count() -> AsyncIterator[Any]:
        for i in range(1000):
            yield i
        yield Final("counted")

    async with gateway_to(count) as (gateway, _), connect(gateway.endpoints[0]) as client:
        client.send(*req(b""))
        assert await client.read() == [b"", b'"counted"']


async def test_the_whole_return_address_comes_back(autojump_clock: Any) -> None:
    """As ZMQ_REQ_CORRELATE, and ROUTERs on the way, put it there."""
    async with gateway_to(echo) as (gateway, _), connect(gateway.endpoints[0]) as client:
        for names in ([b"\0\0\0\1"], [b"\0abcd", b"\0\0\0\2"], [b"\0abcd", b"\0efgh"]):
            client.send(*req(b"x", names=names))
            assert await client.read() == [*names, b"", b"x"]


# ---- errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ServiceError(Code.NOT_FOUND, "no such file"), "NOT_FOUND", "no such file"),
        (ServiceError(Code.PERMISSION_DENIED, 'not "you"'), "PERMISSION_DENIED", 'not "you"'),
        (LookupError("secret"), "INTERNAL", "LookupError"),
    ],
    ids=repr,
)
async def test_an_error_comes_back_as_a_json_object(
    error: Exception, code: str, message: str, autojump_clock: Any
) -> None:
    @service("fail")
    async def fail(payload: Any) -> None:
        raise error

    async with gateway_to(fail) as (gateway, _), connect(gateway.endpoints[0]) as client:
        client.send(*req(b""))
        assert error_of(await client.read()) == {"code": code, "message": message}
        await until(lambda: gateway.statistics().failed == 1)


async def test_a_payload_that_does_not_fit_is_an_error(autojump_clock: Any) -> None:
    @service("typed")
    async def typed(query: Query) -> None:
        raise AssertionError(query)

    async with gateway_to(typed) as (gateway, _), connect(gateway.endpoints[0]) as client:
        for body in ([b"no JSON"], [b"{}"], [b""], [b'{"path": "x"}', b"more"]):
            client.send(*req(*body))
            assert error_of(await client.read())["code"] == "INVALID_ARGUMENT"


async def test_a_reply_that_json_cannot_say_is_an_error(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    @service("mixed")
    async def mixed(payload: Any) -> Any:
        return {"content": b"bytes"}

    async with gateway_to(mixed) as (gateway, _), connect(gateway.endpoints[0]) as client:
        client.send(*req(b""))
        assert error_of(await client.read())["code"] == "INTERNAL"
    assert "JSON can't say bytes" in caplog.text


async def test_no_service_no_broker_and_no_reply_in_time_are_errors(autojump_clock: Any) -> None:
    @service("slow")
    async def slow(payload: Any) -> None:
        await trio.sleep(math.inf)

    async with gateway_to(slow, timeout=7) as (gateway, cluster), connect(gateway.endpoints[0]) as client:
        start = trio.current_time()
        client.send(*req(b""))
        assert error_of(await client.read())["code"] == "DEADLINE_EXCEEDED"
        assert trio.current_time() - start == pytest.approx(7)
        for brokers, code in ((cluster.endpoints, "NOT_FOUND"), (["memory://nowhere"], "UNAVAILABLE")):
            async with (
                open_gateway("memory://*", service="unknown", brokers=brokers) as other,
                connect(other.endpoints[0]) as its_client,
            ):
                its_client.send(*req(b""))
                assert error_of(await its_client.read())["code"] == code


# ---- order and parallel work


async def test_five_requests_in_a_loop(autojump_clock: Any) -> None:
    """As a DEALER sends them, or a REQ socket that does not wait: the slowest first."""
    async with gateway_to(sleep) as (gateway, _), connect(gateway.endpoints[0]) as client:
        start = trio.current_time()
        for seconds in (5, 1, 4, 2, 3):
            client.send(*req(b"%d" % seconds))
        assert [await client.read() for _ in range(5)] == [[b"", b"%d" % seconds] for seconds in (5, 1, 4, 2, 3)]
        assert trio.current_time() - start == pytest.approx(5)  # all of them at once


async def test_requests_with_ids_keep_their_order_too(autojump_clock: Any) -> None:
    async with gateway_to(sleep) as (gateway, _), connect(gateway.endpoints[0]) as client:
        for number, seconds in enumerate((3, 1, 2)):
            client.send(*req(b"%d" % seconds, names=[bytes([0, 0, 0, number])]))
        assert [(await client.read())[0][3] for _ in range(3)] == [0, 1, 2]


async def test_clients_behind_a_proxy_do_not_wait_for_each_other(autojump_clock: Any) -> None:
    async with gateway_to(sleep) as (gateway, _), connect(gateway.endpoints[0]) as proxy:
        for name, seconds in ((b"\0slow", 9), (b"\0fast", 1), (b"\0slow", 1), (b"\0fast", 2)):
            proxy.send(*req(b"%d" % seconds, names=[name]))
        replies = [await proxy.read() for _ in range(4)]
        assert [(name, body) for name, _, body in replies] == [
            (b"\0fast", b"1"),
            (b"\0fast", b"2"),
            (b"\0slow", b"9"),
            (b"\0slow", b"1"),
        ]


async def test_a_hundred_clients_at_once_over_many_workers(autojump_clock: Any) -> None:
    """A hundred seconds of work, ten workers with two slots: five seconds."""
    running = most = 0

    @service("work", concurrency=2)
    async def work(payload: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return payload

    async with gateway_to(work) as (gateway, cluster), AsyncExitStack() as stack:
        for _ in range(9):
            await cluster.add_worker()
        clients = [await stack.enter_async_context(connect(gateway.endpoints[0])) for _ in range(100)]
        start = trio.current_time()
        for number, client in enumerate(clients):
            client.send(*req(b"%d" % number))
        for number, client in enumerate(clients):
            assert await client.read() == [b"", b"%d" % number]
        assert trio.current_time() - start == pytest.approx(5, abs=0.1)
        assert most == 20
        assert gateway.statistics().replied == 100


async def test_order_holds_under_load_for_each_of_many_clients(autojump_clock: Any) -> None:
    dice = random.Random(4)

    @service("jitter")
    async def jitter(payload: bytes) -> bytes:
        await trio.sleep(dice.random())
        if dice.random() < 0.2:
            raise ServiceError(Code.NOT_FOUND, payload.decode())
        return payload

    async def ask(endpoint: str) -> None:
        async with connect(endpoint) as client:
            for number in range(30):
                client.send(*req(b"%d" % number))
            for number in range(30):
                reply = (await client.read())[1]
                assert reply == b"%d" % number or json.loads(reply)["error"]["message"] == str(number)

    async with gateway_to(jitter) as (gateway, _), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask, gateway.endpoints[0])


# ---- who leaves


async def test_a_client_that_goes_has_its_requests_cancelled(probe: Probe, autojump_clock: Any) -> None:
    @service("hang")
    async def hang(payload: Any) -> None:
        probe.enter()
        try:
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with gateway_to(hang) as (gateway, cluster):
        async with connect(gateway.endpoints[0]) as client:
            client.send(*req(b"1"))
            client.send(*req(b"2"))
            await probe.entered.wait()
            assert gateway.statistics().running == 2
        with trio.fail_after(1):
            await probe.left.wait()
        await until(lambda: cluster.worker.statistics().cancelled == 2)
        numbers = gateway.statistics()
        assert (numbers.clients, numbers.cancelled, numbers.memory) == (0, 2, 0)


async def test_a_client_that_falls_silent_has_its_requests_cancelled(probe: Probe, autojump_clock: Any) -> None:
    @service("hang")
    async def hang(payload: Any) -> None:
        probe.enter()
        try:
            await trio.sleep_forever()
        finally:
            probe.leave()

    async with gateway_to(hang) as (gateway, cluster):
        here = testing.host.set("far away")
        async with connect(gateway.endpoints[0]) as client:
            testing.host.reset(here)
            client.send(*req(b"1"))
            await probe.entered.wait()
            start = trio.current_time()
            cluster.network.partition(gateway.endpoints, ["far away"])
            await probe.left.wait()
            assert trio.current_time() - start <= 7.5


async def test_a_request_whose_client_has_gone_before_it_is_read_is_not_run(autojump_clock: Any) -> None:
    async with gateway_to(echo) as (gateway, cluster):
        async with connect(gateway.endpoints[0]) as client:
            client.send(*req(b"1"))
            client.close()
        await until(lambda: gateway.statistics().received == 1)
        await until(lambda: gateway.statistics().cancelled == 1)
        assert cluster.broker.statistics().total.received == 0


async def test_handlers_know_the_gateway_by_name(autojump_clock: Any) -> None:
    @service("who")
    async def who(payload: Any, request: Request) -> str:
        return request.peer

    async with (
        open_cluster(who) as cluster,
        open_gateway("memory://*", service="who", brokers=cluster.endpoint, name="front") as gateway,
        connect(gateway.endpoints[0]) as client,
    ):
        client.send(*req(b""))
        assert await client.read() == [b"", b'"front"']
        assert repr(gateway) == f"<Gateway front {gateway.endpoints[0]} to 'who'>"


@pytest.mark.parametrize("protocol", ["mdp/0.1", "mdp/0.2", "majortomo", "omdp", "pigato"])
async def test_the_broker_may_speak_another_dialect(protocol: str, autojump_clock: Any) -> None:
    async with (
        testing.open_cluster(sleep) as cluster,  # of a client without a word of farewell it knows a little longer
        open_gateway("memory://*", service="sleep", brokers=cluster.endpoint, protocol=protocol) as gateway,
        connect(gateway.endpoints[0]) as client,
    ):
        start = trio.current_time()
        for seconds in (3, 1, 2):
            client.send(*req(b"%d" % seconds))
        assert [json.loads((await client.read())[1]) for _ in range(3)] == [3, 1, 2]
        assert trio.current_time() - start == pytest.approx(3, abs=0.1)
        client.send(*req(b"null"))
        assert error_of(await client.read())["code"] == "INVALID_ARGUMENT"


# ---- limits and nonsense


async def test_what_is_no_request_is_dropped_and_counted_and_logged_now_and_then(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_to(echo) as (gateway, _), connect(gateway.endpoints[0]) as client:
        for frames in [(b"no delimiter",), (b"a", b"b"), (b"",), (b"a", b"")] * 10:
            client.send(*frames)
        client.send(*req(b"x"))
        assert await client.read() == [b"", b"x"]
        assert gateway.statistics().malformed == 40
    lines = [record.getMessage() for record in caplog.records if record.name == "zmdp_trio.gateway"]
    assert len(lines) == 11
    assert "there is no empty frame" in lines[0]
    assert lines[-1].startswith("... and 30 more")


async def test_a_client_has_its_limit_and_refusals_keep_the_order(autojump_clock: Any) -> None:
    async with (
        gateway_to(a_second_later, gateway_requests=3) as (gateway, _),
        connect(gateway.endpoints[0]) as client,
        connect(gateway.endpoints[0]) as other,
    ):
        for number in range(5):
            client.send(*req(b"%d" % number))
        other.send(*req(b"other"))
        assert [(await client.read())[1] for _ in range(3)] == [b"0", b"1", b"2"]
        for _ in range(2):
            assert error_of(await client.read()) == {
                "code": "RESOURCE_EXHAUSTED",
                "message": "3 requests are outstanding",
            }
        assert await other.read() == [b"", b"other"]
        assert gateway.statistics().refused == 2


async def test_who_goes_on_all_the_same_is_cut_off_alone(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        gateway_to(a_second_later, gateway_requests=3) as (gateway, cluster),
        connect(gateway.endpoints[0]) as client,
        connect(gateway.endpoints[0]) as other,
    ):
        for number in range(20):
            client.send(*req(b"%d" % number))
            if number == 2:
                await until(lambda: cluster.worker.statistics().running == 3)
        other.send(*req(b"other"))
        assert await other.read() == [b"", b"other"]
        assert not client.received
        numbers = gateway.statistics()
        assert (numbers.cut_off, numbers.cancelled, numbers.received) == (1, 7, 8)
        assert "7 requests are outstanding" in caplog.text
        await until(lambda: cluster.worker.statistics().cancelled == 3)


async def test_requests_take_half_of_the_memory_at_most(autojump_clock: Any) -> None:
    @service("size")
    async def size(payload: bytes) -> int:
        await trio.sleep(1)
        return len(payload)

    async with gateway_to(size, gateway_memory=1_000_000) as (gateway, _), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(gateway.endpoints[0])) for _ in range(8)]
        for client in clients:
            client.send(*req(bytes(100_000)))
        replies = [await client.read() for client in clients]
        assert [frames[1] for frames in replies[:4]] == [b"100000"] * 4
        assert {error_of(frames)["code"] for frames in replies[4:]} == {"RESOURCE_EXHAUSTED"}
        clients[0].send(*req(bytes(100_000)))
        assert (await clients[0].read())[1] == b"100000"


async def test_a_client_that_does_not_read_is_cut_off_alone(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @service("pour")
    async def pour(n: int) -> bytes:
        return bytes(n)

    async with (
        gateway_to(pour, gateway_memory=1_000_000) as (gateway, _),
        connect(gateway.endpoints[0]) as deaf,
        connect(gateway.endpoints[0]) as client,
    ):
        deaf.reading = False
        while not gateway.statistics().cut_off:
            deaf.send(*req(b"100000"))
            client.send(*req(b"100000"))
            assert await client.read() == [b"", bytes(100_000)]
        assert gateway.statistics().received < 200
        assert "does not read" in caplog.text
        client.send(*req(b"900000"))
        assert await client.read() == [b"", bytes(900_000)]


async def test_a_reply_without_room_is_an_error_to_its_client_alone(autojump_clock: Any) -> None:
    @service("pour")
    async def pour(n: int) -> bytes:
        return bytes(n)

    async with gateway_to(pour, gateway_memory=100_000) as (gateway, _), connect(gateway.endpoints[0]) as client:
        client.send(*req(b"200000"))
        assert error_of(await client.read())["code"] == "RESOURCE_EXHAUSTED"
        client.send(*req(b"50000"))
        assert await client.read() == [b"", bytes(50_000)]


# ---- starting and stopping


async def until_told(leave: trio.Event, *arguments: str, task_status: trio.TaskStatus[Gateway], **options: Any) -> None:
    """Run a gateway that drains when it is told to leave."""
    async with open_gateway(*arguments, **options) as gateway:
        task_status.started(gateway)
        await leave.wait()


async def test_leaving_drains(autojump_clock: Any) -> None:
    leave = trio.Event()
    async with open_cluster(sleep) as cluster, trio.open_nursery() as nursery:
        run = functools.partial(until_told, service="sleep", brokers=cluster.endpoints)
        gateway: Gateway = await nursery.start(run, leave, "memory://*")
        async with connect(gateway.endpoints[0]) as client:
            client.send(*req(b"5"))
            await until(lambda: gateway.statistics().running == 1)
            leave.set()
            await trio.testing.wait_all_tasks_blocked()
            client.send(*req(b"6"))
            assert await client.read() == [b"", b"5"]
            assert error_of(await client.read()) == {"code": "UNAVAILABLE", "message": "the gateway is stopping"}
    balance(gateway.statistics())


async def test_who_waits_when_the_grace_time_is_over_is_told(autojump_clock: Any) -> None:
    leave = trio.Event()
    async with open_cluster(sleep) as cluster, trio.open_nursery() as nursery:
        run = functools.partial(until_told, service="sleep", brokers=cluster.endpoints, drain_grace=2)
        gateway: Gateway = await nursery.start(run, leave, "memory://*")
        async with connect(gateway.endpoints[0]) as client:
            client.send(*req(b"100"))
            await until(lambda: gateway.statistics().running == 1)
            start = trio.current_time()
            leave.set()
            assert error_of(await client.read()) == {"code": "UNAVAILABLE", "message": "the gateway was stopped"}
            assert trio.current_time() - start == pytest.approx(2, abs=0.1)
        await until(lambda: cluster.worker.statistics().cancelled == 1)
    balance(gateway.statistics())


async def test_cancelling_means_now(autojump_clock: Any) -> None:
    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[Gateway]) -> None:
        with scope:
            await serve_gateway("memory://*", service="sleep", brokers=cluster.endpoint, task_status=task_status)

    async with open_cluster(sleep) as cluster, trio.open_nursery() as nursery:
        gateway: Gateway = await nursery.start(run)
        async with connect(gateway.endpoints[0]) as client:
            client.send(*req(b"100"))
            await until(lambda: cluster.worker.statistics().running == 1)
            start = trio.current_time()
            scope.cancel()
            assert error_of(await client.read())["code"] == "UNAVAILABLE"
            assert trio.current_time() == start
    assert gateway.statistics().failed == 1


async def test_a_drain_without_requests_is_over_at_once(autojump_clock: Any) -> None:
    async with gateway_to(echo) as (gateway, _):
        with trio.testing.assert_checkpoints():
            assert await gateway.drain() is True


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"service": ""}, ValueError),
        ({"service": None}, ValueError),
        ({"retry": -1}, ValueError),
        ({"protocol": "http"}, ValueError),
        ({"brokers": []}, TypeError),
        ({"brokers": "nonsense"}, EndpointError),
        ({"gateway_requests": 0}, ValueError),
    ],
    ids=repr,
)
async def test_wrong_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], autojump_clock: Any
) -> None:
    right: dict[str, Any] = {"service": "echo", "brokers": "memory://broker"}
    with pytest.raises(error):
        async with open_gateway("memory://*", **(right | arguments)):
            raise AssertionError


async def test_an_endpoint_in_use_is_refused(autojump_clock: Any) -> None:
    async with gateway_to(echo) as (gateway, cluster):
        with pytest.raises(EndpointError):
            async with open_gateway(*gateway.endpoints, service="echo", brokers=cluster.endpoints):
                raise AssertionError


async def test_a_broker_that_is_restarted_is_not_noticed(autojump_clock: Any) -> None:
    async with gateway_to(sleep) as (gateway, cluster), connect(gateway.endpoints[0]) as client:
        client.send(*req(b"5"))
        await until(lambda: cluster.worker.statistics().running == 1)
        cluster.kill("broker")
        await cluster.restart_broker()
        assert await client.read() == [b"", b"5"]

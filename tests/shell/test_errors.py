"""Every failure is one plain exception, of its own type or code, no later than its limit."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from cluster import Cluster, Probe, echo, open_cluster, port_of, read_into, until

from zmdp_trio import (
    BrokerLost,
    Code,
    DeadlineExceeded,
    InvalidArgument,
    MessageTooLarge,
    Overloaded,
    Reject,
    Request,
    RequestCancelled,
    RequestError,
    RequestRejected,
    ServiceError,
    ServiceNotFound,
    Settings,
    SyncRequest,
    Unavailable,
    WorkerLost,
    open_broker,
    open_client,
    open_worker,
    serve_broker,
    serve_worker,
    service,
)
from zmdp_trio._transport.memory import current_network

SILENCE = Settings().silence


@service("waits")
async def waits() -> None:
    await trio.sleep_forever()


async def caught(call: Callable[[], Awaitable[Any]]) -> tuple[RequestError, float]:
    """What plain `except RequestError` catches, and after how many seconds."""
    start = trio.current_time()
    try:
        await call()
    except RequestError as error:
        assert "Traceback" not in str(error)  # noqa: PT017  plain `except` is what is tested
        return error, trio.current_time() - start
    raise AssertionError("it did not fail")


# ---- the kinds


async def test_an_unknown_service_is_not_found_after_the_wait_for_one(cluster: Cluster, autojump_clock: Any) -> None:
    error, after = await caught(lambda: cluster.client.request("nobody"))
    assert type(error) is ServiceNotFound
    assert (error.code, error.service, after) == (Code.NOT_FOUND, "nobody", 1)


async def test_a_service_that_appears_in_time_is_served(cluster: Cluster, autojump_clock: Any) -> None:
    @service("late")
    async def late() -> str:
        return "here"

    async def appear() -> None:
        await trio.sleep(0.5)
        async with open_worker([late], cluster.endpoint):
            await done.wait()

    done = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(appear)
        assert await cluster.client.request("late") == "here"
        done.set()


async def test_a_service_whose_last_worker_left_in_peace_is_not_found(cluster: Cluster, autojump_clock: Any) -> None:
    async with open_worker([waits], cluster.endpoint) as worker:
        await worker.wait_welcomed()
    error, after = await caught(lambda: cluster.client.request("waits"))
    assert (type(error), after) == (ServiceNotFound, 1)


async def test_a_handlers_exception_shows_its_type_only(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    @service("broken")
    async def broken(_: Any, request: Request) -> None:
        raise LookupError("a secret")

    async with open_cluster(broken) as cluster:
        error, after = await caught(lambda: cluster.client.request("broken"))
        assert type(error) is RequestError
        assert (error.code, error.message, error.details, after) == (Code.INTERNAL, "LookupError", None, 0)
        assert "secret" not in "".join(traceback.format_exception(error))
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.levelno == logging.ERROR
    assert "broken" in record.getMessage()
    assert "a secret" in caplog.text
    assert "test_errors.py" in caplog.text


async def test_expose_errors_shows_the_message_but_no_traceback(autojump_clock: Any) -> None:
    @service("open", expose_errors=True)
    async def open_() -> None:
        raise LookupError("no secret")

    async with open_cluster(open_) as cluster:
        error, _ = await caught(lambda: cluster.client.request("open"))
        assert error.message == "LookupError: no secret"
        assert "test_errors" not in error.message


async def test_a_sync_handlers_exception_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    @service("broken")
    def broken() -> None:
        raise LookupError("a secret")

    @service("refusing")
    def refusing() -> None:
        raise ServiceError(Code.UNIMPLEMENTED, "not yet")

    async with open_cluster(broken, refusing, heartbeat=0.05) as cluster:
        error, _ = await caught(lambda: cluster.client.request("broken"))
        assert (error.code, error.message) == (Code.INTERNAL, "LookupError")
        error, _ = await caught(lambda: cluster.client.request("refusing"))
        assert (error.code, error.message) == (Code.UNIMPLEMENTED, "not yet")
    assert "a secret" in caplog.text


@pytest.mark.parametrize("code", Code)
async def test_a_service_error_arrives_with_code_message_and_details(
    code: Code, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    details = {"field": "name", "limits": [1, 2.5, None], "raw": b"\0"}

    @service("refusing")
    async def refusing() -> None:
        raise ServiceError(code, "Größe passt nicht", details)

    async with open_cluster(refusing) as cluster:
        error, after = await caught(lambda: cluster.client.request("refusing"))
        assert (error.code, error.message, error.details) == (code, "Größe passt nicht", details)
        assert (error.service, after) == ("refusing", 0)
    assert not caplog.records  # it was said on purpose


async def test_a_service_error_from_a_handlers_own_nursery_is_unwrapped(autojump_clock: Any) -> None:
    @service("nursed")
    async def nursed() -> None:
        async def fail() -> None:
            raise ServiceError(Code.NOT_FOUND, "gone")

        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(fail)
            outer.start_soon(trio.sleep_forever)

    async with open_cluster(nursed) as cluster:
        error, _ = await caught(lambda: cluster.client.request("nursed"))
        assert (error.code, error.message) == (Code.NOT_FOUND, "gone")


async def test_an_error_after_partial_replies_comes_after_them(autojump_clock: Any) -> None:
    @service("half")
    async def half() -> AsyncIterator[int]:
        for i in range(100):
            yield i
        raise ServiceError(Code.RESOURCE_EXHAUSTED, "that is all")

    async with open_cluster(half) as cluster:
        got: list[Any] = []
        async with cluster.client.stream("half") as stream:
            await trio.sleep(1)
            with pytest.raises(RequestError, match="that is all") as info:
                await read_into(got, stream)
            assert got == list(range(100))
            assert info.value.code is Code.RESOURCE_EXHAUSTED
            with pytest.raises(RequestError, match="that is all"):
                _ = stream.final
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_an_error_that_a_handler_lets_pass_from_a_service_of_its_own_is_its_failure(autojump_clock: Any) -> None:
    @service("outer")
    async def outer(request: Request) -> None:
        await request.request("inner")

    @service("inner")
    async def inner() -> None:
        raise ServiceError(Code.PERMISSION_DENIED, "not you")

    async with open_cluster(outer, inner) as cluster:
        error, _ = await caught(lambda: cluster.client.request("outer"))
        assert (error.code, error.service) == (Code.INTERNAL, "outer")


async def test_a_payload_that_does_not_fit_is_invalid(autojump_clock: Any) -> None:
    @service("typed")
    async def typed(n: int) -> None: ...

    async with open_cluster(typed) as cluster:
        error, after = await caught(lambda: cluster.client.request("typed", "x"))
        assert type(error) is InvalidArgument
        assert (error.code, after) == (Code.INVALID_ARGUMENT, 0)
        assert "int" in error.message


async def test_details_that_cannot_be_encoded_are_left_out_and_logged(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @service("refusing")
    async def refusing() -> None:
        raise ServiceError(Code.NOT_FOUND, "gone", object())

    async with open_cluster(refusing) as cluster:
        error, _ = await caught(lambda: cluster.client.request("refusing"))
        assert (error.code, error.message, error.details) == (Code.NOT_FOUND, "gone", None)
    assert "details" in caplog.text


async def test_every_worker_rejecting_is_its_own_error(autojump_clock: Any) -> None:
    @service("picky")
    async def picky() -> None:
        raise Reject

    async with open_cluster(picky) as cluster:
        error, after = await caught(lambda: cluster.client.request("picky"))
        assert (type(error), error.code, after) == (RequestRejected, Code.UNAVAILABLE, 0)


async def test_a_full_queue_is_overloaded(autojump_clock: Any) -> None:
    @service("narrow", concurrency=1)
    async def narrow() -> None:
        await trio.sleep(5)

    async with open_cluster(narrow, queue_requests=2) as cluster, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(cluster.client.request, "narrow")
            await trio.sleep(0.1)
        error, after = await caught(lambda: cluster.client.request("narrow"))
        assert (type(error), error.code, after) == (Overloaded, Code.RESOURCE_EXHAUSTED, 0)
        assert isinstance(error, Overloaded)
        assert error.retry_after == error.details["retry_after"] == cluster.settings.appear


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        *(({"retry_after": 0.5}, 0.5), ({"retry_after": 0}, 0)),
        *((None, None), ({}, None), ("retry_after", None), ([1], None)),
        *(({"retry_after": wrong}, None) for wrong in ("1", None, True, -1, math.inf, math.nan)),
    ],
    ids=repr,
)
def test_when_to_try_again_is_seconds_or_unknown(details: Any, seconds: float | None) -> None:
    assert Overloaded("full", details=details).retry_after == seconds


# ---- peers that are lost


async def test_a_killed_worker_loses_what_it_had_in_hand(autojump_clock: Any) -> None:
    async with open_broker("memory://*") as broker, open_client(*broker.endpoints) as client:
        async with open_worker([waits], *broker.endpoints) as worker:
            await worker.wait_welcomed()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def kill() -> None:
                    await until(lambda: worker.statistics().running)
                    current_network().kill(port_of(worker))

                error, after = await caught(lambda: client.request("waits"))
            worker._engine._life.cancel()
            assert (type(error), error.code) == (WorkerLost, Code.UNAVAILABLE)
            assert after <= SILENCE
            error, after = await caught(lambda: client.request("waits"))
            assert type(error) is Unavailable  # the last worker was just lost
            assert after <= 1
            with trio.move_on_after(0):
                await worker.drain(0)
            await trio.sleep(20)
            error, _ = await caught(lambda: client.request("waits"))
            assert type(error) is ServiceNotFound
            worker._machine.cancel_all()
            worker._handlers.cancel_scope.cancel()


async def test_a_worker_that_falls_silent_is_lost_within_the_liveness_limit(probe: Probe, autojump_clock: Any) -> None:
    async with open_cluster(waits) as cluster:
        network, broker = current_network(), cluster.broker._engine._port
        reachable = {port_of(cluster.client), broker}

        async def part() -> None:
            await until(lambda: cluster.worker.statistics().running)
            network.partition([port_of(cluster.worker)], reachable)
            network.hook = lambda source, target, frames: (0,) if {source, target} <= reachable else ()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(part)
            error, after = await caught(lambda: cluster.client.request("waits"))
        assert type(error) is WorkerLost
        assert after <= SILENCE
        network.hook = None
        await until(lambda: cluster.broker.statistics().workers == 1, within=60)
        await until(lambda: not cluster.worker.statistics().cancelling, within=60)


async def test_no_broker_at_all_is_broker_lost_after_the_connect_limit(autojump_clock: Any) -> None:
    async with open_client("memory://nobody") as client:
        error, after = await caught(lambda: client.request("echo"))
        assert (type(error), error.code, after) == (BrokerLost, Code.UNAVAILABLE, 5)
        assert "memory://nobody" in error.message
        with pytest.raises(DeadlineExceeded):
            await client.request("echo", deadline=trio.current_time() + 1)
        assert client.statistics().waiting == client.statistics().timers == 0


async def test_the_requests_of_a_broker_that_stops_wait_for_another_one_in_its_place(autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        brokers = await nursery.start(broker_until_cancelled, "memory://b")
        async with open_worker([waits], "memory://b") as worker, open_client("memory://b") as client:
            await worker.wait_welcomed()

            @nursery.start_soon
            async def stop() -> None:
                await until(lambda: worker.statistics().running)
                brokers.cancel()

            error, after = await caught(lambda: client.request("waits"))
            assert type(error) is BrokerLost
            assert error.message == "the broker is lost: connection refused"
            assert 10 <= after < 11
            assert client.statistics().outstanding == 0


async def broker_until_cancelled(endpoint: str, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        async with open_broker(endpoint):
            task_status.started(scope)
            await trio.sleep_forever()


async def test_a_killed_broker_is_lost_after_the_resume_limit(autojump_clock: Any) -> None:
    async with open_broker("memory://b") as broker, open_client("memory://b") as client:
        async with open_worker([waits], "memory://b") as worker:
            await worker.wait_welcomed()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def kill() -> None:
                    await until(lambda: worker.statistics().running)
                    current_network().kill("memory://b")

                error, after = await caught(lambda: client.request("waits"))
            assert type(error) is BrokerLost
            assert after <= 10.5
            await until(lambda: not worker.statistics().cancelling)
        broker._machine.drain()
        for session in broker._machine.sessions():
            broker._machine._end_session(session, trio.current_time())


# ---- no groups


async def test_what_a_block_raises_comes_out_as_it_went_in(autojump_clock: Any) -> None:
    original = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as info:  # noqa: PT012  the blocks are what is tested
        async with open_broker("memory://*") as broker:
            with pytest.raises(ValueError, match="mine"):  # noqa: PT012
                async with open_worker([echo], *broker.endpoints):
                    with pytest.raises(ValueError, match="mine"):  # noqa: PT012
                        async with open_client(*broker.endpoints) as client:
                            await client.request("echo")
                            raise original
                    raise original
            raise original
    assert info.value is original


async def test_a_request_error_passes_all_blocks_plainly(autojump_clock: Any) -> None:
    with pytest.raises(ServiceNotFound):
        async with (
            open_broker("memory://*") as broker,
            open_worker([echo], *broker.endpoints),
            open_client(*broker.endpoints) as client,
        ):
            await client.request("nobody")


async def test_cancelling_around_the_blocks_works_and_is_at_once(autojump_clock: Any) -> None:
    start = trio.current_time()
    with trio.move_on_after(3) as scope:
        async with (
            open_broker("memory://*") as broker,
            open_worker([waits], *broker.endpoints),
            open_client(*broker.endpoints) as client,
        ):
            await client.request("waits")
    assert scope.cancelled_caught
    assert trio.current_time() == start + 3


async def test_an_error_in_a_group_of_the_callers_own_stays_one(autojump_clock: Any) -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with open_broker("memory://*"):
            raise ExceptionGroup("mine", [ValueError("one"), KeyError("two")])
    assert info.value.message == "mine"


async def test_requests_in_flight_when_the_client_is_left_end_as_cancelled(autojump_clock: Any) -> None:
    outcomes: list[Any] = []

    async with open_cluster(waits) as cluster, trio.open_nursery() as nursery:
        async with open_client(cluster.endpoint) as client:

            async def call() -> None:
                outcomes.append(await caught(lambda: client.request("waits")))

            for _ in range(3):
                nursery.start_soon(call)
            await until(lambda: cluster.worker.statistics().running == 3)
    errors = [error for error, _ in outcomes]
    assert [type(error) for error in errors] == [RequestCancelled] * 3
    assert len(set(map(id, errors))) == 3  # one exception per raise, or tracebacks grow together


async def test_a_closed_client_says_so(cluster: Cluster, autojump_clock: Any) -> None:
    async with open_client(cluster.endpoint) as client:
        unstarted = client.stream("echo")
    with pytest.raises(trio.ClosedResourceError):
        await client.request("echo")
    with pytest.raises(trio.ClosedResourceError):
        client.stream("echo")
    with pytest.raises(trio.ClosedResourceError):
        await anext(unstarted)


async def test_serve_functions_report_what_they_cannot_do(autojump_clock: Any) -> None:
    with pytest.raises(TypeError, match="not a service"):
        await serve_worker([caught], "memory://b")
    with pytest.raises(ValueError, match="two services"):
        await serve_worker([echo, echo], "memory://b")
    with pytest.raises(TypeError, match="at least one broker"):
        await serve_worker([echo])
    with pytest.raises(ValueError, match="heartbeat"):
        await serve_broker("memory://b", heartbeat=-1)
    with pytest.raises(TypeError):
        await serve_broker("memory://b", no_such_setting=1)


# ---- the exceptions themselves


@pytest.mark.parametrize(
    "cls", [RequestError, *RequestError.__subclasses__(), *Unavailable.__subclasses__(), MessageTooLarge]
)
def test_errors_survive_pickle_and_copy(cls: type[RequestError]) -> None:
    error = cls("why", details={"a": [1]}, service="echo")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is cls
        assert (twin.code, twin.message, twin.details, twin.service) == (error.code, "why", {"a": [1]}, "echo")
        assert str(twin) == str(error)


def test_service_errors_survive_pickle_and_refuse_a_code_that_is_none() -> None:
    error = pickle.loads(pickle.dumps(ServiceError(Code.NOT_FOUND, "gone", {"a": 1})))
    assert (error.code, error.message, error.details) == (Code.NOT_FOUND, "gone", {"a": 1})
    with pytest.raises(TypeError):
        ServiceError("NOT_FOUND")


async def test_a_sync_handlers_cancelled_call_raises_cancelled_in_its_thread() -> None:
    seen: list[Any] = []

    @service("relay")
    def relay(request: SyncRequest) -> None:
        try:
            request.request("waits")
        except BaseException as error:
            seen.append(type(error))
            raise

    async with open_cluster(relay, waits, heartbeat=0.05) as cluster:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.client.request, "relay")
                await until(lambda: cluster.worker.statistics().running == 2)
                scope.cancel()
        await until(lambda: seen)
        assert seen == [trio.Cancelled]
        await cluster.settle()
        assert cluster.worker.statistics().cancelled == 2

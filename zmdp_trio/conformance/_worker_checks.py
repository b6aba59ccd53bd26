"""Workers: how they register, get requests, leave, and are shown the door."""

from __future__ import annotations

from .._errors import ProtocolError
from .._wire.majordomo import Route
from .._wire.majordomo.messages import Disconnect, Heartbeat, Partial, Request
from .._wire.majordomo.messages import Final as FinalReply
from . import _clauses as clauses
from ._bench import LISTEN, Bench
from ._checks import Stage, check
from ._frames import describe
from ._peer import Heard, Worker, body_of
from ._verdict import NotAsSpecified, check_equal

#: An address that no client has.
NOBODY = b"\x00nobody"

# ---- the forms


def read_exactly(heard: Heard, bench: Bench, wanted: str) -> object:
    """Return a message to a worker if its frames are as they should be.

    Raises:
        NotAsSpecified: they are not.
    """
    try:
        return bench.dialect.decode(Route.BROKER_TO_WORKER, heard.frames)
    except ProtocolError:
        raise NotAsSpecified(f"{describe(heard.frames)} is no {wanted}") from None


@check("worker/request", clauses.WORKER_REQUEST_FORM)
async def request_has_its_form(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.call(b"one", b"two")
    heard = await worker.expect("a REQUEST")
    message = read_exactly(heard, bench, "REQUEST")
    if not isinstance(message, Request):
        raise NotAsSpecified(f"{describe(heard.frames)} instead of a REQUEST")
    check_equal("the request's body", body_of(message), [b"one", b"two"])


@check("worker/address", clauses.ADDRESS)
async def each_client_has_an_address(bench: Bench) -> None:
    worker = await bench.worker()
    addresses = set()
    for _ in range(2):
        client = await bench.call(b"ping")
        heard = await worker.expect("a REQUEST", Request)
        request = read_exactly(heard, bench, "REQUEST with one address and an empty frame")
        assert isinstance(request, Request)
        if not request.client:
            raise NotAsSpecified(f"the client's address is empty: {describe(heard.frames)}")
        addresses.add(request.client)
        worker.reply(request, b"done")
        await client.reply()
    if len(addresses) < 2:
        raise NotAsSpecified("two clients have the same address")


@check("worker/disconnect-form", clauses.DISCONNECT_FORM, stage=Stage.UNEXPECTED)
async def disconnect_has_its_form(bench: Bench) -> None:
    worker = await bench.worker()
    worker.ready(bench.service)
    heard = await worker.expect("DISCONNECT as the answer to a second READY", Disconnect)
    read_exactly(heard, bench, "DISCONNECT")


# ---- registering


@check("worker/ready", clauses.NO_RESPONSE, slow=True)
async def ready_is_not_answered(bench: Bench) -> None:
    worker = await bench.worker()
    await worker.hear_nothing(1.5 * bench.heartbeat, "to a worker that has only registered")
    client = await bench.call(b"ping")
    worker.reply(await worker.request(), b"pong")
    check_equal("the reply's body", await client.reply(), [b"pong"])


@check("worker/many", clauses.MANY_WORKERS)
async def workers_share_a_service(bench: Bench) -> None:
    workers = [await bench.worker() for _ in range(3)]
    bodies = {b"request %d" % number for number in range(3)}
    clients = {body: await bench.call(body) for body in bodies}
    requests = [(worker, await worker.request()) for worker in workers]
    if {body_of(request)[0] for _, request in requests} != bodies:
        raise NotAsSpecified("three workers of a service do not get one each of three requests")
    for worker, request in requests:
        worker.reply(request, *body_of(request))
    for body, client in clients.items():
        check_equal("a client's reply", await client.reply(), [body])


@check("worker/one-at-a-time", clauses.ONE_AT_A_TIME)
async def busy_worker_gets_no_second_request(bench: Bench) -> None:
    worker = await bench.worker()
    clients = [await bench.call(b"ping") for _ in range(2)]
    request = await worker.request()
    if bench.dialect.partials:
        worker.reply_partly(request, b"half")
    await worker.hear_nothing(1, "to a worker that has not finished its first request")
    worker.reply(request, b"done")
    worker.reply(await worker.request(), b"done")
    for client in clients:
        heard = await client.expect("a reply", FinalReply, Partial)
        if isinstance(heard.message, Partial):
            await client.reply()


# ---- unexpected commands


async def _check_farewell(bench: Bench, worker: Worker) -> None:
    """It has said what it should not: it must hear DISCONNECT and then nothing, whoever asks for its service."""
    await worker.expect("DISCONNECT", Disconnect)
    await bench.call(b"after the farewell")
    await worker.hear_nothing_at_all(LISTEN * bench.heartbeat, "to a worker after DISCONNECT")


@check("worker/ready-twice", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def second_ready_is_unexpected(bench: Bench) -> None:
    worker = await bench.worker()
    worker.ready(bench.service)
    await _check_farewell(bench, worker)


@check("worker/ready-for-another-service", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def second_service_is_unexpected(bench: Bench) -> None:
    worker = await bench.worker()
    worker.ready(f"{bench.service}.other")
    await _check_farewell(bench, worker)


@check("worker/ready-while-busy", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def ready_is_unexpected_while_busy(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.call(b"ping")
    await worker.request()
    worker.ready(bench.service)
    await _check_farewell(bench, worker)


@check("worker/reply-before-ready", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def reply_before_ready_is_unexpected(bench: Bench) -> None:
    worker = await bench.stranger()
    worker.say(FinalReply(client=NOBODY, body=[b"reply"]))
    await _check_farewell(bench, worker)


@check("worker/heartbeat-before-ready", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def heartbeat_before_ready_is_unexpected(bench: Bench) -> None:
    worker = await bench.stranger()
    worker.say(Heartbeat())
    await _check_farewell(bench, worker)


@check("worker/reply-when-idle", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def reply_of_an_idle_worker_is_unexpected(bench: Bench) -> None:
    worker = await bench.worker()
    worker.say(FinalReply(client=NOBODY, body=[b"reply"]))
    await _check_farewell(bench, worker)


@check("worker/second-reply", clauses.UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def second_reply_is_unexpected(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    request = await worker.request()
    worker.reply(request, b"first")
    await client.reply()
    worker.reply(request, b"second")
    await _check_farewell(bench, worker)


@check("worker/partial-before-ready", clauses.PARTIAL_UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def partial_before_ready_is_unexpected(bench: Bench) -> None:
    worker = await bench.stranger()
    worker.say(Partial(client=NOBODY, body=[b"partial"]))
    await _check_farewell(bench, worker)


@check("worker/partial-when-idle", clauses.PARTIAL_UNEXPECTED, slow=True, stage=Stage.UNEXPECTED)
async def partial_of_an_idle_worker_is_unexpected(bench: Bench) -> None:
    worker = await bench.worker()
    worker.say(Partial(client=NOBODY, body=[b"partial"]))
    await _check_farewell(bench, worker)


@check("worker/reply-to-another", clauses.ADDRESSED, stage=Stage.UNEXPECTED)
async def reply_reaches_nobody_but_its_client(bench: Bench) -> None:
    """A worker replies to a client whose request is with another worker, as it has been its own client before."""
    faulty, other = await bench.worker(), await bench.worker(f"{bench.service}.other")
    victim = await bench.call(b"first")
    former = await faulty.request()
    faulty.reply(former, b"done")
    await victim.reply()
    victim.request(f"{bench.service}.other", b"second")
    rightful = await other.request()
    await bench.call(b"of another client")
    await faulty.request()
    faulty.reply(former, b"forged")
    await victim.hear_nothing(1, "to a client, from a worker that does not have its request")
    other.reply(rightful, b"rightful")
    check_equal("the reply's body", await victim.reply(), [b"rightful"])


# ---- leaving


@check("worker/disconnect", clauses.AFTER_DISCONNECT, slow=True, stage=Stage.UNEXPECTED)
async def worker_that_left_hears_nothing(bench: Bench) -> None:
    worker = await bench.worker()
    worker.leave()
    await bench.moment()
    # They may have crossed its DISCONNECT.
    worker.beats.clear()
    client = await bench.call(b"ping")
    await worker.hear_nothing_at_all(LISTEN * bench.heartbeat, "to a worker that has sent DISCONNECT")
    other = await bench.worker()
    other.reply(await other.request(), b"pong")
    check_equal("the reply's body", await client.reply(), [b"pong"])


@check("worker/disconnect-while-busy", clauses.AFTER_DISCONNECT, slow=True, stage=Stage.UNEXPECTED)
async def busy_worker_that_left_hears_nothing(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.call(b"ping")
    await worker.request()
    worker.leave()
    await bench.moment()
    # They may have crossed its DISCONNECT.
    worker.beats.clear()
    await bench.call(b"ping")
    await worker.hear_nothing_at_all(LISTEN * bench.heartbeat, "to a worker that has sent DISCONNECT")


@check("worker/disconnect-before-ready", clauses.LEAVE_ANY_TIME, slow=True, stage=Stage.UNEXPECTED)
async def worker_may_leave_before_it_was_there(bench: Bench) -> None:
    worker = await bench.stranger()
    worker.leave()
    await worker.hear_nothing_at_all(LISTEN * bench.heartbeat, "to a worker that has sent nothing but DISCONNECT")


@check("worker/register-again", clauses.REGISTER_AGAIN, stage=Stage.UNEXPECTED)
async def worker_comes_back_on_a_new_socket(bench: Bench) -> None:
    worker = await bench.worker()
    worker.ready(bench.service)
    await worker.expect("DISCONNECT as the answer to a second READY", Disconnect)
    again, client = await bench.worker(), await bench.call(b"ping")
    again.reply(await again.request(), b"pong")
    check_equal("the reply's body", await client.reply(), [b"pong"])

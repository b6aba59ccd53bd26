"""Requests and their replies, as clients see them."""

from __future__ import annotations

from typing import Final

import trio

from .._wire.majordomo import Route
from .._wire.majordomo.messages import Final as FinalReply
from .._wire.majordomo.messages import Partial
from . import _clauses as clauses
from ._bench import LISTEN, Bench
from ._checks import Stage, check
from ._peer import Client, Heard, Worker, body_of
from ._verdict import NotAsSpecified, check_equal


async def _finish(worker: Worker, client: Client, body: bytes = b"done") -> None:
    """Take the request and answer it, until the client has the reply."""
    worker.reply(await worker.request(), body)
    check_equal("the reply's body", await client.reply(), [body])


def _check_exact(heard: Heard, bench: Bench, message: FinalReply | Partial) -> None:
    wanted = [bytes(frame) for frame in bench.dialect.encode(Route.BROKER_TO_CLIENT, message)]
    check_equal("the message", heard.frames, wanted)


# ---- the forms


@check("client/reply", clauses.REPLY_FORM)
async def reply_has_its_form(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    worker.reply(await worker.request(), b"pong")
    heard = await client.expect("the final reply")
    _check_exact(heard, bench, FinalReply(service=bench.service, body=[b"pong"]))


@check("client/partial", clauses.PARTIAL_FORM)
async def partial_has_its_form(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    request = await worker.request()
    worker.reply_partly(request, b"one", b"", b"two")
    heard = await client.expect("a partial reply")
    _check_exact(heard, bench, Partial(service=bench.service, body=[b"one", b"", b"two"]))
    worker.reply(request, b"end")
    check_equal("the final reply's body", await client.reply(), [b"end"])


# ---- bodies

_BODIES: Final[dict[str, tuple[bytes, ...]]] = {
    "several-frames": (b"one", b"two", b"three", b"four", b"five"),
    "empty": (b"",),
    "empty-frames": (b"", b"", b"one", b"", b"two", b""),
    "binary": (bytes(range(256)), b"\xff\xfe\x00", b"\x00"),
    "like-commands": (b"MDPW02", b"\x06", b"", b"MDPC01", b"\x05"),
    "large": (bytes(range(256)) * 4096,),
}


def _register_body(name: str, body: tuple[bytes, ...]) -> None:
    @check(f"client/body/{name}", clauses.BODY)
    async def body_is_carried(bench: Bench) -> None:
        worker, client = await bench.worker(), await bench.call(*body)
        request = await worker.request()
        check_equal("the request's body", body_of(request), body)
        worker.reply(request, *body)
        check_equal("the reply's body", await client.reply(), body)


for _name, _body in _BODIES.items():
    _register_body(_name, _body)


# ---- the dialogue


@check("client/repeat", clauses.REPEAT)
async def client_asks_again_and_again(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.client()
    for number in range(5):
        client.request(bench.service, b"%d" % number)
        await _finish(worker, client, b"reply %d" % number)


@check("client/own-reply", clauses.ROUTER)
async def each_client_gets_its_own_reply(bench: Bench) -> None:
    bench.serve(await bench.worker())
    clients = {b"request %d" % number: await bench.client() for number in range(5)}
    for body, client in clients.items():
        client.request(bench.service, body)
    for body, client in clients.items():
        check_equal("a client's reply", await client.reply(), [body])


@check("client/partials", clauses.PARTIALS)
async def partials_come_in_order_and_before_the_final(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"count")
    request = await worker.request()
    bodies = [b"%d" % number for number in range(20)]
    for body in bodies:
        worker.reply_partly(request, body)
    worker.reply(request, b"end")
    for body in bodies:
        check_equal("a partial reply's body", await client.partial(), [body])
    check_equal("the final reply's body", await client.reply(), [b"end"])


@check("client/silence", clauses.AFTER_FINAL, slow=True)
@check("client/silence", clauses.SYNCHRONOUS, slow=True)
async def client_hears_nothing_after_its_reply(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    await _finish(worker, client)
    await client.hear_nothing(LISTEN * bench.heartbeat, "to a client that had its reply")


@check("client/second-reply", clauses.AFTER_FINAL, stage=Stage.UNEXPECTED)
@check("client/second-reply", clauses.ONE_REPLY, stage=Stage.UNEXPECTED)
async def second_reply_is_kept_from_the_client(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    request = await worker.request()
    worker.reply(request, b"first")
    worker.reply(request, b"second")
    check_equal("the reply's body", await client.reply(), [b"first"])
    await client.hear_nothing(1, "to a client that had its reply, as the worker replied twice")


@check("client/partial-after-final", clauses.AFTER_FINAL, stage=Stage.UNEXPECTED)
async def partial_behind_the_final_is_kept_from_the_client(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    request = await worker.request()
    worker.reply(request, b"final")
    worker.reply_partly(request, b"late")
    check_equal("the reply's body", await client.reply(), [b"final"])
    await client.hear_nothing(1, "to a client that had its reply")


@check("client/queue", clauses.QUEUE)
async def request_waits_for_a_worker(bench: Bench) -> None:
    client = await bench.call(b"early")
    await trio.sleep(1)
    worker = await bench.worker()
    request = await worker.request()
    check_equal("the request's body", body_of(request), [b"early"])
    worker.reply(request, b"done")
    check_equal("the reply's body", await client.reply(), [b"done"])


@check("client/fair", clauses.FAIR)
async def clients_take_turns(bench: Bench) -> None:
    """Four clients ask without a pause: three replies each would be fair, two are enough."""
    names = [b"client %d" % number for number in range(4)]
    clients = {name: await bench.client() for name in names}
    served: list[bytes] = []

    async def ask(name: bytes) -> None:
        while True:
            clients[name].request(bench.service, name)
            await clients[name].reply()

    worker = await bench.worker()
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask, name)
        # So that all of them wait from the start.
        await bench.moment()
        for _ in range(3 * len(names)):
            request = await worker.request()
            served += body_of(request)
            await bench.moment()
            worker.reply(request, b"done")
        nursery.cancel_scope.cancel()
    counts = [served.count(name) for name in names]
    if min(counts) < 2:
        raise NotAsSpecified(f"of 12 requests of 4 clients that always have one waiting, {counts} were served")


# ---- names of services


@check("service/apart", clauses.SERVICE_NAME)
async def names_that_look_alike_are_apart(bench: Bench) -> None:
    names = [bench.service, bench.service.upper(), bench.service[:-1], f"{bench.service}.x", f"{bench.service} "]
    workers = {name: await bench.worker(name) for name in names}
    for name, worker in workers.items():
        client = await bench.call(name.encode(), service=name)
        request = await worker.request()
        check_equal(f"what the worker of {name!r} got", body_of(request), [name.encode()])
        worker.reply(request, b"done")
        await client.reply()


@check("service/unicode", clauses.SERVICE_NAME)
async def names_may_be_any_printable_text(bench: Bench) -> None:
    name = f"{bench.service}/größe 日本 €!"
    worker, client = await bench.worker(name), await bench.call(b"ping", service=name)
    worker.reply(await worker.request(), b"pong")
    heard = await client.expect("the final reply", FinalReply)
    _check_exact(heard, bench, FinalReply(service=name, body=[b"pong"]))


@check("service/unregistered", clauses.SERVICE_NAME)
async def request_goes_to_no_other_service(bench: Bench) -> None:
    worker = await bench.worker(f"{bench.service}.other")
    await bench.call(b"ping")
    await worker.hear_nothing(1, "to a worker of another service")

"""Messages that are none: dropped, their senders not trusted, and nobody else any the wiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .._wire.frames import Frames
from .._wire.majordomo import Dialect
from .._wire.majordomo.messages import Disconnect
from . import _clauses as clauses
from ._bench import Bench
from ._checks import DIALECTS, Stage, check
from ._clauses import Clause
from ._frames import describe
from ._peer import Client, Worker, body_of
from ._verdict import NotAsSpecified, check_equal

#: What a stranger says instead of his first message, by the name of a service that is there.
Make = Callable[[bytes], Frames]

_STRANGE: Final[dict[int, dict[str, Make]]] = {
    7: {
        "empty": lambda service: [b""],
        "empty-twice": lambda service: [b"", b""],
        "garbage": lambda service: [b"\xde\xad\xbe\xef", service, b"\x00"],
        "unknown-version": lambda service: [b"", b"MDPC99", service, b"body"],
        "without-envelope": lambda service: [b"MDPC01", service, b"body"],
        "client-header-alone": lambda service: [b"", b"MDPC01"],
        "request-without-body": lambda service: [b"", b"MDPC01", service],
        "request-for-bytes": lambda service: [b"", b"MDPC01", b"\xff\xfe", b"body"],
        "worker-header-alone": lambda service: [b"", b"MDPW01"],
        "empty-command": lambda service: [b"", b"MDPW01", b"", service],
        "unknown-command": lambda service: [b"", b"MDPW01", b"\x7f", service],
        "long-command": lambda service: [b"", b"MDPW01", b"\x01\x01", service],
        "ready-without-service": lambda service: [b"", b"MDPW01", b"\x01"],
        "ready-for-bytes": lambda service: [b"", b"MDPW01", b"\x01", b"\xff\xfe"],
    },
    18: {
        "empty": lambda service: [b""],
        "garbage": lambda service: [b"\xde\xad\xbe\xef", service, b"\x00"],
        "unknown-version": lambda service: [b"MDPC99", b"\x01", service, b"body"],
        "client-header-alone": lambda service: [b"MDPC02"],
        "empty-request": lambda service: [b"MDPC02", b"\x01"],
        "request-without-body": lambda service: [b"MDPC02", b"\x01", service],
        "request-without-command": lambda service: [b"MDPC02", service, b"body"],
        "request-for-bytes": lambda service: [b"MDPC02", b"\x01", b"\xff\xfe", b"body"],
        "unknown-client-command": lambda service: [b"MDPC02", b"\x7f", service, b"body"],
        "broker-s-command": lambda service: [b"MDPC02", b"\x03", service, b"body"],
        "worker-header-alone": lambda service: [b"MDPW02"],
        "empty-command": lambda service: [b"MDPW02", b"", service],
        "unknown-command": lambda service: [b"MDPW02", b"\x7f", service],
        "long-command": lambda service: [b"MDPW02", b"\x01\x01", service],
        "ready-without-service": lambda service: [b"MDPW02", b"\x01"],
        "ready-for-bytes": lambda service: [b"MDPW02", b"\x01", b"\xff\xfe"],
    },
}


def _clause(rfc: int) -> Clause:
    """Return the clause on invalid messages, as one of the RFCs alone has it."""
    return Clause(clauses.INVALID.level, clauses.INVALID.section, {rfc: clauses.INVALID.text[rfc]})


def _register_strange(rfc: int, name: str, make: Make) -> None:
    @check(f"invalid/{name}", _clause(rfc), stage=Stage.INVALID)
    async def message_is_dropped(bench: Bench) -> None:
        worker, client = await bench.worker(), await bench.client()
        stranger = await bench.stranger()
        stranger.send(make(bench.service.encode()))
        await bench.moment()
        await _check_undisturbed(bench.service, worker, client)
        heard = await stranger.hear(within=0)
        if heard is not None and not isinstance(heard.message, Disconnect):
            raise NotAsSpecified(f"the broker has answered it: {describe(heard.frames)}")


for _rfc, _messages in _STRANGE.items():
    for _name, _make in _messages.items():
        _register_strange(_rfc, _name, _make)


async def _check_undisturbed(service: str, worker: Worker, client: Client) -> None:
    client.request(service, b"good")
    request = await worker.request()
    check_equal("what a worker got next", body_of(request), [b"good"])
    worker.reply(request, b"reply")
    check_equal("what the client got", await client.reply(), [b"reply"])


# ---- from a worker that was registered


def _prefix(dialect: Dialect) -> Frames:
    return [b"", b"MDPW01"] if dialect is DIALECTS[7] else [b"MDPW02"]


def _reply_command(dialect: Dialect) -> bytes:
    return b"\x03" if dialect is DIALECTS[7] else b"\x04"


@check("invalid/of-a-worker", clauses.INVALID, stage=Stage.INVALID)
async def worker_that_says_nonsense_is_invalid(bench: Bench) -> None:
    worker = await bench.worker(beats=False)
    worker.send([*_prefix(bench.dialect), b"\x7f"])
    await bench.moment()
    client = await bench.call(b"good")
    heard = await worker.hear(within=1)
    if heard is not None and not isinstance(heard.message, Disconnect):
        raise NotAsSpecified("its sender is given a request all the same")
    other = await bench.worker()
    other.reply(await other.request(), b"reply")
    check_equal("what the client got", await client.reply(), [b"reply"])


@check("invalid/reply-without-address", clauses.INVALID, stage=Stage.INVALID)
async def reply_without_an_address_is_dropped(bench: Bench) -> None:
    worker, bystander = await bench.worker(beats=False), await bench.worker(_apart(bench))
    client = await bench.call(b"ping")
    await worker.request()
    worker.send([*_prefix(bench.dialect), _reply_command(bench.dialect)])
    await _check_not_passed_on(bench, client, bystander)


@check("invalid/reply-without-delimiter", clauses.INVALID, stage=Stage.INVALID)
async def reply_without_the_empty_frame_is_dropped(bench: Bench) -> None:
    worker, bystander = await bench.worker(beats=False), await bench.worker(_apart(bench))
    client = await bench.call(b"ping")
    request = await worker.request()
    worker.send([*_prefix(bench.dialect), _reply_command(bench.dialect), request.client, b"mangled", b"reply"])
    await _check_not_passed_on(bench, client, bystander)


def _apart(bench: Bench) -> str:
    """Return the name of another service: the request may be given to another worker of its own."""
    return f"{bench.service}.other"


async def _check_not_passed_on(bench: Bench, client: Client, bystander: Worker) -> None:
    """The client may be told of a failure, but get nothing of what was sent; and the broker goes on."""
    heard = await client.hear(within=1)
    if heard is not None and {b"mangled", b"reply"} & set(heard.frames[-2:]):
        raise NotAsSpecified("the broker has passed it on to the client")
    await _check_undisturbed(_apart(bench), bystander, await bench.client())

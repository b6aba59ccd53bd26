"""The services that the broker answers itself."""

from __future__ import annotations

from .._wire.majordomo import Route
from .._wire.majordomo.messages import Disconnect
from .._wire.majordomo.messages import Final as FinalReply
from . import _clauses as clauses
from ._bench import DEAD, Bench
from ._checks import Stage, check
from ._peer import Worker
from ._verdict import NotAsSpecified, check_equal

DIRECTORY = "mmi.service"


async def _check_status(bench: Bench, wanted: bytes, when: str) -> None:
    check_equal(f"the status of a service {when}", await bench.ask(DIRECTORY, bench.service.encode()), [wanted])


@check("found", clauses.FOUND)
async def registered_service_is_found(bench: Bench) -> None:
    await bench.worker()
    client = await bench.call(bench.service.encode(), service=DIRECTORY)
    heard = await client.expect("the reply")
    wanted = bench.dialect.encode(Route.BROKER_TO_CLIENT, FinalReply(service=DIRECTORY, body=[b"200"]))
    check_equal("the reply", heard.frames, [bytes(frame) for frame in wanted])


@check("found-while-busy", clauses.FOUND)
async def busy_service_is_found(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.call(b"ping")
    await worker.request()
    await _check_status(bench, b"200", "whose worker is busy")


@check("absent", clauses.ABSENT)
async def unknown_service_is_absent(bench: Bench) -> None:
    await _check_status(bench, b"404", "that no worker has registered")


@check("absent-though-asked-for", clauses.ABSENT)
async def service_that_is_only_wanted_is_absent(bench: Bench) -> None:
    await bench.call(b"ping")
    await bench.moment()
    await _check_status(bench, b"404", "that is asked for and not offered")


@check("absent-after-disconnect", clauses.ABSENT, stage=Stage.UNEXPECTED)
async def service_that_was_left_is_absent(bench: Bench) -> None:
    worker = await bench.worker()
    worker.leave()
    await bench.moment()
    await _check_status(bench, b"404", "whose worker has left")


@check("absent-after-expiry", clauses.ABSENT, slow=True)
async def service_that_fell_silent_is_absent(bench: Bench) -> None:
    await bench.worker(beats=False)
    await bench.intervals(DEAD)
    await _check_status(bench, b"404", f"whose worker was silent for {DEAD * bench.heartbeat:g} s")


@check("unimplemented", clauses.UNIMPLEMENTED)
async def unknown_inquiry_is_not_implemented(bench: Bench) -> None:
    check_equal("the reply", await bench.ask(f"mmi.{bench.service}", b"ping"), [b"501"])


@check("reserved", clauses.RESERVED, stage=Stage.UNEXPECTED)
async def worker_may_not_register_there(bench: Bench) -> None:
    worker = await _intrude(bench, f"mmi.{bench.service}")
    await worker.expect("DISCONNECT", Disconnect)


@check("reserved-directory", clauses.RESERVED, stage=Stage.UNEXPECTED)
async def worker_may_not_register_as_the_directory(bench: Bench) -> None:
    worker = await _intrude(bench, DIRECTORY)
    await worker.expect("DISCONNECT", Disconnect)


@check("internal", clauses.INTERNAL)
async def request_goes_to_no_intruder(bench: Bench) -> None:
    name = f"mmi.{bench.service}"
    worker = await _intrude(bench, name)
    client = await bench.call(b"ping", service=name)
    heard = await worker.hear(within=1)
    if heard is not None and not isinstance(heard.message, Disconnect):
        raise NotAsSpecified(f"the broker passed a request for {name} on to a worker")
    check_equal("the reply", await client.reply(), [b"501"])


@check("namespace", clauses.INTERNAL)
async def other_names_are_not_the_broker_s(bench: Bench) -> None:
    name = f"mmi-{bench.service}"
    worker, client = await bench.worker(name), await bench.call(b"ping", service=name)
    worker.reply(await worker.request(), b"pong")
    check_equal("the reply's body", await client.reply(), [b"pong"])


async def _intrude(bench: Bench, service: str) -> Worker:
    """Return a worker that has tried to register a service of the broker."""
    worker = await bench.stranger()
    worker.ready(service)
    await bench.moment()
    return worker

"""Heartbeats, and what their absence means."""

from __future__ import annotations

from itertools import pairwise

import trio

from . import _clauses as clauses
from ._bench import DEAD, Bench
from ._checks import check
from ._peer import Client, Worker, body_of
from ._verdict import NotAsSpecified, check_equal
from ._worker_checks import read_exactly

# ---- the broker's


async def _check_beats(bench: Bench, worker: Worker) -> None:
    """Listen for a while; who leaves one beat out after a command is still regular."""
    began = trio.current_time()
    worker.beats.clear()
    await bench.intervals(4.5)
    times = [began, *(heard.at for heard in worker.beats), trio.current_time()]
    longest = max(later - sooner for sooner, later in pairwise(times))
    if longest > 2.5 * bench.heartbeat:
        raise NotAsSpecified(
            f"{len(worker.beats)} heartbeats in {4.5 * bench.heartbeat:g} s at an interval of {bench.heartbeat:g} s; "
            f"{longest:.3g} s went without one"
        )


@check("worker/heartbeats", clauses.BEAT, slow=True)
async def idle_worker_hears_heartbeats(bench: Bench) -> None:
    await _check_beats(bench, await bench.worker())


@check("worker/heartbeats-while-busy", clauses.BEAT, slow=True)
async def busy_worker_hears_heartbeats(bench: Bench) -> None:
    worker, client = await bench.worker(), await bench.call(b"ping")
    request = await worker.request()
    await _check_beats(bench, worker)
    worker.reply(request, b"pong")
    check_equal("the reply's body", await client.reply(), [b"pong"])


@check("worker/heartbeat-form", clauses.HEARTBEAT_FORM, slow=True)
async def heartbeat_has_its_form(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.intervals(2.5)
    if not worker.beats:
        raise NotAsSpecified(f"no HEARTBEAT within {2.5 * bench.heartbeat:g} s")
    for heard in worker.beats:
        read_exactly(heard, bench, "HEARTBEAT")


@check("worker/no-needless-heartbeats", clauses.NEEDLESS_BEATS, slow=True)
async def worker_with_requests_hears_no_heartbeats(bench: Bench) -> None:
    """One request follows the other for some intervals: no beat may come close behind a command."""
    worker, client = await bench.worker(), await bench.client()
    worker.beats.clear()
    commands: list[float] = []
    for _ in range(30):
        await _exchange(bench, worker, client)
        commands.append(trio.current_time())
        await bench.intervals(0.1)
    needless = [beat for beat in worker.beats if any(0 <= beat.at - at < 0.5 * bench.heartbeat for at in commands)]
    if needless:
        raise NotAsSpecified(f"{len(needless)} HEARTBEATs among {len(commands)} REQUESTs in {3 * bench.heartbeat:g} s")


# ---- the worker's


async def _exchange(bench: Bench, worker: Worker, client: Client) -> None:
    client.request(bench.service, b"ping")
    worker.reply(await worker.request(), b"pong")
    check_equal("the reply's body", await client.reply(), [b"pong"])


@check("worker/stays", clauses.EXPIRE, slow=True)
async def worker_that_beats_stays(bench: Bench) -> None:
    worker = await bench.worker()
    await worker.hear_nothing((DEAD + 1) * bench.heartbeat, "to an idle worker that beats")
    await _exchange(bench, worker, await bench.client())


@check("worker/late-heartbeat", clauses.EXPIRE, slow=True)
async def worker_may_be_a_little_late(bench: Bench) -> None:
    worker = await bench.worker(beats=False)
    await worker.hear_nothing(1.5 * bench.heartbeat, "to a worker that is half an interval late")
    await _exchange(bench, worker, await bench.client())


@check("worker/replies-beat", clauses.ANY_COMMAND_BEATS, slow=True)
async def replies_count_as_heartbeats(bench: Bench) -> None:
    worker, client = await bench.worker(beats=False), await bench.client()
    for _ in range(int(DEAD) + 1):
        await bench.intervals(1)
        await _exchange(bench, worker, client)


@check("worker/partials-beat", clauses.PARTIALS_BEAT, slow=True)
async def partials_count_as_heartbeats(bench: Bench) -> None:
    worker, client = await bench.worker(beats=False), await bench.call(b"ping")
    request = await worker.request()
    for number in range(int(DEAD) + 1):
        worker.reply_partly(request, b"%d" % number)
        check_equal("a partial reply's body", await client.partial(), [b"%d" % number])
        await worker.hear_nothing(bench.heartbeat, "to a worker that sends partial replies")
    worker.reply(request, b"done")
    check_equal("the reply's body", await client.reply(), [b"done"])


@check("worker/expiry", clauses.EXPIRE, slow=True)
async def silent_worker_gets_no_request(bench: Bench) -> None:
    """With another worker busy, the second of two requests could only go to the one that has fallen silent."""
    silent = await bench.worker(beats=False)
    await bench.intervals(DEAD)
    silent.forget()
    worker = await bench.worker()
    clients = {body: await bench.call(body) for body in (b"first", b"second")}
    for _ in clients:
        request = await worker.request()
        await silent.hear_nothing(1, f"to a worker that was silent for {DEAD * bench.heartbeat:g} s")
        worker.reply(request, *body_of(request))
    for body, client in clients.items():
        check_equal("a client's reply", await client.reply(), [body])


@check("worker/expiry-silence", clauses.STOP_SENDING, slow=True)
async def silent_worker_hears_nothing(bench: Bench) -> None:
    await _check_given_up(bench, await bench.worker(beats=False))


@check("worker/expiry-while-busy", clauses.STOP_SENDING, slow=True)
async def silent_busy_worker_hears_nothing(bench: Bench) -> None:
    worker = await bench.worker(beats=False)
    await bench.call(b"ping")
    await worker.request()
    await _check_given_up(bench, worker)


async def _check_given_up(bench: Bench, worker: Worker) -> None:
    """Nothing more may come."""
    await bench.intervals(DEAD)
    worker.forget()
    when = f"to a worker that was silent for {DEAD * bench.heartbeat:g} s"
    await worker.hear_nothing_at_all(1.5 * bench.heartbeat, when)

"""Both versions of MDP at one broker; each check exists twice, with the versions changing places."""

from __future__ import annotations

from .._wire.majordomo import MDP01, MDP02, Dialect
from .._wire.majordomo.messages import Request
from . import _clauses as clauses
from ._bench import Bench
from ._checks import check
from ._frames import describe
from ._peer import Client, Worker, body_of
from ._verdict import NotAsSpecified, check_equal


def _other(bench: Bench) -> Dialect:
    return MDP02 if bench.dialect is MDP01 else MDP01


def _check_understood(peer: Client | Worker) -> None:
    """Nothing may have come that is not of the peer's own version."""
    strange = [heard for heard in peer.heard if heard.message is None]
    if strange:
        raise NotAsSpecified(f"a peer that speaks {peer.dialect.name} got {describe(strange[0].frames)}")


@check("beside/apart", clauses.HEADER, both=True)
async def versions_live_side_by_side(bench: Bench) -> None:
    name = f"{bench.service}.other"
    worker, client = await bench.worker(), await bench.client()
    other, caller = await bench.worker(name, dialect=_other(bench)), await bench.client(_other(bench))
    for number in range(3):
        body = b"%d" % number
        client.request(bench.service, body)
        caller.request(name, body)
        for each in (worker, other):
            request = await each.request()
            each.reply(request, *body_of(request))
        check_equal(f"the reply to {client.dialect.name}", await client.reply(), [body])
        check_equal(f"the reply to {caller.dialect.name}", await caller.reply(), [body])
    for peer in (worker, other, client, caller):
        _check_understood(peer)


@check("beside/crossed", clauses.HEADER, both=True)
async def versions_meet_in_one_service(bench: Bench) -> None:
    """A broker may pass requests between versions or not; but nobody may get what is not of his own."""
    worker, client = await bench.worker(dialect=_other(bench)), await bench.call(b"ping")
    if await worker.hear(within=1) is not None:
        _check_understood(worker)
        request = worker.heard[-1].message
        if isinstance(request, Request):
            worker.reply(request, b"pong")
            check_equal("the reply's body", await client.reply(), [b"pong"])
    _check_understood(client)

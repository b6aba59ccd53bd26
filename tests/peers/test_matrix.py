"""Every client calls every worker, on one endpoint of one broker, all at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import interop_tables
import trio
from outsiders import CLIENTS, PATIENCE, WORKERS, Caller, Outcome, Stage

from zmdp_trio import Client, Final, Service, open_broker, open_client, open_worker, service

OURS = "ZMDP/1"
PAYLOAD = {"text": "smørrebrød", "list": [1, 2.5, None, True]}


@attrs.frozen
class Ours:
    """Our client, as the other ones are asked."""

    client: Client

    async def ask(self, service: str, payload: Any) -> Outcome:
        async with self.client.stream(service, payload) as stream:
            partials = [read(partial) async for partial in stream]
        return Outcome(partials, read(stream.final))


def read(reply: Any) -> Any:
    """What an MDP worker sends arrives as bytes."""
    return json.loads(reply) if isinstance(reply, bytes) else reply


async def echo(payload: Any) -> Any:
    return payload


async def count(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield i
    yield Final(n)


def names(dialect: str) -> dict[str, str]:
    """The services of a worker, and their kinds."""
    return {f"{kind} by {dialect}": kind for kind in ("echo", "count")}


def services() -> list[Service[..., Any]]:
    return [service(name, {"echo": echo, "count": count}[kind]) for name, kind in names(OURS).items()]


#: What a client gets of three partial replies, in the words of the document.
COUNTED = {
    "one reply": Outcome([], 3),
    "joined": Outcome([], ["0", "1", "2", "3"]),
    "partials": Outcome([0, 1, 2], 3),
}


def expected() -> dict[tuple[str, str], dict[str, Outcome]]:
    """What the document says, for the dialects that there are peers of."""
    known = {OURS, *CLIENTS, *WORKERS}
    return {
        cell: {"echo": Outcome([], PAYLOAD), "count": COUNTED[form]}
        for cell, form in interop_tables.streamed_cells().items()
        if known.issuperset(cell)
    }


async def test_every_client_reaches_every_worker(stage: Stage) -> None:
    async with open_broker("tcp://127.0.0.1:*", appear=PATIENCE) as broker:
        (endpoint,) = broker.endpoints
        async with open_worker(services(), endpoint), open_client(endpoint) as client:
            for dialect in WORKERS:
                await stage.worker(dialect, endpoint, names(dialect))
            callers: dict[str, Caller | Ours] = {OURS: Ours(client)}
            for dialect in CLIENTS:
                callers[dialect] = await stage.client(dialect, endpoint)
            cells: dict[tuple[str, str], dict[str, Outcome]] = {}

            async def call_all(name: str, caller: Caller | Ours) -> None:
                for worker in (OURS, *WORKERS):
                    cells[name, worker] = {
                        kind: await caller.ask(service, 3 if kind == "count" else PAYLOAD)
                        for service, kind in names(worker).items()
                    }

            async with trio.open_nursery() as nursery:
                for name, caller in callers.items():
                    nursery.start_soon(call_all, name, caller)
    documented = expected()
    wrong = {cell: (found, documented[cell]) for cell, found in cells.items() if found != documented[cell]}
    assert wrong == {}
    assert len(cells) == len(documented) == (1 + len(CLIENTS)) * (1 + len(WORKERS))


async def test_bodies_of_several_frames(stage: Stage) -> None:
    """MDP has them, ours are a list of bytes; the others get them not at all, since JSON has no bytes."""
    frames = ["one", "", "three"]
    dialects = [dialect for dialect in WORKERS if dialect not in ("OMDP", "PIGATO")]
    async with open_broker("tcp://127.0.0.1:*", appear=PATIENCE) as broker:
        (endpoint,) = broker.endpoints
        async with open_worker(services(), endpoint), open_client(endpoint) as client:
            for dialect in WORKERS:
                await stage.worker(dialect, endpoint, names(dialect))
            for dialect in dialects:
                caller = await stage.client(dialect, endpoint)
                for worker in (OURS, *dialects):
                    assert await caller.ask(f"echo by {worker}", frames=frames) == Outcome([], frames)
                for worker in ("OMDP", "PIGATO"):
                    outcome = await caller.ask(f"echo by {worker}", frames=frames)
                    assert outcome.final["error"]["code"] == "INVALID_ARGUMENT"
                ours = await client.request(f"echo by {dialect}", [frame.encode() for frame in frames])
                assert ours == [frame.encode() for frame in frames]

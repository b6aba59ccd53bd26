"""The programs here that speak MDP and OMDP by themselves, since no package does it right, speak it to the letter."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import trio
import zmq
from outsiders import PATIENCE, Outcome, Stage

Frames = list[bytes]


class Router:
    """The socket of a broker, played by hand."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.bind("tcp://127.0.0.1:*")
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def receive(self, *, but: Frames) -> tuple[bytes, Frames]:
        """Wait for a message that is no heartbeat; return who sent it, and its frames.

        Heartbeats are answered, as a broker does: workers that hear nothing for three of theirs start over.
        """
        with trio.fail_after(PATIENCE):
            while True:
                await trio.lowlevel.checkpoint()
                if not await trio.to_thread.run_sync(self._socket.poll, 100):
                    continue
                peer, *frames = self._socket.recv_multipart()
                if frames != but:
                    return peer, frames
                self.send(peer, *frames)

    def send(self, peer: bytes, *frames: bytes) -> None:
        self._socket.send_multipart([peer, *frames])


@pytest.fixture
def router() -> Iterator[Router]:
    with zmq.Context() as context:
        context.linger = 0
        router = Router(context)
        yield router
        context.destroy()


async def test_mdp_01_client(stage: Stage, router: Router) -> None:
    """RFC 7: empty, header, service, body."""
    client = await stage.client("MDP 0.1", router.endpoint)
    pending = await client.begin("echo", frames=["one", "two"])
    peer, frames = await router.receive(but=[])
    assert frames == [b"", b"MDPC01", b"echo", b"one", b"two"]
    router.send(peer, b"", b"MDPC01", b"echo", b'"done"')
    assert await pending.reply() == {"event": "final", "data": "done", "error": None}


async def test_mdp_02_client(stage: Stage, router: Router) -> None:
    """RFC 18: header, command, service, body; no empty frame."""
    client = await stage.client("MDP 0.2", router.endpoint)
    pending = await client.begin("echo", frames=["one", "two"])
    peer, frames = await router.receive(but=[])
    assert frames == [b"MDPC02", b"\x01", b"echo", b"one", b"two"]
    router.send(peer, b"MDPC02", b"\x02", b"echo", b"0")
    router.send(peer, b"MDPC02", b"\x03", b"echo", b"1")
    assert [(await pending.reply())["event"] for _ in range(2)] == ["partial", "final"]


MDP_WORKERS = {
    "MDP 0.1": ([b"", b"MDPW01"], {"final": b"\x03", "heartbeat": b"\x04", "disconnect": b"\x05"}),
    "MDP 0.2": ([b"MDPW02"], {"partial": b"\x03", "final": b"\x04", "heartbeat": b"\x05", "disconnect": b"\x06"}),
}


@pytest.mark.parametrize("dialect", MDP_WORKERS)
async def test_mdp_worker(stage: Stage, router: Router, dialect: str) -> None:
    header, commands = MDP_WORKERS[dialect]
    beat = [*header, commands["heartbeat"]]
    worker = await stage.worker(dialect, router.endpoint, {"count": "count"}, heartbeat=0.2)
    first, frames = await router.receive(but=beat)
    assert frames == [*header, b"\x01", b"count"]
    router.send(first, *header, b"\x02", b"client", b"", b"2")
    await worker.news("request", frames=["2"])
    if "partial" in commands:
        for number in (b"0", b"1"):
            assert await router.receive(but=beat) == (first, [*header, commands["partial"], b"client", b"", number])
    assert await router.receive(but=beat) == (first, [*header, commands["final"], b"client", b"", b"2"])
    assert await router.receive(but=[]) == (first, beat)
    router.send(first, *header, commands["disconnect"])
    second, frames = await router.receive(but=beat)
    assert frames == [*header, b"\x01", b"count"]
    assert second != first
    await worker.news("disconnect")


async def test_omdp_client(stage: Stage, router: Router) -> None:
    client = await stage.client("OMDP", router.endpoint, heartbeat=200)
    pending = await client.begin("count", {"n": 2}, beat=100, opts={"retry": 1})
    peer, frames = await router.receive(but=[b"C", b"4"])
    *head, rid, payload, opts = frames
    assert [*head, payload, opts] == [b"C", b"2", b"count", b'{"n":2}', b'{"timeout":60000,"retry":1}']
    assert await router.receive(but=[b"C", b"4"]) == (peer, [b"C", b"4", rid])
    router.send(peer, b"C", b"6", rid, b"0", b"[0]")
    router.send(peer, b"C", b"3", rid, b'{"code":"TEAPOT"}')
    assert await pending.reply() == {"event": "partial", "data": [0], "error": None}
    assert await pending.reply() == {"event": "final", "data": None, "error": {"code": "TEAPOT"}}
    assert await client.ask("silence", opts={"timeout": 100}) == Outcome(error="C_TIMEOUT")


async def test_omdp_worker(stage: Stage, router: Router) -> None:
    services = {"count": "count", "fail": "fail", "tick": "tick"}
    worker = await stage.worker("OMDP", router.endpoint, services, heartbeat=200)
    beat = [b"W", b"4"]
    names = {}
    for _ in services:
        peer, (*head, service) = await router.receive(but=beat)
        assert head == [b"W", b"1"]
        names[service] = peer
    router.send(names[b"count"], b"W", b"2", b"client", b"r1", b"1")
    assert (await router.receive(but=beat))[1] == [b"W", b"6", b"client", b"r1", b"0", b"0"]
    assert (await router.receive(but=beat))[1] == [b"W", b"3", b"client", b"r1", b"0", b"1"]
    router.send(names[b"fail"], b"W", b"2", b"client", b"r2", b'{"short":1}')
    assert (await router.receive(but=beat))[1] == [b"W", b"3", b"client", b"r2", b'{"short":1}']
    router.send(names[b"tick"], b"W", b"2", b"client", b"r3", b"0.1")
    assert (await router.receive(but=beat))[1] == [b"W", b"6", b"client", b"r3", b"0", b"0"]
    await worker.news("inactive")


async def test_req_client(stage: Stage, router: Router) -> None:
    """It sends all its requests at once, and its socket one after the other."""
    paths = [f"file {i}" for i in range(5)]
    client = await stage.req_client(router.endpoint, paths=paths)
    for i, path in enumerate(paths):
        peer, frames = await router.receive(but=[])
        assert frames == [b"", json.dumps({"path": path}, separators=(",", ":")).encode()]
        router.send(peer, b"", b"%d" % i)
        assert (await client.news("reply"))["reply"] == i
    assert await client.ended() == 0

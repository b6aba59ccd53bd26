"""Clients of each dialect get what workers of each dialect say, in their own terms."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from legacy import Legacy
from stage import Stage, check_counters

from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import DIALECTS
from zmdp_trio._wire.majordomo import messages as m

OURS = "zmdp/1"
NAMES = [OURS, *DIALECTS]
PAYLOAD = b'{"n":3}'
VALUE = {"n": 3}


class Client:
    """Asks, and reads what came, whatever it speaks: values, and how it ended."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self.legacy = None if name == OURS else Legacy(stage, DIALECTS[name], is_worker=False)
        self.ours = stage.client() if name == OURS else None

    def ask(self, service: str = "echo") -> None:
        if self.legacy is not None:
            self.legacy.ask(service, PAYLOAD)
        elif self.ours is not None:
            self.ours.send(c.Request(1, service, c.Content.MSGPACK, msgspec.msgpack.encode(VALUE), 64, 2**20))

    def replies(self) -> tuple[list[Any], Any, Any]:
        """Partial values, the final one, and the error."""
        partials: list[Any] = []
        final = error = None
        for reply in self.legacy.take() if self.legacy is not None else self.ours.take():  # type: ignore[union-attr]
            if isinstance(reply, m.Partial | c.Partial):
                partials.append(value(reply))
            elif isinstance(reply, m.Final | c.Final):
                final = value(reply)
            elif isinstance(reply, m.Failure):
                error = msgspec.json.decode(reply.error)
            elif isinstance(reply, c.Error):
                error = {"code": reply.code, "message": reply.message}
        return partials, final, error


class Worker:
    """Offers, and replies, whatever it speaks."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self.legacy = None if name == OURS else Legacy(stage, DIALECTS[name], is_worker=True)
        self.ours: Any = stage.worker("echo") if name == OURS else None
        if self.legacy is not None:
            self.legacy.ready()

    def take(self) -> Any:
        [request] = self.legacy.take(m.Request) if self.legacy is not None else self.ours.take(c.Request)
        return request

    def partial(self, request: Any, text: bytes) -> None:
        if self.legacy is not None:
            self.legacy.partial(request, text)
        else:
            self.ours.send(c.Partial(request.id, c.Content.MSGPACK, packed(text)))

    def reply(self, request: Any, text: bytes) -> None:
        if self.legacy is not None:
            self.legacy.reply(request, text)
        else:
            self.ours.send(c.Final(request.id, c.Content.MSGPACK, packed(text)))

    def fail(self, request: Any) -> None:
        if self.legacy is not None:
            self.legacy.say(m.Failure(b'{"code":"NOT_FOUND","message":"gone"}', id=request.id, client=request.client))
        else:
            self.ours.send(c.Error(request.id, "NOT_FOUND", "", "gone"))


def packed(text: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.json.decode(text))


def value(message: Any) -> Any:
    """The value of a body, read as what it says it is, or as JSON where nobody says."""
    if isinstance(message, m.Request | m.Partial | m.Final):
        bodies = [msgspec.json.decode(frame) for frame in message.body]
        return bodies[0] if len(bodies) == 1 else bodies
    decode = msgspec.msgpack.decode if message.content == c.Content.MSGPACK else msgspec.json.decode
    decoded = decode(message.body)
    return (
        [msgspec.json.decode(each) if isinstance(each, bytes) else each for each in decoded]
        if isinstance(decoded, list)
        else decoded
    )


def has_partials(name: str) -> bool:
    return name == OURS or DIALECTS[name].partials


def has_failures(name: str) -> bool:
    return name == OURS or DIALECTS[name].failures


@pytest.mark.parametrize("worker", NAMES)
@pytest.mark.parametrize("client", NAMES)
def test_a_request_and_its_replies(client: str, worker: str) -> None:
    stage = Stage()
    stage.advance(1.0)
    serving, asking = Worker(stage, worker), Client(stage, client)
    for _ in range(2):
        asking.ask()
        request = serving.take()
        assert value(request) == VALUE
        sent = [b'{"i":0}', b'"one"', b"2"] if has_partials(worker) else []
        for text in sent:
            serving.partial(request, text)
        serving.reply(request, b'{"done":true}')
        partials, final, error = asking.replies()
        assert error is None
        if has_partials(client):
            assert partials == [msgspec.json.decode(text) for text in sent]
            assert final == {"done": True}
        else:
            assert partials == []
            whole = [*map(msgspec.json.decode, sent), {"done": True}]
            assert final == (whole if sent else {"done": True})
    assert stage.held() == {"echo": (0, 0, 0)}
    check_counters(stage.broker)
    assert stage.broker.protocol_errors == 0
    stage.advance(3.0)
    assert stage.broker.memory == 0


@pytest.mark.parametrize("worker", [name for name in NAMES if has_failures(name)])
@pytest.mark.parametrize("client", NAMES)
def test_an_error(client: str, worker: str) -> None:
    stage = Stage()
    stage.advance(1.0)
    serving, asking = Worker(stage, worker), Client(stage, client)
    asking.ask()
    serving.fail(serving.take())
    expected = {"code": "NOT_FOUND", "message": "gone"}
    _, final, error = asking.replies()
    assert (error if has_failures(client) else final) == (expected if has_failures(client) else {"error": expected})
    stage.advance(3.0)
    assert stage.broker.memory == 0


@pytest.mark.parametrize("client", NAMES)
def test_a_client_that_leaves(client: str) -> None:
    """A worker of another dialect keeps its slot until it is through, and what it says is swallowed."""
    for worker in NAMES:
        stage = Stage()
        stage.advance(1.0)
        serving, asking = Worker(stage, worker), Client(stage, client)
        asking.ask()
        request = serving.take()
        if asking.legacy is not None:
            asking.legacy.vanish()
        elif asking.ours is not None:
            asking.ours.send(c.Cancel(1))
        stage.advance(11.0)
        assert stage.held() == {"echo": (0, 0, 1)}
        serving.reply(request, b"1")
        assert stage.held() == {"echo": (0, 0, 0)}
        assert stage.broker.services()[0].counters.cancelled == 1

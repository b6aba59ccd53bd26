"""A client and a worker of any two dialects at one broker, and what the client gets.

`make interop` makes the document's matrix of it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from legacy import Legacy
from stage import Stage

from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import DIALECTS
from zmdp_trio._wire.majordomo import messages as m

OURS: Final = "zmdp/1"
NAMES: Final = [OURS, *DIALECTS]
PAYLOAD: Final = b'{"n":3}'
VALUE: Final = {"n": 3}

#: What workers say, as JSON.
PARTIALS: Final = (b'{"i":0}', b'"one"', b"2")
FINAL: Final = b'{"done":true}'
ERROR: Final = {"code": "NOT_FOUND", "message": "gone"}


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


class Pair:
    """A client and a worker, and nobody else at their broker."""

    def __init__(self, client: str, worker: str) -> None:
        self.stage = Stage()
        self.stage.advance(1.0)
        self.worker, self.client = Worker(self.stage, worker), Client(self.stage, client)

    def begin(self) -> Any:
        """Let the client ask; return the request as the worker has it."""
        self.client.ask()
        request = self.worker.take()
        assert value(request) == VALUE
        return request

    def serve(self, *partials: bytes) -> str:
        """Have one request served, with these partial replies; return in a word what the client gets."""
        request = self.begin()
        for text in partials:
            self.worker.partial(request, text)
        self.worker.reply(request, FINAL)
        sent, last = [msgspec.json.decode(text) for text in partials], msgspec.json.decode(FINAL)
        forms = {"one reply": ([], last, None), "joined": ([], [*sent, last], None), "partials": (sent, last, None)}
        return self._form(forms if partials else {"one reply": forms["one reply"]})

    def fail(self) -> str:
        """Have one request end with an error; return in a word what the client gets."""
        self.worker.fail(self.begin())
        return self._form({"error": ([], None, ERROR), "error as a reply": ([], {"error": ERROR}, None)})

    def _form(self, forms: dict[str, tuple[Any, Any, Any]]) -> str:
        replies = self.client.replies()
        (form,) = [form for form, expected in forms.items() if expected == replies] or [f"unforeseen: {replies}"]
        return form


# ---- as documented


def single(client: str, worker: str) -> str:
    """Return in a word what a client gets of one reply, and of an error, if the worker's dialect has one."""
    forms = [Pair(client, worker).serve()]
    if has_failures(worker):
        forms.append(Pair(client, worker).fail())
    return "; ".join(forms)


def streamed(client: str, worker: str) -> str:
    """Return in a word what a client gets of partial replies and the final one."""
    return Pair(client, worker).serve(*(PARTIALS if has_partials(worker) else ()))

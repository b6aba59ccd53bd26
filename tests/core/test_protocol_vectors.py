"""docs/protocol.md and docs/protocol/vectors.json say what the code does.

The document's tables are read and compared with the code; the vectors go through the codec in both directions; the
conversations are played to each machine that takes part, which must say, byte for byte, what is its to say.
docs/protocol/make_vectors.py writes the vectors anew.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zmdp_trio import _errors
from zmdp_trio._core import link
from zmdp_trio._core.broker import BrokerMachine
from zmdp_trio._core.broker import machine as broker_machine
from zmdp_trio._core.broker import recovery as broker_recovery
from zmdp_trio._core.broker import workers as broker_workers
from zmdp_trio._core.client import Call, ClientMachine
from zmdp_trio._core.uplink import Identity
from zmdp_trio._core.worker import WorkerMachine
from zmdp_trio._core.worker import execution as worker_execution
from zmdp_trio._core.worker import machine as worker_machine
from zmdp_trio._errors import Code, ProtocolError
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

DOCS = Path(__file__).parents[2] / "docs"
VECTORS = DOCS / "protocol" / "vectors.json"
COMMANDS = {cls.__name__.upper(): cls for cls in c.ALL}
PARTS = {cls.__name__.upper(): cls for cls in (c.Limits, c.Offer, c.Held, c.Holding)}


# ---- values as JSON


def bytes_from_json(value: Any) -> bytes:
    """Read bytes: hex, or one byte many times."""
    if isinstance(value, dict) and "times" in value:
        return bytes.fromhex(value["byte"]) * value["times"]
    return bytes.fromhex(value["bin"] if isinstance(value, dict) else value)


def bytes_to_json(data: bytes) -> Any:
    """Write bytes as hex; what is long and the same all through in short."""
    if len(data) > 1000 and len(set(data)) == 1:
        return {"byte": data[:1].hex(), "times": len(data)}
    return data.hex()


def value_to_json(value: Any) -> Any:
    """Write a field's value."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes_to_json(bytes(value))
        return {"bin": data} if isinstance(data, str) else data
    if value == math.inf:
        return "infinity"
    if isinstance(value, list | tuple):
        return [value_to_json(each) for each in value]
    if isinstance(value, msgspec.Struct):
        return {name: value_to_json(getattr(value, name)) for name in value.__struct_fields__}
    return value


def value_from_json(value: Any) -> Any:
    """Read a field's value as what msgspec makes objects of."""
    if isinstance(value, dict) and ("bin" in value or "times" in value):
        return bytes_from_json(value)
    if value == "infinity":
        return math.inf
    if isinstance(value, list):
        return [value_from_json(each) for each in value]
    if isinstance(value, dict):
        return {name: value_from_json(each) for name, each in value.items()}
    return value


def command_to_json(command: c.Command) -> dict[str, Any]:
    """Write a command: its name, and its fields by name."""
    return {type(command).__name__.upper(): value_to_json(command)}


def command_from_json(document: dict[str, Any]) -> Any:
    """Read a command."""
    ((name, fields),) = document.items()
    cls = COMMANDS[name]
    types = {field.name: field.type for field in msgspec.structs.fields(cls)}
    values = {}
    for field, value in value_from_json(fields).items():
        values[field] = part_from_json(value) if field in ("limits", "offers", "held", "holdings") else value
        assert field in types
    return cls(**values)


def part_from_json(value: Any) -> Any:
    """Read what stands in a command's field as arrays of its own."""
    if isinstance(value, list):
        return [part_from_json(each) for each in value]
    if isinstance(value, dict):
        return next(cls(**value) for cls in PARTS.values() if set(cls.__struct_fields__) == set(value))
    return value


def frames_of(vector: dict[str, Any]) -> list[bytes]:
    """Return a vector's frames."""
    return [bytes_from_json(frame) for frame in vector["frames"]]


# ---- a machine that plays its part in a conversation


class Player:
    """One machine of a conversation: messages in, messages out, by connection."""

    def __init__(self, conversation: dict[str, Any], name: str) -> None:
        self.name = name
        self.conversation = conversation
        self.settings = Settings(**conversation["settings"])
        self.out: defaultdict[str, deque[list[bytes]]] = defaultdict(deque)
        what = self.what = conversation["machines"][name]
        self.machine: Any
        if what["role"] == "broker":
            self.machine = BrokerMachine(name=name, epoch=bytes.fromhex(what["epoch"]), settings=self.settings)
            return
        identity = Identity(bytes.fromhex(what["session"]), name)
        if what["role"] == "client":
            self.machine = ClientMachine(identity, self.settings)
        else:
            self.machine = WorkerMachine(identity, self.settings, what["services"])
        self.uplinks: dict[str, Any] = {}
        self.calls: dict[int, Call] = {}
        self.executions: dict[int, Any] = {}
        self.current: dict[str, str] = {}

    @property
    def is_broker(self) -> bool:
        return self.what["role"] == "broker"

    def uplink(self, connection: str) -> Any:
        """Return a client's or a worker's session by its connection."""
        broker = self.conversation["connections"][connection]["broker"]
        endpoint = self.conversation["machines"][broker].get("replaces", broker)
        if endpoint not in self.uplinks:
            self.uplinks[endpoint] = self.machine.add(endpoint)
        return self.uplinks[endpoint]

    def drain(self) -> None:
        """Collect what the machine has to send."""
        for each in self.machine.take_dirty():
            each.scheduled = False
            while each.peer is not None and (frames := each.next_batch()) is not None:
                connection = each.peer.decode() if self.is_broker else self.current[each.peer]
                self.out[connection].append([bytes(frame) for frame in frames])
                each.batch_sent()
        if self.what["role"] == "worker":
            told = [execution for _, execution in self.machine.take_events()]
            for execution in self.machine.take_started() + told:
                self.executions[execution.id] = execution

    def event(self, step: dict[str, Any]) -> None:
        """A connection comes or goes, or time passes."""
        connection, now = step.get("connection", ""), step["at"]
        if step["event"] == "time":
            self.machine.handle_timer(now=now)
        elif self.is_broker:
            if step["event"] == "lost":
                self.machine.lost(connection.encode(), now=now)
        else:
            uplink = self.uplink(connection)
            if step["event"] == "lost":
                self.machine.lost(uplink, "lost", now=now)
            else:
                self.current[uplink.endpoint] = connection
                self.machine.connected(uplink, now=now)
        self.drain()

    def receive(self, step: dict[str, Any]) -> None:
        """A message comes."""
        connection, frames, now = step["connection"], frames_of(step), step["at"]
        if self.is_broker:
            self.machine.receive(connection.encode(), frames, now=now)
        else:
            self.machine.receive(self.uplink(connection), frames, now=now)
        self.drain()

    def act(self, connection: str, commands: list[Any], now: float) -> None:
        """Do what these commands come of; those that the machine sends by itself are left to it."""
        act = getattr(self, f"_{self.what['role']}")
        for command in commands:
            act(command, now)
        self.drain()

    def _broker(self, command: Any, now: float) -> None:
        if type(command) is c.Drain:
            self.machine.drain()
        elif type(command) is c.Goodbye:
            self.machine.goodbye()

    def _client(self, command: Any, now: float) -> None:
        machine = self.machine
        if type(command) is c.Request:
            deadline = math.inf if command.left is None else now + command.left
            call = self.calls[command.id] = Call(command, explicit_deadline=deadline)
            machine.start(call, now=now)
        elif type(command) is c.Cancel:
            machine.cancel(self.calls[command.id])
        elif type(command) is c.Credit:
            machine.take(self.calls[command.id])
        elif type(command) is c.Heartbeat:
            for held in command.held:
                machine.move_deadline(self.calls[held.id], now + held.left, now=now)
        elif type(command) is c.Goodbye:
            machine.goodbye()

    def _worker(self, command: Any, now: float) -> None:
        machine = self.machine
        execution = self.executions.get(getattr(command, "id", 0))
        if type(command) is c.Partial:
            machine.partial(execution, command.content, command.body)
        elif type(command) is c.Final:
            machine.finish(execution, command.content, command.body)
        elif type(command) is c.Error:
            machine.fail(execution, Code(command.code), command.message, reason=command.reason, details=command.details)
        elif type(command) is c.Reject:
            machine.reject(execution)
        elif type(command) is c.Heartbeat:
            for held in command.held:
                machine.heartbeat(self.executions[held.id])
        elif type(command) is c.Drain:
            machine.drain()
        elif type(command) is c.Goodbye:
            machine.goodbye()


# ---- the vectors

DOCUMENT = json.loads(VECTORS.read_text())
VALID: list[dict[str, Any]] = DOCUMENT["valid"]
INVALID: list[dict[str, Any]] = DOCUMENT["invalid"]
CONVERSATIONS: list[dict[str, Any]] = DOCUMENT["conversations"]
SPOKEN = [
    pytest.param(step, id=f"{conversation['name']}-{number}")
    for conversation in CONVERSATIONS
    for number, step in enumerate(conversation["steps"])
    if "frames" in step and conversation["machines"][step["from"]]["role"] != "stranger"
]


def named(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


@pytest.mark.parametrize("vector", named(VALID))
def test_decode(vector: dict[str, Any]) -> None:
    commands, skipped = zmdp1.decode(frames_of(vector))
    assert [command_to_json(command) for command in commands] == vector["commands"]
    assert skipped == vector["skipped"]


@pytest.mark.parametrize("vector", [*named([vector for vector in VALID if vector["canonical"]]), *SPOKEN])
def test_encode(vector: dict[str, Any]) -> None:
    batch, *commands = map(command_from_json, vector["commands"])
    assert [bytes(frame) for frame in zmdp1.encode(batch, commands)] == frames_of(vector)


@pytest.mark.parametrize("vector", SPOKEN)
def test_decode_what_is_spoken(vector: dict[str, Any]) -> None:
    commands, skipped = zmdp1.decode(frames_of(vector))
    assert [command_to_json(command) for command in commands] == vector["commands"]
    assert skipped == 0


@pytest.mark.parametrize("vector", named(INVALID))
def test_malformed_messages_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        zmdp1.decode(frames_of(vector))


@pytest.mark.parametrize("vector", named(INVALID))
def test_malformed_messages_end_a_session(vector: dict[str, Any]) -> None:
    """At any time, and with nothing but a GOODBYE; or with nothing, where none of ours has spoken yet."""
    hello = next(vector for vector in VALID if vector["name"] == "hello-client")
    for first in ([], [frames_of(hello)]):
        machine = BrokerMachine(name="broker", epoch=b"epoch", settings=Settings())
        for message in [*first, frames_of(vector)]:
            machine.receive(b"peer", message, now=0.0)
        assert machine.protocol_errors == 1
        assert machine.sessions() == []
        if not first and not frames_of(vector)[0].startswith(b"ZMDP"):
            assert machine.take_dirty() == []
            continue
        (link,) = machine.take_dirty()[-1:]
        commands, _ = zmdp1.decode(link.next_batch() or [])
        assert [type(command) for command in commands] == [c.Batch, c.Goodbye]
        assert commands[1].refused


def test_every_command_has_a_vector_and_bodies_are_inline_and_out_of_band() -> None:
    seen = {name for vector in VALID if vector["canonical"] for command in vector["commands"] for name in command}
    assert seen == set(COMMANDS)
    bodies = defaultdict(set)
    for vector in VALID:
        for command in vector["commands"]:
            for name, fields in command.items():
                if "body" in fields:
                    bodies[name].add(len(vector["frames"]) > 2)
    assert bodies == {cls.__name__.upper(): {False, True} for cls in c.ALL if cls.carries_body}


def test_names_are_unique() -> None:
    for vectors in (VALID, INVALID, CONVERSATIONS):
        assert len({vector["name"] for vector in vectors}) == len(vectors)


# ---- conversations


def players() -> list[Any]:
    return [
        pytest.param(conversation, name, id=f"{conversation['name']}-{name}")
        for conversation in CONVERSATIONS
        for name, what in conversation["machines"].items()
        if what["role"] != "stranger"
    ]


@pytest.mark.parametrize(("conversation", "name"), players())
def test_conversation(conversation: dict[str, Any], name: str) -> None:
    player = Player(conversation, name)
    for number, step in enumerate(conversation["steps"]):
        if "event" in step:
            ends = conversation["connections"].get(step.get("connection"), {"machine": step.get("machine")})
            if name in ends.values():
                player.event(step)
        elif step["to"] == name:
            player.receive(step)
        elif step["from"] == name:
            waiting = player.out[step["connection"]]
            if not waiting:
                player.act(step["connection"], [command_from_json(each) for each in step["commands"]], step["at"])
            assert waiting, f"step {number}: nothing was sent"
            assert waiting.popleft() == frames_of(step), f"step {number}"
    assert not any(player.out.values()), "more was sent than the conversation says"
    assert player.machine.protocol_errors == conversation.get("breaches", {}).get(name, 0)


# ---- the document's tables

PROTOCOL = (DOCS / "protocol.md").read_text()


def table_after(heading: str) -> list[list[str]]:
    """Return the rows of the first table in the section, or below the header line, that starts so."""
    lines = iter(PROTOCOL.splitlines())
    assert any(line.startswith(heading) for line in lines), f"no {heading!r}"
    rows: list[list[str]] = []
    if heading.startswith("|"):
        rows.append([])
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows or line.startswith("#"):
            break
    return rows[2:]


def type_in_words(kind: msgspec.inspect.Type) -> tuple[str, str]:
    """Return how the document writes a type, and its range."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            some = [type_in_words(each) for each in types if not isinstance(each, msgspec.inspect.NoneType)]
            assert len(some) == 1
            return f"{some[0][0]} or nil", some[0][1]
        case msgspec.inspect.IntType(ge=None, le=None):
            return "int", ""
        case msgspec.inspect.IntType(ge=0, le=int(most)):
            assert most == 2 ** (most.bit_length() - 1)
            return "int", f"0 to 2^{most.bit_length() - 1}"
        case msgspec.inspect.FloatType(ge=0):
            return "float", "0 or more"
        case msgspec.inspect.StrType():
            return "str", ""
        case msgspec.inspect.BytesType():
            return "bin", ""
        case msgspec.inspect.BoolType():
            return "bool", ""
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return f"map of {type_in_words(key)[0]} to {type_in_words(value)[0]}", ""
        case msgspec.inspect.ListType(item_type=item):
            return f"array of {type_in_words(item)[0]}", ""
        case msgspec.inspect.TupleType(item_types=items):
            assert len({type_in_words(item) for item in items}) == 1
            return f"array of {len(items)} {type_in_words(items[0])[0]}", ""
        case msgspec.inspect.StructType(cls=cls):
            return cls.__name__.upper(), ""
    raise AssertionError(kind)


def default_in_words(field: msgspec.inspect.Field) -> str:
    if field.required:
        return "refused"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    words = {None: "nil", False: "false", "": '""', b"": "empty"}
    return "empty" if default == [] else str(default) if type(default) is int else words[default]


@pytest.mark.parametrize("cls", [*c.ALL, *PARTS.values()])
def test_fields(cls: type[msgspec.Struct]) -> None:
    name = cls.__name__.upper()
    heading = f"### {name} (tag {cls.__struct_config__.tag})" if name in COMMANDS else f"### Parts: {name}"
    info = msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    expected = [[field.name, *type_in_words(field.type), default_in_words(field)] for field in info.fields]
    rows = table_after(heading)
    assert [row[:4] for row in rows] == expected
    assert all(len(row) == 5 and row[4] for row in rows)


def test_no_other_commands_and_parts_are_documented() -> None:
    assert set(re.findall(r"^### (\w+) \(tag", PROTOCOL, re.M)) == set(COMMANDS)
    assert set(re.findall(r"^### Parts: (\w+)", PROTOCOL, re.M)) == set(PARTS)


def test_who_may_send_what() -> None:
    def may(*directions: bool) -> list[str]:
        return ["yes" if direction else "no" for direction in directions]

    expected = [
        [
            str(cls.__struct_config__.tag),
            cls.__name__.upper(),
            *may(
                cls in broker_machine.CLIENT,
                cls in ClientMachine._handlers or cls is c.Welcome,
                cls in broker_machine.WORKER,
                cls in WorkerMachine._handlers or cls is c.Welcome,
            ),
        ]
        for cls in c.ALL
    ]
    assert [row[:6] for row in table_after("## 4. Commands")] == expected


def test_content_types() -> None:
    rows = [row[:2] for row in table_after("| Content ")]
    assert rows == [[content.name, str(content.value)] for content in c.Content]


def test_constants() -> None:
    documented = {name: int(value) for name, value, _ in table_after("### 3.4 Sizes")}
    modules = {"MIN_SESSION": 16, "MAX_SESSION": c.MAX_NAME, "MAX_NAME": c.MAX_NAME}
    for module, names in {
        zmdp1: ("MAX_COMMANDS", "INLINE", "BATCH"),
        link: ("WINDOW_BATCHES", "WINDOW_BYTES", "ACK_BATCHES", "ACK_BYTES"),
        broker_workers: ("MAX_ERROR",),
        broker_recovery: ("MAX_HOLDINGS", "MAX_ALL_HOLDINGS"),
        worker_execution: ("KEPT_MESSAGES", "KEPT_BYTES"),
        worker_machine: ("MAX_ERROR_MESSAGE", "MAX_ERROR_DETAILS"),
    }.items():
        modules.update({name: getattr(module, name) for name in names})
    assert documented == modules


@pytest.mark.parametrize(
    ("session", "name", "welcome"), [(15, 0, False), (16, 255, True), (255, 0, True), (256, 0, False), (16, 256, False)]
)
def test_lengths_in_greetings(session: int, name: int, welcome: bool) -> None:
    machine = BrokerMachine(name="broker", epoch=b"epoch", settings=Settings())
    hello = c.Hello(1, b"s" * session, "n" * name, b"", c.Limits.of(Settings()), 2.5, [], None)
    machine.receive(b"peer", zmdp1.encode(c.Batch(0, 0), [hello]), now=0.0)
    assert len(machine.sessions()) == welcome


def test_codes() -> None:
    assert [row[0] for row in table_after("| Code ")] == [code.value for code in Code]


def test_reasons() -> None:
    expected = [
        [reason or "(empty)", cls.default_code.value, cls.__name__] for reason, cls in _errors._BY_REASON.items()
    ]
    rows = table_after("| Reason ")
    assert [row[:3] for row in rows] == expected
    assert all(row[3] for row in rows)


def test_every_error_of_the_tree_has_a_reason_of_its_own() -> None:
    def tree(cls: type[_errors.RequestError]) -> list[type[_errors.RequestError]]:
        return [cls, *(each for child in cls.__subclasses__() for each in tree(child))]

    ours = {cls for cls in tree(_errors.RequestError) if cls.__module__.startswith("zmdp_trio")}
    assert ours == set(_errors._BY_REASON.values())


def test_the_example_is_the_vector() -> None:
    section = PROTOCOL.split("### 3.3 An example")[1].split("###")[0]
    code = [line[4:39].split("  ")[:4] for line in section.splitlines() if line.startswith("    ")]
    digits = "".join(re.match(r"(?:[0-9a-f]{2} ?)*", "  ".join(line).strip()).group() for line in code)  # type: ignore[union-attr]
    request = next(vector for vector in VALID if vector["name"] == "request")
    assert bytes.fromhex(digits) == frames_of(request)[1]

"""What the broker answers itself: `mmi.` names and `$dir`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from books import check_books
from stage import Speaker, Stage, ask

from zmdp_trio._core.broker.clients import ANSWERS_WAITING
from zmdp_trio._core.broker.directory import MAX_LISTED, Directory
from zmdp_trio._core.broker.routing import Routes
from zmdp_trio._core.broker.service import Service
from zmdp_trio._errors import Overloaded
from zmdp_trio._wire import commands as c
from zmdp_trio._wire.commands import Content

pack, text = msgspec.msgpack.encode, msgspec.json.encode


@pytest.fixture
def stage() -> Stage:
    """A broker with three workers of this and that."""
    stage = Stage()
    stage.worker("echo", "files.*", name="a")
    stage.worker("echo", "files.read", "calc@1.2.0", name="b", slots=0)
    stage.worker("calc@1.3.0", "calc@2.0.0", name="c")
    return stage


def question(service: str, body: bytes, content: int, **fields: Any) -> c.Request:
    return msgspec.structs.replace(ask(7, service, body, **fields), content=int(content))


def answer(client: Speaker, service: str, body: bytes = b"", content: int = Content.BYTES) -> tuple[int, bytes]:
    """Ask the broker; return the content type and the body of its answer."""
    client.send(question(service, body, content))
    [final] = client.take((c.Final, c.Error))
    assert isinstance(final, c.Final), final
    assert final.id == 7
    return final.content, bytes(final.body or b"")


def refusal(client: Speaker, service: str, body: bytes = b"", content: int = Content.BYTES, **fields: Any) -> c.Error:
    client.send(question(service, body, content, **fields))
    [error] = client.take((c.Final, c.Error))
    assert isinstance(error, c.Error)
    return error


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("echo", "200"),
        ("files.read", "200"),
        ("files.list", "200"),
        ("files.*", "200"),
        ("calc@^1.2", "200"),
        ("calc@1.2.0", "200"),
        ("calc@>=3", "404"),
        ("calc@latest", "404"),
        ("calc", "404"),
        ("file", "404"),
        ("nobody's", "404"),
        ("mmi.service", "200"),
        ("mmi.nonsense", "404"),
        ("$dir", "200"),
    ],
)
def test_mmi_service_tells_whether_a_request_would_go_to_a_worker(stage: Stage, name: str, status: str) -> None:
    client = stage.client()
    assert answer(client, "mmi.service", name.encode()) == (Content.BYTES, status.encode())
    assert answer(client, "mmi.service", pack(name), Content.MSGPACK) == (Content.MSGPACK, pack(status))
    assert answer(client, "mmi.service", text(name), Content.JSON) == (Content.JSON, text(status))
    assert answer(client, "mmi.service", name.encode(), Content.OPAQUE) == (Content.OPAQUE, status.encode())


def test_it_follows_the_workers(stage: Stage) -> None:
    worker, client = stage.worker("late.*", name="late"), stage.client()
    assert answer(client, "mmi.service", b"late.x")[1] == b"200"
    worker.vanish()
    assert answer(client, "mmi.service", b"late.x")[1] == b"404"
    assert answer(client, "$dir", b"late.x")[1] == b"[]"


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        ("mmi.services", "", ["calc@1.2.0", "calc@1.3.0", "calc@2.0.0", "echo", "files.*", "files.read"]),
        ("mmi.workers", "", ["a", "b", "c"]),
        ("mmi.workers", "echo", ["a", "b"]),
        ("$dir", "echo", ["a", "b"]),
        ("$dir", "files.read", ["b"]),
        ("$dir", "files.list", ["a"]),
        ("$dir", "files.*", ["a"]),
        ("$dir", "calc@^1.2", ["b", "c"]),
        ("$dir", "calc@2.0.0", ["c"]),
        ("$dir", "nobody's", []),
        (
            "$dir",
            "",
            {
                "calc@1.2.0": ["b"],
                "calc@1.3.0": ["c"],
                "calc@2.0.0": ["c"],
                "echo": ["a", "b"],
                "files.*": ["a"],
                "files.read": ["b"],
            },
        ),
    ],
)
def test_lists(stage: Stage, service: str, name: str, value: Any) -> None:
    client = stage.client()
    content, body = answer(client, service, pack(name), Content.MSGPACK)
    assert (content, msgspec.msgpack.decode(body)) == (Content.MSGPACK, value)
    for content in (Content.BYTES, Content.OPAQUE):
        assert answer(client, service, name.encode(), content) == (content, text(value))
    assert answer(client, service, text(name), Content.JSON) == (Content.JSON, text(value))
    if not name:
        assert answer(client, service, pack(None), Content.MSGPACK) == (Content.MSGPACK, pack(value))
        assert answer(client, service, b"null", Content.JSON) == (Content.JSON, text(value))


def test_the_broker_tells_its_name(stage: Stage) -> None:
    assert answer(stage.client(), "mmi.broker") == (Content.BYTES, b"broker")


@pytest.mark.parametrize("name", ["mmi.", "mmi.nonsense", "mmi.service.x", "mmi.*", "mmi.service@^1"])
def test_other_mmi_names_are_not_implemented(stage: Stage, name: str) -> None:
    client = stage.client()
    assert answer(client, name, b"\xff", Content.BYTES) == (Content.BYTES, b"501")
    assert answer(client, name, b"\xc1", Content.MSGPACK) == (Content.MSGPACK, pack("501"))
    assert answer(client, name, b"{", Content.JSON) == (Content.JSON, b'"501"')


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"\xff", Content.BYTES),
        (b"\xff", Content.OPAQUE),
        (b"", Content.MSGPACK),
        (pack(7), Content.MSGPACK),
        (pack([b"echo", b"more"]), Content.MSGPACK),
        (b"{}", Content.JSON),
        (b"echo", Content.JSON),
        (b"", Content.BYTES),
        (pack(None), Content.MSGPACK),
        (b'""', Content.JSON),
    ],
)
def test_what_names_no_service_is_refused(stage: Stage, body: bytes, content: int) -> None:
    assert refusal(stage.client(), "mmi.service", body, content).code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("name", ["mmi.service", "mmi.", "mmi.*", "$dir"])
@pytest.mark.parametrize("later", [False, True])
def test_workers_may_not_offer_these_names(stage: Stage, name: str, later: bool) -> None:
    worker = stage.worker(*(("mine",) if later else (name,)), name="bold")
    if later:
        worker.send(c.Slots(name, 1))
    assert worker.goodbye == c.Goodbye(f"an offer of {name!r}, which the broker answers itself", True)
    assert "bold" not in answer(stage.client(), "mmi.workers")[1].decode()


def test_a_wildcard_for_everything_does_not_get_them() -> None:
    stage = Stage()
    worker, client = stage.worker("*", "mmi*"), stage.client()
    assert answer(client, "mmi.service", b"anything")[1] == b"200"
    assert answer(client, "mmi.other")[1] == b"501"
    assert worker.take() == []


def test_questions_are_counted_and_leave_nothing_behind(stage: Stage) -> None:
    client, forgotten = stage.client(), stage.broker.forgotten
    services = len(stage.services())
    answer(client, "mmi.service", b"echo")
    answer(client, "mmi.nonsense")
    refusal(client, "mmi.service")
    assert (forgotten.received, forgotten.replied, forgotten.refused) == (3, 2, 1)
    assert len(stage.services()) == services
    check_books(stage.broker, stage.settings)


def test_a_question_to_the_broker_before_this_one_is_lost_at_once(stage: Stage) -> None:
    client = stage.client()
    client.send(c.Claim(1, "mmi.service", 0, 1, 1))
    assert [error.reason for error in client.take(c.Error)] == ["broker-lost"]
    assert stage.broker.timers == 0


def test_options_that_are_for_workers_make_no_difference(stage: Stage) -> None:
    client = stage.client()
    client.send(ask(1, "mmi.service", b"echo", key="k", worker="nobody", retry=3, left=0.0))
    assert [final.body for final in client.take(c.Final)] == [b"200"]


def test_a_broker_that_drains_answers_no_more(stage: Stage) -> None:
    client = stage.client()
    stage.broker.drain()
    assert refusal(client, "mmi.service", b"echo").code == "UNAVAILABLE"


def test_limits_hold_for_questions_too(stage: Stage) -> None:
    client = stage.client()
    assert refusal(client, "mmi.service", b"echo", headers={"h": "x" * 20_000}).code == "INVALID_ARGUMENT"
    small = stage.client("small", limits=c.Limits(8, 1, 255))
    assert answer(small, "mmi.service", b"echo")[1] == b"200"
    assert refusal(small, "mmi.services").code == "RESOURCE_EXHAUSTED"


def test_one_who_does_not_read_gets_no_more_answers() -> None:
    stage = Stage()
    stage.worker(*(f"{number:04}-{'x' * 200}" for number in range(4_000)))
    client = stage.client()
    client.send(*(ask(id, "mmi.services") for id in range(1, 40)))
    size = 4_000 * (205 + 3)
    told = client.take((c.Final, c.Error))
    assert len(told) == 39
    answers = [each for each in told if isinstance(each, c.Final)]
    assert ANSWERS_WAITING // size <= len(answers) <= ANSWERS_WAITING // size + 1
    assert {each.code for each in told if isinstance(each, c.Error)} == {"RESOURCE_EXHAUSTED"}
    assert answer(client, "mmi.broker")[1] == b"broker"


def test_too_many_names_are_not_listed() -> None:
    service = Service("echo")
    service.offers = dict.fromkeys(range(MAX_LISTED + 1))  # type: ignore[arg-type]
    directory = Directory("broker", {"echo": service}, Routes())
    for name in ("$dir", "mmi.workers"):
        for body in (b"", b"echo"):
            with pytest.raises(Overloaded):
                directory.answer(ask(1, name, body))

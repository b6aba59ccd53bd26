"""Wildcards, versions, and the broker's own answers for peers of older dialects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from books import check_books
from legacy import UUIDS, Legacy
from stage import Stage, ask

from zmdp_trio._wire import commands as c
from zmdp_trio._wire.majordomo import DIALECTS
from zmdp_trio._wire.majordomo import messages as m

JSON = [name for name in DIALECTS if DIALECTS[name].json]
MDP = [name for name in DIALECTS if not DIALECTS[name].json]


def peer(stage: Stage, name: str, *, is_worker: bool) -> Legacy:
    return Legacy(stage, DIALECTS[name], is_worker=is_worker)


def said(client: Legacy) -> Any:
    """The value of the only reply that has come: of MDP the bytes, of the others what their JSON says."""
    [reply] = client.take((m.Final, m.Failure))
    if isinstance(reply, m.Failure):
        return msgspec.json.decode(reply.error)["code"]
    [body] = reply.body
    return msgspec.json.decode(body) if client.dialect.json else bytes(body)


@pytest.mark.parametrize("worker_name", list(DIALECTS))
@pytest.mark.parametrize("client_name", list(DIALECTS))
def test_each_dialect_s_clients_reach_each_dialect_s_wildcards(client_name: str, worker_name: str) -> None:
    stage = Stage()
    worker, client = peer(stage, worker_name, is_worker=True), peer(stage, client_name, is_worker=False)
    worker.ready("files.*")
    client.ask("files.read", b'"x"')
    [request] = worker.take(m.Request)
    if DIALECTS[worker_name].name == "pigato":
        assert request.service == "files.read", "it is told what was asked for"
    worker.reply(request, b'"done"')
    assert said(client) == ("done" if DIALECTS[client_name].json else b'"done"')
    assert stage.held() == {"files.*": (0, 0, 0)}
    assert stage.service("files.*").counters.replied == 1
    check_books(stage.broker, stage.settings)


@pytest.mark.parametrize("name", list(DIALECTS))
def test_versions(name: str) -> None:
    stage = Stage()
    old, new = (stage.worker(f"calc@1.{minor}.0", name=f"v{minor}") for minor in (2, 3))
    client = peer(stage, name, is_worker=False)
    client.ask("calc@^1.2", b"1")
    [request] = new.take(c.Request)
    assert (request.service, request.asked) == ("calc@1.3.0", "calc@^1.2")
    assert old.take(c.Request) == []
    new.send(c.Final(request.id, c.Content.JSON, b"2"))
    assert said(client) in (2, b"2")


@pytest.mark.parametrize("name", JSON)
def test_an_unreadable_range_is_told(name: str) -> None:
    stage = Stage()
    client = peer(stage, name, is_worker=False)
    client.ask("calc@latest", b"1")
    assert said(client) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("name", list(DIALECTS))
def test_what_waits_for_longer_than_ours_would_goes_to_a_wildcard_that_comes(name: str) -> None:
    stage = Stage()
    client = peer(stage, name, is_worker=False)
    client.ask("files.read", b"1")
    stage.advance(2.0)
    worker = stage.worker("files.*")
    [request] = worker.take(c.Request)
    worker.send(c.Final(request.id, c.Content.JSON, b"2"))
    assert said(client) in (2, b"2")


@pytest.mark.parametrize("name", MDP)
def test_mmi_service_is_answered_as_rfc_8_says(name: str) -> None:
    stage = Stage()
    stage.worker("echo", "files.*")
    client = peer(stage, name, is_worker=False)
    for asked, status in ((b"echo", b"200"), (b"files.read", b"200"), (b"nobody's", b"404")):
        client.ask("mmi.service", asked)
        assert said(client) == status
    client.ask("mmi.nonsense", b"echo")
    assert said(client) == b"501"
    client.ask("$dir", b"echo")
    assert said(client) == b'["worker"]'


@pytest.mark.parametrize("name", JSON)
def test_dir_is_answered_as_pigato_says(name: str) -> None:
    stage = Stage()
    stage.worker("echo", name="w1")
    stage.worker("echo", "calc@1.2.0", name="w2")
    client = peer(stage, name, is_worker=False)
    ids = UUIDS if name == "pigato" else [b"r%d" % number for number in range(10)]
    for id, (body, value) in enumerate(
        (
            (b'"echo"', ["w1", "w2"]),
            (b'"nobody"', []),
            (b"null", {"calc@1.2.0": ["w2"], "echo": ["w1", "w2"]}),
            (b'""', {"calc@1.2.0": ["w2"], "echo": ["w1", "w2"]}),
            (b"7", "INVALID_ARGUMENT"),
        )
    ):
        client.ask("$dir", body, id=ids[id])
        assert said(client) == value
    client.ask("mmi.service", b'"echo"', id=ids[9])
    assert said(client) == "200"


@pytest.mark.parametrize("name", list(DIALECTS))
@pytest.mark.parametrize("service", ["mmi.mine", "$dir"])
def test_a_worker_that_offers_a_reserved_name_is_cut_off(name: str, service: str) -> None:
    stage = Stage()
    worker = peer(stage, name, is_worker=True)
    worker.ready(service)
    stage.advance(stage.broker.settings.heartbeat)
    assert worker.take(m.Disconnect)
    assert stage.services() == []
    assert any("which the broker answers itself" in why for _, why in stage.broker.take_dropped())


def test_a_pigato_worker_is_asked_by_its_name_through_a_wildcard() -> None:
    stage = Stage()
    exact = stage.worker("files.read", name="exact")
    worker, client = peer(stage, "pigato", is_worker=True), stage.client()
    worker.ready("files.*", concurrency=4)
    client.send(ask(1, "$dir", b"files.list"))
    [name] = msgspec.json.decode(client.take(c.Final)[0].body or b"")
    client.send(ask(2, "files.read", b'"x"', worker=name))
    [request] = worker.take(m.Request)
    assert request.service == "files.read"
    assert exact.take(c.Request) == []

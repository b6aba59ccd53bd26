"""Clients of each dialect get what workers of each dialect say, in their own terms."""

from __future__ import annotations

import interop_tables
import pytest
from pairs import NAMES, PARTIALS, Pair, has_failures, has_partials, single, streamed
from stage import check_counters

from zmdp_trio._wire import commands as c


@pytest.mark.parametrize("worker", NAMES)
@pytest.mark.parametrize("client", NAMES)
def test_a_request_and_its_replies(client: str, worker: str) -> None:
    pair = Pair(client, worker)
    stage = pair.stage
    expected = "one reply" if not has_partials(worker) else "partials" if has_partials(client) else "joined"
    for _ in range(2):
        assert pair.serve() == "one reply"
        assert pair.serve(*(PARTIALS if has_partials(worker) else ())) == expected
    assert stage.held() == {"echo": (0, 0, 0)}
    check_counters(stage.broker)
    assert stage.broker.protocol_errors == 0
    stage.advance(3.0)
    assert stage.broker.memory == 0


@pytest.mark.parametrize("worker", [name for name in NAMES if has_failures(name)])
@pytest.mark.parametrize("client", NAMES)
def test_an_error(client: str, worker: str) -> None:
    pair = Pair(client, worker)
    assert pair.fail() == ("error" if has_failures(client) else "error as a reply")
    pair.stage.advance(3.0)
    assert pair.stage.broker.memory == 0


@pytest.mark.parametrize("client", NAMES)
def test_a_client_that_leaves(client: str) -> None:
    """A worker of another dialect keeps its slot until it is through, and what it says is swallowed."""
    for worker in NAMES:
        pair = Pair(client, worker)
        stage, asking = pair.stage, pair.client
        request = pair.begin()
        if asking.legacy is not None:
            asking.legacy.vanish()
        elif asking.ours is not None:
            asking.ours.send(c.Cancel(1))
        stage.advance(11.0)
        assert stage.held() == {"echo": (0, 0, 1)}
        pair.worker.reply(request, b"1")
        assert stage.held() == {"echo": (0, 0, 0)}
        assert stage.broker.services()[0].counters.cancelled == 1


def test_the_document_has_these_words() -> None:
    assert set(interop_tables.DIALECTS) == set(NAMES)
    assert interop_tables.written()[interop_tables.MATRIX] == interop_tables.matrix(single, streamed)

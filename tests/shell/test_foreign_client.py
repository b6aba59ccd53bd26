"""Our client at brokers of other kinds: lanes, late replies, losses, heartbeats, errors, and what is not to be had."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from cluster import read_into, until
from foreign_broker import ForeignBroker, open_foreign

from zmdp_trio import (
    BrokerLost,
    Client,
    Code,
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    RequestError,
    open_client,
    open_worker,
    service,
)
from zmdp_trio._core.foreign import client as foreign_client
from zmdp_trio._wire.majordomo import messages as m

MDP = ["mdp/0.1", "mdp/0.2", "majortomo"]
NODE = ["omdp", "pigato"]
ALL = [*MDP, *NODE]
WITH_PARTIALS = ["mdp/0.2", "majortomo", *NODE]


class Calls:
    """Requests under way, by payload, and what became of them."""

    def __init__(self, client: Client, nursery: trio.Nursery) -> None:
        self.client = client
        self.nursery = nursery
        self.replies: dict[str, Any] = {}
        self.scopes: dict[str, trio.CancelScope] = {}

    def start(self, payload: str, **options: Any) -> None:
        self.nursery.start_soon(self._call, payload, options)

    async def _call(self, payload: str, options: dict[str, Any]) -> None:
        with trio.CancelScope() as self.scopes[payload]:
            try:
                reply = await self.client.request("echo", payload, **options)
                self.replies[payload] = json.loads(reply) if isinstance(reply, bytes) else reply
            except RequestError as error:
                self.replies[payload] = error


def payload_of(request: m.Request) -> Any:
    return json.loads(bytes(request.body[0]))


async def asked(broker: ForeignBroker, *payloads: str) -> dict[str, tuple[bytes, m.Request]]:
    """Wait for requests with these payloads; return who asked what."""
    with trio.fail_after(60):
        while True:
            found = {payload_of(request): (peer, request) for peer, request in broker.said(m.Request)}
            if set(payloads) <= set(found):
                return found
            await trio.sleep(0.01)


def keep(peer: bytes, request: m.Request) -> None:
    """The broker has the request, and the test answers it."""


@pytest.mark.parametrize("protocol", ALL)
async def test_a_reply_reaches_whoever_asked_whatever_the_order(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        broker.answers = keep
        async with trio.open_nursery() as nursery:
            calls = Calls(client, nursery)
            for name in "abcde":
                calls.start(name)
            found = await asked(broker, *"abcde")
            for name in "daceb":
                broker.reply(found[name], f'"for {name}"'.encode())
        assert calls.replies == {name: f"for {name}" for name in "abcde"}
        assert len(broker.clients) == (5 if protocol in MDP else 1), "a lane for each, where requests have no ids"
        assert client.statistics().protocol_errors == client.statistics().late_replies == 0


@pytest.mark.parametrize("protocol", ALL)
async def test_what_comes_late_is_never_taken_for_another_s_reply(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        broker.answers = keep
        async with trio.open_nursery() as nursery:
            calls = Calls(client, nursery)
            calls.start("left")
            calls.start("late", timeout=5)
            found = await asked(broker, "left", "late")
            calls.scopes["left"].cancel()
            await trio.sleep(6)
            calls.start("next")
            calls.start("after")
            found = await asked(broker, "next", "after")
            for name in ("left", "late", "next", "after"):
                broker.reply(found[name], f'"for {name}"'.encode())
        late = calls.replies.pop("late")
        assert isinstance(late, DeadlineExceeded)
        assert calls.replies == {"next": "for next", "after": "for after"}
        assert client.statistics().outstanding == client.statistics().timers == 0
        if protocol in MDP:
            lanes = {found[name][0] for name in found}
            assert len(lanes) == 4, "what was left midway has spoiled its lane"


@pytest.mark.parametrize("protocol", MDP)
async def test_a_request_that_was_not_sent_yet_leaves_its_lane_as_it_was(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        broker.answers = lambda peer, request: broker.reply((peer, request), b"1")
        await client.request("echo")
        with trio.CancelScope() as scope:
            stream = client.stream("echo")
            scope.cancel()
            async with stream:
                await stream.__anext__()
        await client.request("echo")
        assert len({peer for peer, _ in broker.said(m.Request)}) == 1


async def test_requests_wait_for_a_lane_within_their_own_time(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_client, "MAX_LANES", 2)
    async with open_foreign("mdp/0.2") as broker, open_client(broker.endpoint, protocol="mdp/0.2") as client:
        broker.answers = keep
        async with trio.open_nursery() as nursery:
            calls = Calls(client, nursery)
            for name in "abcd":
                calls.start(name)
                await trio.sleep(0.1)
            calls.start("hasty", timeout=8)
            await trio.sleep(20)
            assert isinstance(calls.replies.pop("hasty"), DeadlineExceeded)
            assert [payload_of(request) for _, request in broker.said(m.Request)] == ["a", "b"]
            for name in "abcd":
                found = await asked(broker, name)
                broker.reply(found[name], f'"{name}"'.encode())
        assert calls.replies == {name: name for name in "abcd"}
        assert len(broker.clients) == 2


async def test_lanes_that_nobody_uses_are_closed_but_for_one(autojump_clock: Any) -> None:
    async with open_foreign("mdp/0.2") as broker, open_client(broker.endpoint, protocol="mdp/0.2") as client:
        broker.answers = keep
        async with trio.open_nursery() as nursery:
            calls = Calls(client, nursery)
            for name in "abcde":
                calls.start(name)
            for each in (await asked(broker, *"abcde")).values():
                broker.reply(each, b"1")
        assert len(broker.clients) == 5
        await trio.sleep(foreign_client.IDLE + 5)
        assert len(broker.clients) == 1
        broker.answers = lambda peer, request: broker.reply((peer, request), b"2")
        assert await client.request("echo") == b"2"


@pytest.mark.parametrize("protocol", WITH_PARTIALS)
async def test_partial_replies_wait_for_a_slow_reader(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:

        def pour(peer: bytes, request: m.Request) -> None:
            for i in range(50):
                broker.reply((peer, request), b"%d" % i, m.Partial)
            broker.reply((peer, request), b'"end"')

        broker.answers = pour
        async with open_client(broker.endpoint, protocol=protocol, credit_messages=2) as slow:
            replies = []
            async with slow.stream("echo", timeout=None) as stream:
                async for reply in stream:
                    replies.append(int(reply))
                    await trio.sleep(1)
                assert json.loads(stream.final) if protocol in MDP else stream.final == "end"
            assert replies == list(range(50))
            assert slow.statistics().protocol_errors == 0
        assert client.statistics().protocol_errors == 0


@pytest.mark.parametrize("protocol", WITH_PARTIALS)
async def test_who_does_not_read_at_all_has_an_end_alone(protocol: str, autojump_clock: Any) -> None:
    async with (
        open_foreign(protocol) as broker,
        open_client(broker.endpoint, protocol=protocol, legacy_buffer=50_000) as client,
    ):
        broker.answers = keep
        async with trio.open_nursery() as nursery:
            calls = Calls(client, nursery)
            calls.start("other")
            replies: list[Any] = []
            stream = client.stream("echo", "flood")
            async with stream:
                found = await asked(broker, "other", "flood")
                for _ in range(20):
                    for _ in range(50):
                        broker.reply(found["flood"], b"[1]", m.Partial)
                    await trio.sleep(0.1)
                with pytest.raises(Overloaded) as raised:
                    await read_into(replies, stream)
            broker.reply(found["flood"], b'"too late"')
            broker.reply(found["other"], b'"fine"')
        assert raised.value.code is Code.RESOURCE_EXHAUSTED
        assert len(replies) == 64
        assert calls.replies == {"other": "fine"}


@pytest.mark.parametrize("protocol", ALL)
async def test_a_broker_that_is_gone_ends_its_requests_at_once(protocol: str, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        async with open_foreign(protocol) as broker:
            client = await nursery.start(_client, broker.endpoint, protocol)
            broker.answers = keep
            calls = Calls(client, nursery)
            for name in "ab":
                calls.start(name)
            await asked(broker, *"ab")
        started = trio.current_time()
        await until(lambda: len(calls.replies) == 2)
        assert trio.current_time() - started < 1
        assert {type(reply) for reply in calls.replies.values()} == {BrokerLost}
        # And with nobody there:
        calls.start("c")
        await until(lambda: "c" in calls.replies, within=10)
        assert isinstance(calls.replies["c"], BrokerLost)
        nursery.cancel_scope.cancel()


async def _client(endpoint: str, protocol: str, task_status: trio.TaskStatus[Client]) -> None:
    async with open_client(endpoint, protocol=protocol) as client:
        task_status.started(client)
        await trio.sleep_forever()


@pytest.mark.parametrize("protocol", ALL)
async def test_a_broker_that_is_back_gets_what_may_run_again(protocol: str, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        async with open_foreign(protocol) as broker:
            client = await nursery.start(_client, broker.endpoint, protocol)
            broker.answers = keep
            calls = Calls(client, nursery)
            for name in "abcd":
                calls.start(name, retry=1)
            await asked(broker, *"abcd")
        await trio.sleep(2)
        calls.start("new")
        async with open_foreign(protocol) as broker:
            broker.answers = keep
            for name, each in (await asked(broker, *"abcd", "new")).items():
                broker.reply(each, f'"{name}"'.encode())
            await until(lambda: len(calls.replies) == 5)
        assert calls.replies == {name: name for name in (*"abcd", "new")}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "code", "message", "details"),
    [
        ({"code": "NOT_FOUND", "message": "no such file"}, Code.NOT_FOUND, "no such file", None),
        ({"code": "NOT_FOUND", "message": "m", "details": [1]}, Code.NOT_FOUND, "m", [1]),
        ("C_TIMEOUT", Code.INTERNAL, "C_TIMEOUT", None),
        ({"errno": 5}, Code.INTERNAL, "the service reported an error", {"errno": 5}),
    ],
)
@pytest.mark.parametrize("protocol", NODE)
async def test_errors(protocol: str, error: Any, code: Code, message: str, details: Any, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        broker.answers = lambda peer, request: broker.to_client(
            peer, m.Failure(json.dumps(error).encode(), id=request.id)
        )
        with pytest.raises(RequestError) as raised:
            await client.request("echo")
        assert (raised.value.code, raised.value.message, raised.value.details) == (code, message, details)


@pytest.mark.parametrize("protocol", NODE)
async def test_a_reply_that_is_no_json_is_said_to_be_unreadable(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        broker.answers = lambda peer, request: broker.reply((peer, request), b"{oops")
        with pytest.raises(RequestError, match="can't be read"):
            await client.request("echo")


@pytest.mark.parametrize("protocol", ["mdp/0.1", "mdp/0.2"])
async def test_a_reply_from_another_service_spoils_the_lane(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        broker.answers = lambda peer, request: broker.to_client(peer, m.Final([b"?"], service="other"))
        with pytest.raises(BrokerLost, match="other"):
            await client.request("echo")
        broker.answers = lambda peer, request: broker.reply((peer, request), b"1")
        assert await client.request("echo") == b"1"
        assert client.statistics().protocol_errors == 1


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        *((protocol, {"key": "k"}) for protocol in ALL),
        *((protocol, {"worker": "w"}) for protocol in (*MDP, "omdp")),
        *((protocol, {"headers": {"a": "b"}}) for protocol in ALL),
    ],
)
async def test_what_there_are_no_words_for_is_refused_here(
    protocol: str, options: dict[str, Any], autojump_clock: Any
) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        with pytest.raises(RequestError, match=next(iter(options))) as raised:
            await client.request("echo", **options)
        assert raised.value.code is Code.UNIMPLEMENTED
        assert broker.said(m.Request) == []


@pytest.mark.parametrize("protocol", NODE)
async def test_a_payload_that_json_can_t_say_is_refused_here(protocol: str, autojump_clock: Any) -> None:
    async with open_foreign(protocol) as broker, open_client(broker.endpoint, protocol=protocol) as client:
        for payload in ({"a": b"\xff"}, b"no json"):
            with pytest.raises(InvalidArgument):
                await client.request("echo", payload)


async def test_frames_travel_as_a_list_of_bytes(autojump_clock: Any) -> None:
    async with open_foreign("mdp/0.2") as broker, open_client(broker.endpoint, protocol="mdp/0.2") as client:
        broker.answers = lambda peer, request: broker.to_client(peer, m.Final(request.body, service="echo"))
        assert await client.request("echo", [b"a", b"", b"\xff"]) == [b"a", b"", b"\xff"]
        assert await client.request("echo", b"\xff") == b"\xff"
        assert await client.request("echo", {"a": 1}) == b'{"a":1}'


async def test_pigato_is_told_the_options_that_it_has(autojump_clock: Any) -> None:
    async with open_foreign("pigato") as broker, open_client(broker.endpoint, protocol="pigato") as client:
        broker.answers = lambda peer, request: broker.reply((peer, request), b"1")
        await client.request("echo", timeout=5, retry=3, worker="w-1", headers={"opts": '{"nocache": 1}'})
        await client.request("echo", timeout=None)
        with trio.fail_after(2):
            await client.request("echo")
        assert [json.loads(bytes(request.options)) for _, request in broker.said(m.Request)] == [
            {"nocache": 1, "timeout": 5000, "retry": 1, "workerId": "w-1"},
            {"timeout": -1},
            {"timeout": 2000},
        ]
        (peer, request), *_ = broker.said(m.Request)
        assert len(request.id) == 36 == len(peer[-36:])
        assert peer.startswith(b"C")
        assert peer.isascii()


async def test_a_pigato_broker_that_falls_silent_is_lost(autojump_clock: Any) -> None:
    async with open_foreign("pigato") as broker, open_client(broker.endpoint, protocol="pigato") as client:
        await trio.sleep(60)
        assert not client.statistics().protocol_errors
        assert len(broker.clients) == 1
        broker.deaf = True
        with pytest.raises(BrokerLost, match="silent"):
            await client.request("echo", timeout=None)
        assert all(not message.id for _, message in broker.said(m.Heartbeat)), "that would be its end"


async def test_omdp_is_told_which_requests_are_waited_for(autojump_clock: Any) -> None:
    async with open_foreign("omdp") as broker, open_client(broker.endpoint, protocol="omdp") as client:
        broker.answers = keep
        async with trio.open_nursery() as nursery:
            calls = Calls(client, nursery)
            calls.start("a")
            _, request = (await asked(broker, "a"))["a"]
            await trio.sleep(10)
            assert {beat.id for _, beat in broker.said(m.Heartbeat)} == {request.id}
            assert len(broker.said(m.Heartbeat)) >= 3
            calls.scopes["a"].cancel()
            await trio.sleep(0.1)
            broker.heard.clear()
            await trio.sleep(30)
            assert broker.said(m.Heartbeat) == []


async def test_several_brokers_share_the_load_and_the_survivor_has_it_all(autojump_clock: Any) -> None:
    @service("echo")
    async def echo(payload: Any) -> Any:
        return payload

    async with open_foreign("mdp/0.2", "memory://two") as two:
        async with open_foreign("mdp/0.2", "memory://one") as one:
            worker = open_worker([echo], one.endpoint, two.endpoint, protocol="mdp/0.2", concurrency=4)
            client = open_client(one.endpoint, two.endpoint, protocol="mdp/0.2")
            async with worker, client as client:
                for i in range(10):
                    assert await client.request("echo", b"%d" % i) == b"%d" % i
                assert one.said(m.Request)
                assert two.said(m.Request)
                two.stop()
                for i in range(10):
                    assert await client.request("echo", b"%d" % i, retry=1) == b"%d" % i


async def test_an_unknown_protocol_is_named_with_those_that_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"'mdp/9' is no protocol: choose from zmdp/1, mdp/0\.1, mdp/0\.2, majortomo, omdp, pigato"
    ):
        async with open_client("memory://b", protocol="mdp/9"):
            pass

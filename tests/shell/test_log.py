"""Log lines that strangers cause are few, short, and one line each."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import pytest
import trio
from cluster import until

from zmdp_trio import open_broker
from zmdp_trio._log import LONGEST, LimitedLog, plain
from zmdp_trio._transport import DIALLED, Options, attend, dial

LOGGER = logging.getLogger("zmdp_trio.test")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What is logged, as it comes."""

    class Lines(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter([record.getMessage() for record in caplog.records])

    caplog.set_level(logging.WARNING, logger="zmdp_trio")
    return Lines()


def make_log() -> LimitedLog:
    return LimitedLog(LOGGER, logging.WARNING, lines=2, seconds=10)


def test_so_many_lines_per_interval_and_the_rest_is_counted(lines: list[str]) -> None:
    log = make_log()
    for n in range(1234):
        log.log(f"line {n}", now=0.0)
    assert list(lines) == ["line 0", "line 1"]
    log.log("later", now=9.9)
    log.log("next", now=10.0)
    assert list(lines)[2:] == ["... and 1,233 more within 10 s", "next"]
    log.summarize()
    assert len(list(lines)) == 4, "nothing was left out since"


async def test_the_last_interval_is_summarized_though_nothing_follows(lines: list[str], autojump_clock: object) -> None:
    log = make_log()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        start = trio.current_time()
        for n in range(3):
            log.log(f"line {n}", now=start)
        await trio.sleep(9.9)
        assert list(lines) == ["line 0", "line 1"]
        await trio.sleep(0.2)
        assert list(lines)[2:] == ["... and 1 more within 10 s"]
        await trio.sleep(100)
        assert len(list(lines)) == 3
        nursery.cancel_scope.cancel()


async def test_an_interval_that_a_line_ended_is_summarized_once(lines: list[str], autojump_clock: object) -> None:
    log = make_log()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for _ in range(3):
            log.log("flood", now=trio.current_time())
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            log.log("flood", now=trio.current_time() + 10)
        await trio.sleep(10.1)
        assert list(lines)[2:] == ["... and 1 more within 10 s", "flood", "flood"]
        await trio.sleep(10)
        assert list(lines)[5:] == ["... and 3 more within 10 s"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ein Wörtchen", "ein Wörtchen"),
        ("two\nlines\x1b[31m", "two\\nlines\\x1b[31m"),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * 5000, "x" * LONGEST + "... (5,000 characters)"),
    ],
    ids=["text", "control characters", "as long as may be", "too long"],
)
def test_a_peer_s_words_are_one_short_line(text: str, expected: str) -> None:
    assert plain(text) == expected


async def test_a_broker_names_whom_it_dropped_and_why_at_a_limited_rate(
    lines: list[str], autojump_clock: object
) -> None:
    endpoint = f"memory://{secrets.token_hex(4)}"
    async with open_broker(endpoint, name="b") as broker, trio.open_nursery() as nursery:
        for n in range(50):
            port = dial(endpoint, Options())
            nursery.start_soon(attend, port, port.receive)
            await trio.testing.wait_all_tasks_blocked()
            port.send(DIALLED, [b"no greeting\n"])
            await until(lambda n=n: broker.statistics().protocol_errors == n + 1)
        assert len(list(lines)) == 10
        assert all(line.startswith("b dropped peer (") for line in lines)
        assert all(": no dialect begins so: " in line for line in lines)
        await trio.sleep(11)
        assert list(lines)[10:] == ["... and 40 more within 10 s"]
        nursery.cancel_scope.cancel()


async def test_whose_identity_is_a_text_is_named_once_and_whose_message_is_passed_over_is_not_dropped(
    lines: list[str], autojump_clock: object
) -> None:
    endpoint = f"memory://{secrets.token_hex(4)}"
    async with open_broker(endpoint, name="b") as broker, trio.open_nursery() as nursery:

        async def say(identity: bytes, *messages: list[bytes]) -> None:
            port = dial(endpoint, Options(routing_id=identity))
            nursery.start_soon(attend, port, port.receive)
            await trio.testing.wait_all_tasks_blocked()
            seen = broker.statistics().protocol_errors
            for frames in messages:
                port.send(DIALLED, frames)
            await until(lambda: broker.statistics().protocol_errors == seen + 1)

        await say(b"anna", [b"C", b"4"], [b"C", b"2"])
        await say(b"till", [b"W", b"4"], [b"W", b"1", b"mmi.x"], [b"W", b"4"])
        await say(b"otto", [b"no greeting"])
        starts = ("b dropped a message of client 'anna': ", "b dropped worker 'till': ", "b dropped peer 'otto': ")
        assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 3
        nursery.cancel_scope.cancel()

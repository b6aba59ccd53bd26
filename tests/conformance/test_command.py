"""`python -m zmdp_trio.conformance`, over tcp."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import trio
from mistakes import RepliesForAnotherService
from reference import Broker


async def run(*arguments: str, broker: type[Broker] | None = Broker) -> subprocess.CompletedProcess[bytes]:
    """Run the command, for a broker if there is to be one."""
    command = [sys.executable, "-m", "zmdp_trio.conformance"]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            if broker:
                command += await nursery.start(broker("tcp://127.0.0.1:*", heartbeat=2.5).run)
            result = await trio.run_process(
                [*command, *arguments], check=False, capture_stdout=True, capture_stderr=True
            )
            nursery.cancel_scope.cancel()
    return result


async def test_a_broker_that_passes() -> None:
    result = await run("--only", "18/client/re*", "--only", "8/*/found", "--heartbeat", "0.5")
    assert result.returncode == 0, result.stdout.decode()
    assert b"pass          stated  18/client/reply" in result.stdout
    assert b"8/mdp02/found" in result.stdout
    assert b"answers to RFC 7, RFC 8, RFC 18" in result.stdout
    assert b" fail" not in result.stdout
    assert result.stderr == b""


async def test_a_broker_that_fails() -> None:
    result = await run("--rfc", "18", "--only", "*/client/re*", broker=RepliesForAnotherService)
    assert result.returncode == 1
    assert b"fail          stated  18/client/reply" in result.stdout
    assert b"seen: the message is ['MDPC02' 03 'another' 'pong'], not" in result.stdout


async def test_json() -> None:
    result = await run("--json", "--rfc", "7", "--only", "*/repeat", "--jobs", "1", "--service-prefix", "mine.")
    assert result.returncode == 0, result.stdout.decode()
    record = json.loads(result.stdout)
    assert [each["id"] for each in record["results"]] == ["7/client/repeat"]
    assert record["target"]["prefix"] == "mine."
    assert record["spoken"] == [7, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tcp://127.0.0.1:1"], b"conformance: tcp://127.0.0.1:1: connection refused\n"),
        (["nonsense"], b"conformance: nonsense: not an endpoint; expected one of"),
        (["tcp://127.0.0.1:1", "--rfc", "9"], b"invalid choice: 9"),
        (["tcp://127.0.0.1:1", "--heartbeat", "0"], b"0 is not a number of seconds above 0"),
        (["tcp://127.0.0.1:1", "--jobs", "0"], b"0 is not 1 or more"),
        ([], b"the following arguments are required: ENDPOINT"),
    ],
)
async def test_wrong_use_and_nobody_there(arguments: list[str], message: bytes) -> None:
    result = await run(*arguments, broker=None)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == b""


async def test_help_tells_the_exit_status() -> None:
    result = await run("--help", broker=None)
    assert result.returncode == 0, result.stdout.decode()
    assert b"exit status: 0 the broker passes all checks; 1 it fails some; 2" in result.stdout

"""Plain REQ clients in Node, as tutorials have them, on the file example."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from outsiders import NODE, PATIENCE, REQ_CLIENT, Stage, need

from examples.files import file_services
from zmdp_trio import Gateway, open_broker, open_gateway, open_worker

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[Gateway]:
    (root / "notes.txt").write_text("Grüße\n")
    (root / "folder").mkdir()
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker(file_services(root), *broker.endpoints) as worker,
        open_gateway("tcp://127.0.0.1:*", service="files.content", brokers=broker.endpoints) as gateway,
    ):
        await worker.wait_welcomed()
        yield gateway


async def test_a_req_client_in_node_asks_five_times_in_a_loop(stage: Stage, tmp_path: Path) -> None:
    paths = ["notes.txt", "missing", "folder", "../notes.txt", "notes.txt"]
    async with serving(tmp_path) as gateway:
        client = await stage.req_client(gateway.endpoints[0], paths=paths)
        replies = [(await client.news("reply"))["reply"] for _ in paths]
        assert await client.ended() == 0
    for reply in (replies[0], replies[4]):
        assert reply["content"] == "Grüße\n"
        assert reply.keys() == {"content", "timestamp", "pid"}
    codes = [reply["error"]["code"] for reply in replies[1:4]]
    assert codes == ["NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED"]


async def test_twenty_of_them_at_once(stage: Stage, tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        clients = [await stage.req_client(gateway.endpoints[0], paths=["notes.txt"] * 5) for _ in range(20)]
        for client in clients:
            for _ in range(5):
                assert (await client.news("reply"))["reply"]["content"] == "Grüße\n"
            assert await client.ended() == 0
        assert gateway.statistics().replied == 100


@pytest.mark.parametrize("path", ["notes.txt", "missing"])
async def test_the_example_s_own_client(path: str, tmp_path: Path) -> None:
    need(REQ_CLIENT)
    async with serving(tmp_path) as gateway:
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                ["node", str(ROOT / "examples" / "files" / "requester.js"), path, gateway.endpoints[0]],
                env=os.environ | {"NODE_PATH": str(NODE / "node_modules")},
                capture_stdout=True,
                stderr=subprocess.STDOUT,
            )
    text = done.stdout.decode()
    assert text.startswith("".join(f"sending request {number}\n" for number in range(1, 6)))
    assert text.count("content: 'Grüße\\n'" if path == "notes.txt" else "code: 'NOT_FOUND'") == 5

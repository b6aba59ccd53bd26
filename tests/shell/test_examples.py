"""Each example runs and says what it should; the file services keep to their folder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from cluster import until

from zmdp_trio import Client, Code, InvalidArgument, RequestError, open_broker, open_client, open_worker

ROOT = Path(__file__).parents[2]

#: Patterns of lines that each example prints, in this order.
OUTPUT = {
    "hello": ["Hello, World!"],
    "streaming": ["0", "1", "2", "3", "4", "final reply: counted to 5"],
    "cancellation": [
        *(f"client: tick {tick}" for tick in range(4)),
        "handler: the caller has left, cleaning up",
    ],
    "deadlines": [*(rf"{name}: [01]\.\d s left" for name in "ABC"), "client: one second is over"],
    "sqlite_export": ["Oslo       717,710", "Riga       605,273", "Turin      846,916", "3 cities"],
}


@pytest.mark.parametrize("name", OUTPUT)
def test_example(name: str) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = iter(done.stdout.splitlines())
    assert [line for line in OUTPUT[name] if not any(re.fullmatch(line, found) for found in lines)] == []


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {*OUTPUT, "files"}


def test_a_module_wins_over_the_folder_of_its_name() -> None:
    """`zmdp worker examples.files` means files.py; mypy has to be told so."""
    done = subprocess.run(
        [sys.executable, "-c", "import examples.files; print(examples.files.__file__)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == str(ROOT / "examples" / "files.py")
    assert "examples/files.py" in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]


@pytest.fixture(scope="module")
def files() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_files", ROOT / "examples" / "files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to serve, with a secret beside it and ways to escape in it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "folder" / "deep").mkdir(parents=True)
    (root / "data").write_bytes(os.urandom(600_000))
    (root / "empty").touch()
    (root / "folder" / "text").write_bytes(b"some text")
    (root / "inside").symlink_to("folder/text")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nothing")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
async def client(files: ModuleType, root: Path) -> AsyncIterator[Client]:
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker(files.file_services(root), *broker.endpoints) as worker,
        open_client(*broker.endpoints) as client,
    ):
        with trio.fail_after(30):
            await worker.wait_welcomed()
            yield client


async def read(client: Client, **query: Any) -> tuple[bytes, Any]:
    async with client.stream("files.read", query) as stream:
        content = b"".join([chunk async for chunk in stream])
    return content, stream.final


ESCAPES = ["../secret", "folder/../../secret", "/etc/hostname", "outside", "out/secret", "..", "../root-too/secret"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        *((path, Code.PERMISSION_DENIED) for path in ESCAPES),
        ("missing", Code.NOT_FOUND),
        ("missing/deeper", Code.NOT_FOUND),
        ("data/deeper", Code.NOT_FOUND),
        ("dangling", Code.NOT_FOUND),
        ("folder", Code.INVALID_ARGUMENT),
        ("", Code.INVALID_ARGUMENT),
        ("pipe", Code.INVALID_ARGUMENT),
        ("loop", Code.INVALID_ARGUMENT),
        ("nul\0", Code.INVALID_ARGUMENT),
        ("long" * 1000, Code.INVALID_ARGUMENT),
    ],
)
@pytest.mark.parametrize("service", ["files.stat", "files.read", "files.tail", "files.content"])
async def test_refusals(client: Client, service: str, path: str, code: Code) -> None:
    with pytest.raises(RequestError) as caught:
        await client.request(service, {"path": path})
    assert caught.value.code is code
    assert caught.value.details == {"path": path if len(path) <= 200 else path[:200] + "..."}
    assert str(path)[:20] in caught.value.message or "\0" in path


@pytest.mark.parametrize("path", [*ESCAPES[:-3], "out", "../root-too"])
async def test_list_keeps_to_its_folder(client: Client, path: str) -> None:
    with pytest.raises(RequestError) as caught:
        await client.request("files.list", {"path": path})
    assert caught.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize(("path", "code"), [("missing", Code.NOT_FOUND), ("data", Code.NOT_FOUND)])
async def test_list_of_what_is_no_folder(client: Client, path: str, code: Code) -> None:
    with pytest.raises(RequestError) as caught:
        await client.request("files.list", {"path": path})
    assert caught.value.code is code


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
async def test_a_file_that_may_not_be_read(client: Client, root: Path) -> None:
    (root / "data").chmod(0)
    with pytest.raises(RequestError) as caught:
        await client.request("files.stat", {"path": "data"})
    assert caught.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("service", "query"),
    [
        ("files.read", {"path": "data", "offset": -1}),
        ("files.read", {"path": "data", "length": -1}),
        ("files.read", {"path": "data", "offset": "0"}),
        ("files.read", {"path": "data", "unknown": 1}),
        ("files.read", {}),
        ("files.read", None),
        ("files.stat", "data"),
        ("files.tail", {"path": "data", "poll": 0}),
        ("files.list", {"limit": 0}),
        ("files.list", {"path": 1}),
    ],
)
async def test_queries_are_validated(client: Client, service: str, query: Any) -> None:
    with pytest.raises(InvalidArgument):
        await client.request(service, query)


async def test_list(client: Client) -> None:
    listing = await client.request("files.list")
    kinds = {entry["name"]: entry["kind"] for entry in listing["entries"]}
    links = dict.fromkeys(("dangling", "inside", "loop", "out", "outside"), "link")
    assert kinds == {"data": "file", "empty": "file", "folder": "folder", "pipe": "other"} | links
    assert [*kinds] == sorted(kinds)
    assert listing["more"] is False


async def test_list_page_by_page(client: Client) -> None:
    names: list[str] = []
    more = True
    while more:
        listing = await client.request("files.list", {"limit": 4, "after": names[-1] if names else ""})
        names += [entry["name"] for entry in listing["entries"]]
        more = listing["more"]
    assert len(names) == len(set(names)) == 9


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
async def test_list_shows_names_that_are_not_text(client: Client, root: Path) -> None:
    os.mkdir(os.fsencode(root / "folder") + b"/\xff")
    listing = await client.request("files.list", {"path": "folder"})
    assert [entry["name"] for entry in listing["entries"]] == ["\\xff", "deep", "text"]


async def test_content(client: Client, root: Path) -> None:
    (root / "notes").write_bytes("Grüße ".encode() + b"\xff")
    before = time.time() * 1000
    found = await client.request("files.content", {"path": "notes"})
    assert (found["content"], found["pid"]) == ("Grüße \ufffd", os.getpid())
    assert int(before) <= found["timestamp"] <= time.time() * 1000
    assert (await client.request("files.content", {"path": "empty"}))["content"] == ""
    os.truncate(root / "notes", 2**30)
    with pytest.raises(RequestError, match=r"files\.read gives files of any size") as caught:
        await client.request("files.content", {"path": "notes"})
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_stat(client: Client, root: Path) -> None:
    found = await client.request("files.stat", {"path": "folder/../data"})
    content = (root / "data").read_bytes()
    expected = {"name": "data", "size": 600_000, "pid": os.getpid(), "sha256": hashlib.sha256(content).hexdigest()}
    assert found == expected | {"mtime": (root / "data").stat().st_mtime}
    quick = await client.request("files.stat", {"path": "inside", "sha256": False})
    assert (quick["size"], quick["sha256"]) == (9, None)


async def test_stat_stops_reading_when_the_caller_leaves(files: ModuleType, root: Path) -> None:
    os.truncate(root / "data", 2**40)
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker(files.file_services(root), *broker.endpoints) as worker,
        open_client(*broker.endpoints) as client,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "files.stat", {"path": "data"})
            await until(lambda: worker.statistics().running, within=30)
            nursery.cancel_scope.cancel()
        await until(lambda: worker.statistics().cancelled, within=30)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, None, slice(None)), (5, None, slice(5, None)), (0, 0, slice(0)), (10, 300_000, slice(10, 300_010))],
)
async def test_read(client: Client, root: Path, offset: int, length: int | None, expected: slice) -> None:
    wanted = (root / "data").read_bytes()[expected]
    content, final = await read(client, path="data", offset=offset, length=length)
    assert content == wanted
    assert final == {"bytes": len(wanted), "size": 600_000}


async def test_read_at_the_edges(client: Client) -> None:
    assert await read(client, path="empty") == (b"", {"bytes": 0, "size": 0})
    assert await read(client, path="data", offset=600_000) == (b"", {"bytes": 0, "size": 600_000})
    assert (await read(client, path="data", offset=599_999, length=10**15))[1]["bytes"] == 1
    with pytest.raises(RequestError) as caught:
        await read(client, path="data", offset=600_001)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.details == {"path": "data", "offset": 600_001, "size": 600_000}


async def test_tail_follows_until_the_caller_leaves(client: Client, root: Path) -> None:
    log = root / "log"
    log.write_text("old\n")
    async with client.stream("files.tail", {"path": "log", "offset": 0, "poll": 0.01}) as stream:
        assert await anext(stream) == b"old\n"
        with log.open("a") as file:
            file.write("new\n")
        assert await anext(stream) == b"new\n"
        log.write_text("cut\n")
        assert await anext(stream) == b"cut\n"


async def test_tail_begins_at_the_end_and_ends_with_the_file(client: Client, root: Path) -> None:
    log = root / "log"
    log.write_text("old\n")
    async with trio.open_nursery() as nursery, client.stream("files.tail", {"path": "log", "poll": 0.01}) as stream:

        async def write() -> None:
            while True:
                with log.open("a") as file:
                    file.write("new\n")
                await trio.sleep(0.01)

        nursery.start_soon(write)
        assert (await anext(stream)).startswith(b"new\n")
        nursery.cancel_scope.cancel()
    async with client.stream("files.tail", {"path": "log", "offset": 0, "poll": 0.01}) as stream:
        await anext(stream)
        log.unlink()
        assert [chunk async for chunk in stream] == []
        assert stream.final["bytes"] == stream.final["size"]


def test_the_root_must_be_a_folder(files: ModuleType, root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.file_services(root / "missing")
    with pytest.raises(NotADirectoryError):
        files.file_services(root / "data")

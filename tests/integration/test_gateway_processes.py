"""`zmdp gateway` as its users run it: plain REQ clients, a REP server that is killed, and the file example."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
import zmq
from forked import HERE, ROOT, Forked, command, fork, program, run_forked

#: Seconds that anything may take, and the processes that all tests share.
LIMIT, WHOLE = 60, 900

SERVICES = """
import os
from pathlib import Path
from typing import Any

import trio
from zmdp_trio import service


@service("work", concurrency=1)
async def work(number: int) -> dict[str, Any]:
    await trio.sleep(0.2)
    return {"number": number, "pid": os.getpid()}


@service("echo")
async def echo(payload: Any) -> Any:
    return payload


@service("patient")
async def patient(go: str) -> str:
    try:
        print("entered", flush=True)
        while not Path(go).exists():
            await trio.sleep(0.01)
        return "done"
    finally:
        print("left", flush=True)
"""

#: A REP server: says its pid, or does not reply for a while.
REP = """
import os, sys, time
import zmq

socket = zmq.Context().socket(zmq.REP)
socket.linger = 0
socket.bind(sys.argv[1])
print(socket.last_endpoint.decode(), flush=True)
while True:
    frames = socket.recv_multipart()
    if frames[0] == b"sleep":
        print("asleep", flush=True)
        time.sleep(60)
    socket.send_multipart([b"%d" % os.getpid(), *frames])
"""


class Pieces(NamedTuple):
    """A broker, two workers in processes of their own, and a gateway to `work` and one to `echo`."""

    broker: str
    work: str
    echo: str
    folder: Path


def line_with(pipe: IO[bytes], text: str) -> str:
    """Wait for a line that holds `text`."""
    for line in pipe:
        if text in line.decode():
            return line.decode()
    raise AssertionError(f"the process ended without saying {text!r}")


@contextmanager
def gateway(broker: str, service: str, *options: str, limit: float = LIMIT) -> Iterator[tuple[Forked, str]]:
    arguments = ("gateway", "--bind", "tcp://127.0.0.1:*", "--service", service, "--connect", broker, "--json")
    with fork(command(HERE, *arguments, *options), limit) as process:
        record = json.loads(line_with(process.stdout, "endpoints"))
        assert (record["service"], record["brokers"]) == (service, [broker])
        yield process, record["endpoints"][0]


@contextmanager
def worker(folder: Path, target: str, broker: str, limit: float = LIMIT) -> Iterator[Forked]:
    with fork(command(folder, "worker", target, "--connect", broker), limit) as process:
        line_with(process.stdout, "offering")
        yield process


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pieces]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "services.py").write_text(SERVICES)
    (folder / "rep.py").write_text(REP)
    with ExitStack() as stack:
        broker = stack.enter_context(fork(command(folder, "broker", "--bind", "tcp://127.0.0.1:*", "--json"), WHOLE))
        endpoint = json.loads(line_with(broker.stdout, "endpoints"))["endpoints"][0]
        for _ in range(4):
            stack.enter_context(worker(folder, "services", endpoint, WHOLE))
        _, work = stack.enter_context(gateway(endpoint, "work", limit=WHOLE))
        _, echo = stack.enter_context(gateway(endpoint, "echo", limit=WHOLE))
        yield Pieces(endpoint, work, echo, folder)


@contextmanager
def connect(endpoint: str, kind: int = zmq.REQ, **options: int) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger = 0
        socket.rcvtimeo = LIMIT * 1000
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.connect(endpoint)
        yield socket


def test_req_sockets_get_what_they_sent(pieces: Pieces) -> None:
    with connect(pieces.echo) as client:
        for frames in ([b"x"], [b""], [os.urandom(3_000_000)], [b"a", b"", os.urandom(100_000)]):
            client.send_multipart(frames)
            assert client.recv_multipart() == frames


def test_a_req_socket_that_counts_and_does_not_wait_gets_its_latest_reply(pieces: Pieces) -> None:
    with connect(pieces.echo, REQ_CORRELATE=1, REQ_RELAXED=1) as client:
        for number in range(5):
            client.send(b"%d" % number)
        assert client.recv() == b"4"


def test_a_dealer_s_replies_are_in_order_and_made_in_parallel(pieces: Pieces) -> None:
    with connect(pieces.work, zmq.DEALER) as client:
        for number in range(8):
            client.send_multipart([b"", b"%d" % number])
        replies = [json.loads(client.recv_multipart()[1]) for _ in range(8)]
    assert [reply["number"] for reply in replies] == list(range(8))
    assert len({reply["pid"] for reply in replies}) == 4


def test_a_hundred_req_clients_at_once(pieces: Pieces) -> None:
    def ask(number: int) -> bytes:
        with connect(pieces.echo) as client:
            client.send(b"%d" % number)
            return client.recv()

    with ThreadPoolExecutor(100) as threads:
        assert list(threads.map(ask, range(100))) == [b"%d" % number for number in range(100)]


def test_an_error_is_json(pieces: Pieces) -> None:
    with connect(pieces.work) as client:
        client.send(b"no number")
        assert json.loads(client.recv())["error"]["code"] == "INVALID_ARGUMENT"


def patient_worker(pieces: Pieces, folder: Path, service: str) -> AbstractContextManager[Forked]:
    """Start a worker of its own, which says when a request of `patient` has begun, under another name."""
    (folder / "services.py").write_text(SERVICES.replace('"patient"', f'"{service}"'))
    return worker(folder, "services:patient", pieces.broker)


def test_a_client_that_is_killed_has_its_request_cancelled(pieces: Pieces, tmp_path: Path) -> None:
    with patient_worker(pieces, tmp_path, "mortal") as serving, gateway(pieces.broker, "mortal") as (_, front):
        with connect(front) as client:
            client.send(b'"nowhere"')
            line_with(serving.stdout, "entered")
        line_with(serving.stdout, "left")


def test_the_first_signal_drains_and_the_client_is_answered(pieces: Pieces, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with (
        patient_worker(pieces, tmp_path, "drained") as serving,
        gateway(pieces.broker, "drained") as (process, front),
        connect(front) as client,
    ):
        client.send_string(json.dumps(str(go)))
        line_with(serving.stdout, "entered")
        process.send_signal(signal.SIGTERM)
        line_with(process.stderr, "finishing 1 request")
        with connect(front) as late:
            late.send(b'"too late"')
            assert json.loads(late.recv())["error"]["message"] == "the gateway is stopping"
        go.touch()
        assert client.recv() == b'"done"'
        assert process.wait(LIMIT) == 0


def test_the_second_signal_is_now_and_the_client_is_told(pieces: Pieces, tmp_path: Path) -> None:
    with (
        patient_worker(pieces, tmp_path, "hurried") as serving,
        gateway(pieces.broker, "hurried") as (process, front),
        connect(front) as client,
    ):
        client.send(b'"nowhere"')
        line_with(serving.stdout, "entered")
        process.send_signal(signal.SIGTERM)
        line_with(process.stderr, "a second signal ends it now")
        process.send_signal(signal.SIGTERM)
        assert json.loads(client.recv())["error"] == {"code": "UNAVAILABLE", "message": "the gateway was stopped"}
        assert process.wait(LIMIT) == 143


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--service", "x"), ["either --bind", "or --rep"]),
        (("--service", "x", "--bind", "tcp://127.0.0.1:*", "--rep", "tcp://127.0.0.1:9"), ["either --bind"]),
        (("--bind", "tcp://127.0.0.1:*"), ["--service"]),
        (("--service", "", "--bind", "tcp://127.0.0.1:*"), ["at least one character"]),
        (("--service", "x", "--bind", "nonsense"), ["not an endpoint"]),
        (("--service", "x", "--bind", "tcp://127.0.0.1:*", "--concurrency", "2"), ["--concurrency is for --rep"]),
        (("--service", "x", "--rep", "tcp://127.0.0.1:9", "--retry", "1"), ["--retry is for --bind"]),
        (("--service", "x", "--rep", "tcp://127.0.0.1:*"), ["wildcard"]),
        (("--service", "x", "--bind", "tcp://127.0.0.1:*", "--set", "appear=1"), ["appear is a setting of brokers"]),
    ],
)
def test_a_wrong_use_is_one_line_and_status_2(options: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    done = run_forked(command(tmp_path, "gateway", *options), LIMIT)
    assert (done.returncode, done.stdout) == (2, b"")
    assert [word for word in words if word not in done.stderr.decode()] == []
    assert b"Traceback" not in done.stderr


# ---- in front of a REP server


def ask(pieces: Pieces, service: str, payload: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    return run_forked(command(pieces.folder, "call", service, payload, "--connect", pieces.broker, *options), LIMIT)


def test_a_rep_server_that_is_killed_and_started_again(pieces: Pieces) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(fork(program(pieces.folder / "rep.py", "tcp://127.0.0.1:*"), LIMIT))
        endpoint = line_with(server.stdout, "tcp://").strip()
        arguments = ("gateway", "--rep", endpoint, "--service", "legacy", "--connect", pieces.broker, "--json")
        front = stack.enter_context(fork(command(pieces.folder, *arguments), LIMIT))
        record = json.loads(line_with(front.stdout, "service"))
        assert record == {"server": endpoint, "service": "legacy", "brokers": [pieces.broker]}

        # Two frames are a list of bytes, which the command shows as base64.
        assert len(json.loads(ask(pieces, "legacy", "hello", "--raw", "--json").stdout)["reply"]) == 2

        with fork(
            command(pieces.folder, "call", "legacy", "sleep", "--raw", "--json", "--connect", pieces.broker), LIMIT
        ) as call:
            line_with(server.stdout, "asleep")
            killed = time.monotonic()
            server.kill()
            assert call.wait(LIMIT) == 8
            error = json.loads(call.stdout.read())["error"]
            assert time.monotonic() - killed < 10
        assert (error["code"], "was lost before it replied" in error["message"]) == ("UNAVAILABLE", True)

        again = stack.enter_context(fork(program(pieces.folder / "rep.py", endpoint), LIMIT))
        line_with(again.stdout, "tcp://")
        done = ask(pieces, "legacy", '{"a": 1}', "--json")
        assert (done.returncode, len(json.loads(done.stdout)["reply"])) == (0, 2)
        front.send_signal(signal.SIGTERM)
        assert front.wait(LIMIT) == 0


def test_a_rep_server_that_is_stuck_is_unavailable_in_time(pieces: Pieces) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(fork(program(pieces.folder / "rep.py", "tcp://127.0.0.1:*"), LIMIT))
        endpoint = line_with(server.stdout, "tcp://").strip()
        arguments = ("--service", "stuck", "--connect", pieces.broker, "--timeout", "0.3")
        front = stack.enter_context(fork(command(pieces.folder, "gateway", "--rep", endpoint, *arguments), LIMIT))
        line_with(front.stdout, f"offering {endpoint} as stuck")
        done = ask(pieces, "stuck", "sleep", "--raw", "--json")
        assert done.returncode == 8
        assert "has not replied within 0.3 s" in json.loads(done.stdout)["error"]["message"]


# ---- the example


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The example's one command, at a port that is free."""
    root = tmp_path_factory.mktemp("files")
    (root / "notes.txt").write_text("Grüße\n")
    (root / "binary").write_bytes(b"a\xffb")
    (root / "folder").mkdir()
    (root / "large").touch()
    os.truncate(root / "large", 2**30)
    program = ROOT / "examples" / "files" / "serve.py"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZMDP_")}
    arguments = [sys.executable, "-W", "error", str(program), str(root), "--bind", "tcp://127.0.0.1:*"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, env=environment | {"PYTHONPATH": str(ROOT)}, start_new_session=True
    ) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(WHOLE, process.kill)
        watchdog.start()
        try:
            words = line_with(process.stdout, "serving").split()
            yield process, words[words.index("at") + 1], root
        finally:
            watchdog.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
            assert process.wait(LIMIT) == 0


def content(endpoint: str, query: Any) -> Any:
    with connect(endpoint) as client:
        client.send(json.dumps(query).encode())
        return json.loads(client.recv())


def test_a_file_is_served_as_the_tutorials_do(files: Any) -> None:
    process, endpoint, _ = files
    with connect(endpoint, zmq.DEALER) as client:
        for _ in range(5):
            client.send_multipart([b"", b'{"path": "notes.txt"}'])
        replies = [json.loads(client.recv_multipart()[1]) for _ in range(5)]
    for reply in replies:
        assert reply.keys() == {"content", "timestamp", "pid"}
        assert reply["content"] == "Grüße\n"
        assert abs(reply["timestamp"] / 1000 - time.time()) < LIMIT
        assert reply["pid"] != process.pid
    assert content(endpoint, {"path": "binary"})["content"] == "a\ufffdb"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"path": "missing"}, "NOT_FOUND"),
        ({"path": "folder"}, "INVALID_ARGUMENT"),
        ({"path": "large"}, "INVALID_ARGUMENT"),
        ({"path": "../notes.txt"}, "PERMISSION_DENIED"),
        ({"path": "/etc/passwd"}, "PERMISSION_DENIED"),
        ({"path": "notes.txt\0"}, "INVALID_ARGUMENT"),
        ({"path": 5}, "INVALID_ARGUMENT"),
        ({}, "INVALID_ARGUMENT"),
        ("notes.txt", "INVALID_ARGUMENT"),
    ],
    ids=json.dumps,
)
def test_what_is_no_file_in_the_folder_is_an_error(files: Any, query: Any, code: str) -> None:
    assert content(files[1], query)["error"]["code"] == code

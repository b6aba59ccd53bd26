"""The `zmdp` command as a user runs it: real processes, real sockets, real signals."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
import zmq
from forked import HERE, ROOT, Forked, command, fork, run_forked, snippet

from zmdp_trio import PROTOCOLS
from zmdp_trio.cli._types import Setting
from zmdp_trio.cli._values import as_record

#: Seconds that a command may take, and the broker and worker that all tests share.
LIMIT, WHOLE = 60, 900

CLASH = """
from cli_handlers import echo
from zmdp_trio import service

@service("echo")
async def other(payload):
    return 1
"""

#: Handlers that only one test each wants.
WORDS = """
import threading
from zmdp_trio import Code, ServiceError, service

class Query:
    def __init__(self, word):
        pass

@service("picky")
async def picky():
    raise ServiceError(Code.INVALID_ARGUMENT, "not on Sundays")

@service("nap")
def nap():
    print("asleep", flush=True)
    threading.Event().wait()

@service("frames")
async def frames():
    return [b"one", b"\\xff"]

calls = []

@service("tally")
async def tally():
    calls.append(1)
    return len(calls)

async def later():
    return [tally]
"""

#: Starts a thread for which the interpreter waits in vain.
LINGERING = """
import threading
from cli_handlers import echo

threading.Thread(target=threading.Event().wait).start()
"""


BASE64 = b"zmdp: the reply holds bytes, shown as base64; --json says which\n"


class Cluster(NamedTuple):
    """A broker, a worker that offers cli_handlers.py, and a folder."""

    endpoint: str
    worker: Forked
    folder: Path


def _arguments(cwd: Path, **settings: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZMDP_")}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "COLUMNS": "120"} | settings
    return {"cwd": cwd, "env": environment}


@contextmanager
def start_anew(cwd: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `zmdp` without a fork: what a forked process has of memory is not what it would have had."""
    command = {**_arguments(cwd, **settings), "args": [sys.executable, "-m", "zmdp_trio", *arguments]}
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def start(cwd: Path, *arguments: str, limit: float = LIMIT, **settings: str) -> AbstractContextManager[Forked]:
    """Start `zmdp` and end it with the block, or after `limit`: then what waits for its output sees the end of it."""
    return fork(command(cwd, *arguments, **settings), limit)


def run(cwd: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    done = run_forked(command(cwd, *arguments), LIMIT, stdin)
    assert b"Traceback" not in done.stderr
    return done


def line_with(pipe: IO[bytes], text: str) -> str:
    """Wait for a line that holds `text`."""
    for line in pipe:
        if text in line.decode():
            return line.decode()
    raise AssertionError(f"the process ended without saying {text!r}")


@contextmanager
def start_broker(cwd: Path, *options: str, limit: float = LIMIT) -> Iterator[tuple[Forked, str]]:
    with start(cwd, "broker", "--bind", "tcp://127.0.0.1:*", "--json", *options, limit=limit) as broker:
        yield broker, json.loads(line_with(broker.stdout, "endpoints"))["endpoints"][0]


@contextmanager
def start_worker(
    cwd: Path, module: str, endpoint: str, limit: float = LIMIT, protocol: str = "zmdp/1", **settings: str
) -> Iterator[Forked]:
    arguments = ("worker", module, "--connect", endpoint, "--protocol", protocol)
    with start(cwd, *arguments, limit=limit, **settings) as worker:
        line_with(worker.stdout, "offering")
        yield worker


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    # Some tests ask for what nobody offers; whatever is offered is there before anybody asks.
    with start_broker(folder, "--set", "appear=0.1", limit=WHOLE) as (_, endpoint):
        with start_worker(HERE, "cli_handlers", endpoint, WHOLE) as worker:
            yield Cluster(endpoint, worker, folder)


@pytest.fixture(scope="module", autouse=True)
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """A call without a broker; it gives up after seconds, in which the other tests go on."""
    folder = tmp_path_factory.mktemp("lonely")
    with start(folder, "call", "echo", "--connect", "tcp://127.0.0.1:9", limit=WHOLE) as process:
        yield process


def ask(cluster: Cluster, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run(cluster.folder, *arguments, "--connect", cluster.endpoint, stdin=stdin)


def test_help_tells_of_every_command_and_exit_code(tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout.decode()
    for word in ("broker", "worker", "call", "stream", "bench", "gateway", "demo", "Exit codes:", "130"):
        assert word in text


def test_closed_output_is_noticed_before_the_call(tmp_path: Path) -> None:
    commands = [["call", "echo"], ["call", "--json", "echo"], ["stream", "echo"]]
    for done in _run_in_shells(tmp_path, commands, ">&-"):
        assert (done.returncode, done.stderr) == (1, b"zmdp: standard output is closed\n")


def test_closed_input_is_no_payload(tmp_path: Path) -> None:
    (done,) = _run_in_shells(tmp_path, [["call", "echo", "-"]], "<&-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"zmdp: can't read the payload from standard input: it is closed\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["count", "2"], 1, b"can't write to standard output: No space left on device\n"),
        (["--json", "count", "2"], 1, b"can't write to standard output: No space left on device\n"),
        (["--json", "nobody"], 4, b"NOT_FOUND: "),
    ],
)
def test_full_output_is_a_line_and_a_status(cluster: Cluster, arguments: list[str], status: int, words: bytes) -> None:
    commands = [[verb, *arguments, "--connect", cluster.endpoint] for verb in ("call", "stream")]
    for done in _run_in_shells(cluster.folder, commands, ">/dev/full"):
        assert b"Traceback" not in done.stderr
        # A stream's final reply, which is no output, may stand above.
        assert done.stderr.splitlines(keepends=True)[-1].startswith(b"zmdp: " + words)
        assert done.returncode == status


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_output_of_other_commands(tmp_path: Path) -> None:
    commands = [["--help"], ["--version"], ["broker", "--bind", "tcp://127.0.0.1:*"]]
    for done in _run_in_shells(tmp_path, commands, ">/dev/full"):
        assert done.returncode == 1
        assert b"No space left on device\n" in done.stderr
        assert done.stderr.count(b"\n") == 1


def _run_in_shells(
    cwd: Path, commands: Iterable[list[str]], redirection: str
) -> Iterator[subprocess.CompletedProcess[bytes]]:
    """Run `zmdp` with one of its streams as a shell makes it, each time beside the others: no fork makes that."""

    def run(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-m", "zmdp_trio", *arguments]
        command = {**_arguments(cwd), "args": ["sh", "-c", f'"$@" {redirection}', "sh", *words]}
        return subprocess.run(**command, capture_output=True, timeout=LIMIT)

    with ThreadPoolExecutor() as threads:
        yield from threads.map(run, commands)


INTERRUPTED = """
import os, signal, sys
import zmdp_command

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
zmdp_command.main()
"""


@pytest.mark.parametrize("module", ["zmdp_trio", "trio", "zmdp_trio.cli._commands", "zmdp_trio.cli._options"])
def test_ctrl_c_while_the_command_is_imported(tmp_path: Path, module: str) -> None:
    command = {**_arguments(tmp_path), "args": [sys.executable, "-c", INTERRUPTED, module]}
    done = subprocess.run(**command, capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_help_imports_nothing_that_only_a_subcommand_needs(tmp_path: Path) -> None:
    code = "import sys, zmdp_trio.cli._commands as c; c.run(['--help']); print(*sorted(sys.modules))"
    command = {**_arguments(tmp_path), "args": [sys.executable, "-c", code]}
    modules = subprocess.run(**command, capture_output=True, check=True).stdout.decode().split()
    assert not {"rich", "asyncio"} & set(modules)


def test_help_names_no_module_that_only_a_checkout_has(tmp_path: Path) -> None:
    assert b"examples" not in run(tmp_path, "--help").stdout


@pytest.mark.parametrize("command", ["call", "stream"])
def test_the_library_logs_nothing_to_stderr(tmp_path: Path, command: str) -> None:
    code = (
        "import logging, zmdp_trio.cli._call as call, zmdp_trio.cli._commands as commands;"
        "log = lambda options: logging.getLogger('zmdp_trio.engine').warning('refused');"
        f"call.run_{command} = log; commands.run(['{command}', 'echo'])"
    )
    arguments = {**_arguments(tmp_path), "args": [sys.executable, "-c", code]}
    done = subprocess.run(**arguments, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("arguments", "stdin", "reply"),
    [
        (["echo"], b"", b"null\n"),
        (["echo", '{"a": [1, 2.5, "x"]}'], b"", b'{"a":[1,2.5,"x"]}\n'),
        (["echo", "-"], b'"from stdin"', b'"from stdin"\n'),
        (["echo", "@payload.json"], b"", b'{"from":"a file"}\n'),
        (["echo", "--file", "payload.json"], b"", b'{"from":"a file"}\n'),
        (["echo", "--file", "-"], b"[]", b"[]\n"),
        (["echo", "--raw", "h\u00e9"], b"", "h\u00e9".encode()),
        (["echo", "--raw", "-"], b"\x00\xff\n", b"\x00\xff\n"),
        (["echo", "--raw", "@payload.json"], b"", b'{"from": "a file"}'),
        (["echo", "--json", "--raw", "hi"], b"", b'{"reply":"aGk=","encoding":"base64"}\n'),
        (["echo", "--json", "1"], b"", b'{"reply":1}\n'),
        (["headers", "--header", "a=b=c", "--header", "x="], b"", b'{"a":"b=c","x":""}\n'),
        (["steps"], b"", b'"done"\n'),
    ],
)
def test_call(cluster: Cluster, arguments: list[str], stdin: bytes, reply: bytes) -> None:
    (cluster.folder / "payload.json").write_text('{"from": "a file"}')
    done = ask(cluster, "call", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, reply, b"")


@pytest.mark.parametrize("protocol", ["mdp/0.1", "mdp/0.2"])
def test_the_frames_of_a_reply_are_known_for_bytes(cluster: Cluster, tmp_path: Path, protocol: str) -> None:
    (tmp_path / "words.py").write_text(WORDS)
    with start_worker(tmp_path, "words:frames", cluster.endpoint, protocol=protocol):
        there = ("frames", "--protocol", protocol)
        done = ask(cluster, "call", "--json", *there)
        assert done.stdout == b'{"reply":["b25l","/w=="],"encoding":"base64"}\n'
        done = ask(cluster, "call", *there)
        assert (done.stdout, done.stderr) == (b'["b25l","/w=="]\n', BASE64)
        done = ask(cluster, "stream", *there)
        assert done.stderr == b'final reply: ["b25l","/w=="] (bytes as base64)\n'


def test_bytes_within_a_reply_are_announced(cluster: Cluster) -> None:
    done = ask(cluster, "call", "odd")
    assert (done.stdout, done.stderr) == (b'{"1":"Ynl0ZXM=","nested":[null]}\n', BASE64)
    assert json.loads(ask(cluster, "call", "--json", "odd").stdout)["encoding"] == {"/1": "base64"}


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"x", "base64"),
        ([b"x", b"y"], "base64"),
        ([b"x", "eA=="], {"/0": "base64"}),
        ({"a/b": [0, {"~": bytearray(b"x")}], 7: (b"y",)}, {"/a~1b/1/~0": "base64", "/7/0": "base64"}),
        ([], None),
        (["eA=="], None),
    ],
)
def test_a_record_says_what_is_base64(value: object, encoding: object) -> None:
    assert as_record("reply", value).get("encoding") == encoding


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_call_and_stream_in_another_protocol(cluster: Cluster, protocol: str) -> None:
    reply = b'{"a":1}' if protocol.startswith("m") else b'{"a":1}\n'
    for verb in ("call", "stream"):
        done = ask(cluster, verb, "echo", '{"a": 1}', "--protocol", protocol)
        assert (done.returncode, done.stdout) == (0, reply if verb == "call" else b"")
    done = ask(cluster, "call", "echo", "--protocol", protocol, "--key", "k")
    assert done.returncode == (0 if protocol == "zmdp/1" else 11)


def test_a_worker_in_another_protocol(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(WORDS)
    with start_worker(tmp_path, "words:tally", cluster.endpoint, protocol="pigato"):
        assert ask(cluster, "call", "tally").stdout == b"1\n"
        assert ask(cluster, "call", "tally", "--protocol", "omdp").stdout == b"2\n"


def test_call_shows_partial_replies_if_asked(cluster: Cluster) -> None:
    done = ask(cluster, "call", "steps", "--partials")
    assert (done.stdout, done.stderr) == (b'"done"\n', b'partial reply: {"progress":0.5}\n')


def test_call_passes_the_deadline_on(cluster: Cluster) -> None:
    done = ask(cluster, "call", "left", "--deadline", "20")
    assert 10 < float(done.stdout) <= 20


def test_stream(cluster: Cluster) -> None:
    done = ask(cluster, "stream", "count", "3")
    assert (done.returncode, done.stdout) == (0, b"0\n1\n2\n")
    assert done.stderr == b'final reply: {"counted":3}\n'


def test_stream_of_bytes_is_those_bytes(cluster: Cluster) -> None:
    done = ask(cluster, "stream", "chunks")
    assert done.stdout == b"one\n\x00\xff\n"


def test_stream_for_programs(cluster: Cluster) -> None:
    lines = [json.loads(line) for line in ask(cluster, "stream", "--json", "chunks").stdout.splitlines()]
    assert lines[0] == {"partial": "b25lCg==", "encoding": "base64"}
    assert lines[-1] == {"final": {"chunks": 2}}


def test_what_came_before_an_error_is_printed(cluster: Cluster) -> None:
    done = ask(cluster, "stream", "half")
    assert (done.returncode, done.stdout) == (9, b"1\n")
    assert b"RESOURCE_EXHAUSTED: that is all" in done.stderr


def test_many_small_replies_stay_in_order(cluster: Cluster) -> None:
    done = ask(cluster, "stream", "count", "20000")
    assert done.stdout == b"".join(b"%d\n" % i for i in range(20000))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nobody"], 4, ["NOT_FOUND", "nobody", "zmdp worker MODULE"]),
        (["refuse"], 6, ["PERMISSION_DENIED: not today", '{"day":"Sunday"}']),
        (["broken"], 3, ["INTERNAL", "RuntimeError"]),
        (["count", '"x"'], 5, ["INVALID_ARGUMENT", "compare the payload"]),
        (["silent", '"t"', "--deadline", "0.2"], 7, ["DEADLINE_EXCEEDED", "--deadline"]),
        (["silent", '"t"', "--timeout", "0.2"], 7, ["DEADLINE_EXCEEDED", "--timeout"]),
    ],
)
def test_an_error_is_one_line_and_a_status(
    cluster: Cluster, arguments: list[str], status: int, words: list[str]
) -> None:
    with start(cluster.folder, "call", "--json", *arguments, "--connect", cluster.endpoint) as machine:
        done = ask(cluster, "call", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (status, b"", 1)
        assert done.stderr.startswith(b"zmdp: ")
        assert [word for word in words if word not in done.stderr.decode()] == []
        assert b"secret" not in done.stderr
        assert machine.wait(LIMIT) == status
        assert json.loads(machine.stdout.read())["error"]["code"] in done.stderr.decode()


def test_what_a_handler_refuses_it_explains_itself(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(WORDS)
    with start_worker(tmp_path, "words:picky", cluster.endpoint):
        done = ask(cluster, "call", "picky")
    assert (done.returncode, done.stderr) == (5, b"zmdp: INVALID_ARGUMENT: not on Sundays\n")


def test_no_broker(lonely: Forked) -> None:
    assert lonely.wait(LIMIT) == 8
    errors = lonely.stderr.read()
    assert b"zmdp broker --bind tcp://127.0.0.1:9)" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["call", "echo", "{bad"], ["not JSON", "--raw"]),
        (["call", "echo", "@missing.json"], ["missing.json", "No such file"]),
        (["call", "echo", "1", "--file", "x"], ["not both"]),
        (["call", "echo", "--connect", "localhost:5555"], ["not an endpoint"]),
        (["call", "echo", "--connect", "tcp://localhost:99999"], ["tcp://HOST:PORT"]),
        (["call", "echo", "--timeout", "-1"], ["seconds"]),
        (["call", "echo", "--header", "x"], ["NAME=VALUE"]),
        (["call", "echo", "--connect", "inproc://here"], ["not an endpoint"]),
        (["call", ""], ["at least one character"]),
        (["stream", ""], ["at least one character"]),
        (["call", "echo", "--retry", "-1"], ["--retry", "1024"]),
        (["call", "echo", "--retry", "1025"], ["--retry", "1024"]),
        (["broker", "--grace", "-1"], ["--grace", "'-1' is not a number of seconds"]),
        (["broker", "--grace", "nan"], ["--grace", "'nan' is not a number of seconds"]),
        (["broker", "--grace", "long"], ["--grace", "'long' is not a number of seconds"]),
        (["worker", "words", "--grace", "-1"], ["--grace", "'-1' is not a number of seconds"]),
        (["worker", "words", "--blocked-after", "0"], ["--blocked-after", "0.01 or more"]),
        (["worker", "words", "--hung-after", "soon"], ["--hung-after", "'soon' is not a number of seconds"]),
        (["broker", "--set", "queue"], ["NAME=VALUE"]),
        (["broker", "--set", "queue_request=1"], ["no setting 'queue_request'", "queue_requests"]),
        (["broker", "--set", "queue_requests=1KiB"], ["queue_requests: '1KiB' is not a whole number"]),
        (["broker", "--set", "queue_requests=0"], ["queue_requests must be a whole number, 1 or more, not 0"]),
        (["broker", "--set", "queue_requests=inf"], ["'inf' is not a whole number"]),
        (["broker", "--set", "broker_memory=2GB"], ["broker_memory: '2GB'", "KiB, MiB, or GiB"]),
        (["broker", "--set", "mdp_errors=2"], ["mdp_errors: '2' is not 1 or true, nor 0 or false"]),
        (["broker", "--set", "heartbeat=often"], ["heartbeat: 'often' is not a number of seconds"]),
        (["broker", "--set", "heartbeat=inf"], ["heartbeat must be seconds, 0.01 or more and finite"]),
        (["broker", "--set", "concurrency=1"], ["concurrency is a setting of workers: not used here"]),
        (["worker", "words", "--set", "appear=1"], ["appear is a setting of brokers"]),
        (["worker", "words", "--set", "drain_grace=1"], ["an option of its own: --grace"]),
        (["call", "echo", "--set", "key_limit=1"], ["key_limit is a setting of brokers and workers"]),
        (["stream", "echo", "--set", "timeout=1"], ["an option of its own: --timeout"]),
        (["broker", "--bind", "tcp://nowhere"], ["tcp://HOST:PORT"]),
        (["broker", "--bind", "tcp://192.0.2.1:5555"], ["192.0.2.1"]),
        (["worker", "missing_module"], ["no module 'missing_module'"]),
        (["worker", "missing.module"], ["no module 'missing.module'"]),
        (["worker", "clash.py"], ["without .py"]),
        (["worker", "cli_handlers:missing"], ["has no 'missing'"]),
        (["worker", "cli_handlers:failing"], ["LookupError", "none today"]),
        (["worker", "cli_handlers:nothing"], ["holds no services"]),
        (["worker", "json"], ["holds no services"]),
        (["worker", "json:JSONDecoder"], ["'json:JSONDecoder' is a class, not a service"]),
        (["worker", "words:Query"], ["'words:Query' is a class, not a service"]),
        (["worker", "words:later"], ["words:later is an async function, not a service"]),
        (["worker", "garbled"], ["SyntaxError: '(' was never closed", "garbled.py, line 2)"]),
        (["worker", ".words"], ["'.words' names no module"]),
        (["worker", "words."], ["'words.' names no module"]),
        (["worker", ":nap"], ["':nap' names no module"]),
        (["worker", "words:"], ["MODULE:NAME"]),
        (["worker", "clash"], ["two services named 'echo'"]),
        (["worker", "faulty"], ["ZeroDivisionError", "faulty.py", "line 2"]),
        (["demo", "missing.bin"], ["missing.bin"]),
        (["bench"], ["name either the services, or --own-worker"]),
        (["bench", "echo", "--in-flight", "1,0"], ["'1,0' is not a whole number from 1 to 65,536"]),
        (["bench", "echo", "--rate", "fast"], ["'fast' is not a number from 0.001 to 1,000,000"]),
        (["bench", "echo", "--size", "1KB"], ["'1KB' is not a whole number of bytes"]),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "clash.py").write_text(CLASH)
    (tmp_path / "words.py").write_text(WORDS)
    (tmp_path / "faulty.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "garbled.py").write_text("x = 0\ny = (\n")
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert [word for word in words if word not in done.stderr.decode()] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("broker_memory=2GiB", 2**31),
        ("broker_memory=128MiB", 2**27),
        ("max_headers=64KiB", 2**16),
        ("max_headers=1000", 1000),
        ("queue_requests=10_000", 10_000),
        ("resume=0.5", 0.5),
        ("key_window=inf", math.inf),
        ("mdp_errors=0", False),
        ("mdp_errors=False", False),
        ("mdp_errors=1", True),
        ("mdp_errors=true", True),
    ],
)
def test_a_setting_is_read_as_what_it_counts(text: str, value: float) -> None:
    name, read = Setting("bw", {}).convert(text, None, None)
    assert (name, read, type(read)) == (text.partition("=")[0], value, type(value))


def test_settings_reach_broker_worker_and_client(tmp_path: Path) -> None:
    bind = ("broker", "--bind", "tcp://127.0.0.1:*", "--json", "--set", "max_message=64KiB", "--set", "client_queue=1")
    with start(tmp_path, *bind) as broker:
        endpoint = json.loads(line_with(broker.stdout, "endpoints"))["endpoints"][0]
        there = ("--connect", endpoint)
        with start(HERE, "worker", "cli_handlers", *there, "--set", "concurrency=1") as worker:
            line_with(worker.stdout, "offering")
            assert run(tmp_path, "call", "echo", "--raw", "-", *there, stdin=bytes(2**17)).returncode == 5
            assert run(tmp_path, "call", "echo", "--raw", "-", *there, stdin=bytes(2**15)).returncode == 0
            with start(tmp_path, "stream", "endless", '"x"', *there, "--set", "credit_messages=1") as stream:
                line_with(stream.stdout, "x")
                late = run(tmp_path, "call", "endless", '"y"', *there, "--deadline", "0.2")
                assert late.returncode == 7


def test_several_brokers_in_the_environment(cluster: Cluster, tmp_path: Path) -> None:
    absent = ["tcp://127.0.0.1:9", "tcp://127.0.0.1:10"]
    brokers = f" {absent[0]}, {cluster.endpoint} {absent[1]} "
    with start(HERE, "worker", "cli_handlers:chosen", "--json", ZMDP_BROKER=brokers) as worker:
        said = json.loads(line_with(worker.stdout, "services"))
    assert said["brokers"] == [absent[0], cluster.endpoint, absent[1]]


@pytest.fixture(scope="module")
def mute() -> Iterator[str]:
    """A broker that does not answer what it does not understand."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        yield f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


#: Half a second tells that somebody there does not answer; a call waits a second for a broker.
HURRY = ("--set", "heartbeat=0.5", "--set", "connect=1")


def test_a_broker_of_another_protocol_is_not_taken_for_none(mute: str, tmp_path: Path) -> None:
    with (
        start(tmp_path, "broker", "--bind", "tcp://127.0.0.1:*", "--protocol", "pigato") as broker,
        start(tmp_path, "call", "echo", "--connect", mute, *HURRY) as unanswered,
        start(HERE, "worker", "cli_handlers", "--connect", mute, *HURRY) as worker,
    ):
        endpoint = line_with(broker.stdout, "listening").split()[-1]
        refused = run(tmp_path, "call", "echo", "--connect", endpoint, *HURRY)
        assert unanswered.wait(LIMIT) == refused.returncode == 8
        for errors in (refused.stderr, unanswered.stderr.read()):
            assert b"name it with --protocol)" in errors
            assert b"Start one" not in errors
        line_with(worker.stderr, "connected, but not answered as by a broker that speaks zmdp/1")


def test_a_key_and_a_worker_can_be_named(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(WORDS)
    with start(tmp_path, "worker", "words:tally", "--connect", cluster.endpoint, "--name", "w") as worker:
        line_with(worker.stdout, "offering")
        assert ask(cluster, "call", "tally", "--worker", "w").stdout == b"1\n"
        assert [ask(cluster, "call", "tally", "--key", "k").stdout for _ in range(2)] == [b"2\n", b"2\n"]
        assert ask(cluster, "stream", "tally", "--key", "k").stderr == b"final reply: 2\n"
        assert ask(cluster, "call", "tally", "--worker", "v").returncode == 4


def test_what_is_lost_with_a_restarted_broker_is_not_for_want_of_one(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker, endpoint = stack.enter_context(start_broker(tmp_path))
        worker = stack.enter_context(start_worker(HERE, "cli_handlers:silent", endpoint))
        call = stack.enter_context(start(tmp_path, "call", "silent", '"x"', "--connect", endpoint))
        line_with(worker.stdout, "entered")
        for process in (broker, worker):
            process.kill()
            process.wait(LIMIT)
        again = stack.enter_context(start(tmp_path, "broker", "--bind", endpoint, "--set", "resume=0.2"))
        line_with(again.stdout, "listening")
        assert call.wait(LIMIT) == 8
        errors = call.stderr.read()
        assert b"the broker was restarted, and no worker has come back with it" in errors
        assert b"--retry 1" in errors
        assert b"zmdp broker" not in errors


def test_a_bound_endpoint_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    done = run(tmp_path, "broker", "--bind", cluster.endpoint)
    assert done.returncode == 2
    assert b"in use" in done.stderr.lower()


def test_worker_takes_what_a_function_returns(cluster: Cluster, tmp_path: Path) -> None:
    arguments = ("worker", "cli_handlers:chosen", "--connect", cluster.endpoint, "--json")
    with start(tmp_path, *arguments) as worker:
        assert json.loads(line_with(worker.stdout, "services"))["services"] == ["echo", "count"]


SIGNALS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)


@SIGNALS
@pytest.mark.parametrize(("command", "service"), [("stream", "endless"), ("call", "silent")])
def test_a_signal_cancels_the_handler(
    cluster: Cluster, number: signal.Signals, status: int, command: str, service: str
) -> None:
    name = f"{command}-{status}"
    with start(cluster.folder, command, service, json.dumps(name), "--connect", cluster.endpoint) as process:
        line_with(process.stdout if command == "stream" else cluster.worker.stdout, name)
        process.send_signal(number)
        line_with(cluster.worker.stdout, f"left {name}")
        assert (process.wait(LIMIT), process.stderr.read()) == (status, b"")


@pytest.mark.parametrize("service", ["endless", "once"])
def test_a_closed_pipe_cancels_the_handler(cluster: Cluster, service: str) -> None:
    name = f"pipe-{service}"
    with start(cluster.folder, "stream", service, json.dumps(name), "--connect", cluster.endpoint) as process:
        line_with(process.stdout, name)
        process.stdout.close()
        line_with(cluster.worker.stdout, f"left {name}")
        assert (process.wait(LIMIT), process.stderr.read()) == (0, b"")


def test_a_signal_ends_a_stream_whose_reader_is_stuck(cluster: Cluster) -> None:
    arguments = ("stream", "flood", '"stuck"', "--connect", cluster.endpoint)
    with start(cluster.folder, *arguments) as process:
        line_with(cluster.worker.stdout, "waits for credit")
        process.send_signal(signal.SIGINT)
        line_with(cluster.worker.stdout, "left stuck")
        assert process.wait(LIMIT) == 130


@SIGNALS
def test_worker_and_broker_drain_at_the_first_signal(number: signal.Signals, status: int, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with start_broker(tmp_path) as (broker, endpoint):
        with start_worker(HERE, "cli_handlers:patient", endpoint) as worker:
            with start(tmp_path, "call", "patient", json.dumps(str(go)), "--connect", endpoint) as call:
                line_with(worker.stdout, "entered")
                worker.send_signal(number)
                assert "finishing 1 request; a second signal" in line_with(worker.stderr, "finishing")
                go.touch()
                line_with(call.stdout, "done")
            assert worker.wait(LIMIT) == 0
        broker.send_signal(number)
        line_with(broker.stderr, "leaving")
        assert broker.wait(LIMIT) == 0


def test_a_broker_that_drains_runs_what_it_has_and_refuses_what_is_new(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with start_broker(tmp_path) as (broker, endpoint), start_worker(HERE, "cli_handlers", endpoint) as worker:
        with start(tmp_path, "call", "patient", json.dumps(str(go)), "--connect", endpoint) as call:
            line_with(worker.stdout, "entered")
            broker.send_signal(signal.SIGTERM)
            line_with(broker.stderr, "finishing 1 request")
            late = run(tmp_path, "call", "echo", "--connect", endpoint)
            assert (late.returncode, late.stdout) == (8, b"")
            assert b"the broker is draining" in late.stderr
            go.touch()
            line_with(call.stdout, "done")
            assert call.wait(LIMIT) == 0
        assert broker.wait(LIMIT) == 0
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(LIMIT) == 0


@SIGNALS
@pytest.mark.parametrize("role", ["worker", "broker"])
def test_the_second_signal_ends_it_now(role: str, number: signal.Signals, status: int, tmp_path: Path) -> None:
    with start_broker(tmp_path) as (broker, endpoint), start_worker(HERE, "cli_handlers", endpoint) as worker:
        with start(tmp_path, "call", "silent", '"x"', "--connect", endpoint) as call:
            line_with(worker.stdout, "entered")
            process = {"broker": broker, "worker": worker}[role]
            process.send_signal(number)
            line_with(process.stderr, "finishing 1 request")
            process.send_signal(number)
            assert process.wait(LIMIT) == status
            if process is worker:
                line_with(worker.stdout, "left")
                assert call.wait(LIMIT) == 8


@SIGNALS
@pytest.mark.parametrize("pause", [0, 0.01, 0.05, 0.15])
def test_a_second_signal_changes_nothing_when_nothing_is_unfinished(
    number: signal.Signals, status: int, pause: float, tmp_path: Path
) -> None:
    with start_broker(tmp_path) as (broker, endpoint), start_worker(HERE, "cli_handlers", endpoint) as worker:
        for process in (worker, broker):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            process.send_signal(number)
            assert process.wait(LIMIT) == 0
            assert b"Traceback" not in process.stderr.read()


@SIGNALS
@pytest.mark.parametrize("pause", [0, 0.02, 0.1])
def test_two_signals_end_a_call(
    cluster: Cluster, number: signal.Signals, status: int, pause: float, tmp_path: Path
) -> None:
    with start(tmp_path, "call", "silent", '"twice"', "--connect", cluster.endpoint) as call:
        line_with(cluster.worker.stdout, "entered twice")
        call.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            call.wait(pause)
        call.send_signal(number)
        assert (call.wait(LIMIT), call.stderr.read()) == (status, b"")
        line_with(cluster.worker.stdout, "left twice")


def test_a_hang_up_that_is_ignored_stays_so(tmp_path: Path) -> None:
    arguments = ["zmdp", "broker", "--bind", "tcp://127.0.0.1:*", "--json"]
    code = (
        "import signal, sys; from zmdp_trio.cli import main;"
        f"signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.argv = {arguments}; main()"
    )
    with fork(snippet(tmp_path, code), LIMIT) as broker:
        endpoint = json.loads(line_with(broker.stdout, "endpoints"))["endpoints"][0]
        broker.send_signal(signal.SIGHUP)
        with start_worker(HERE, "cli_handlers", endpoint):
            assert run(tmp_path, "call", "echo", "1", "--connect", endpoint).stdout == b"1\n"
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("worker", "cancelling 1 request"),
        ("broker", "leaving 1 request unfinished: what runs goes on with a broker that is started in this one's place"),
    ],
)
def test_the_end_of_the_grace_time_ends_what_still_runs(role: str, words: str, tmp_path: Path) -> None:
    grace = {"worker": "30", "broker": "30"} | {role: "0.2"}
    bind = ("broker", "--bind", "tcp://127.0.0.1:*", "--json", "--grace", grace["broker"])
    with start(tmp_path, *bind) as broker:
        endpoint = json.loads(line_with(broker.stdout, "endpoints"))["endpoints"][0]
        with start(HERE, "worker", "cli_handlers", "--connect", endpoint, "--grace", grace["worker"]) as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "silent", '"x"', "--connect", endpoint) as call:
                line_with(worker.stdout, "entered")
                process = {"broker": broker, "worker": worker}[role]
                process.send_signal(signal.SIGTERM)
                line_with(process.stderr, f"the grace time is over; {words}")
                assert process.wait(LIMIT) == 143
                if process is worker:
                    line_with(worker.stdout, "left")
                    assert call.wait(LIMIT) == 8


def test_a_worker_whose_broker_is_gone_finishes_what_it_runs_and_leaves(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ExitStack() as stack:
        broker, endpoint = stack.enter_context(start_broker(tmp_path))
        arguments = ("worker", "cli_handlers", "--connect", endpoint, "--set", "resume=0.3")
        worker = stack.enter_context(start(HERE, *arguments))
        line_with(worker.stdout, "offering")
        with start(tmp_path, "call", "patient", json.dumps(str(go)), "--connect", endpoint):
            line_with(worker.stdout, "entered")
            broker.kill()
            line_with(worker.stderr, "connection lost")
            worker.send_signal(signal.SIGTERM)
            line_with(worker.stderr, "finishing 1 request")
            go.touch()
            assert worker.wait(LIMIT) == 0


def test_a_worker_whose_broker_does_not_answer_leaves_when_the_grace_time_is_over(tmp_path: Path) -> None:
    with start_broker(tmp_path) as (broker, endpoint):
        with start(HERE, "worker", "cli_handlers", "--connect", endpoint, "--grace", "0.2") as worker:
            line_with(worker.stdout, "offering")
            broker.send_signal(signal.SIGSTOP)
            worker.send_signal(signal.SIGTERM)
            line_with(worker.stderr, "the grace time is over; somebody at the other end did not answer")
            assert worker.wait(LIMIT) == 143


def test_a_third_signal_ends_a_worker_whose_thread_goes_on(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(WORDS)
    with start_broker(tmp_path) as (_, endpoint), start_worker(tmp_path, "words:nap", endpoint) as worker:
        with start(tmp_path, "call", "nap", "--connect", endpoint) as call:
            line_with(worker.stdout, "asleep")
            worker.send_signal(signal.SIGTERM)
            line_with(worker.stderr, "finishing")
            worker.send_signal(signal.SIGTERM)
            line_with(worker.stderr, "a handler's thread is still at work; another signal ends the process")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(LIMIT) == 143
            assert call.wait(LIMIT) == 8


def test_a_signal_after_the_grace_time_ends_a_worker_whose_thread_goes_on(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(WORDS)
    with start_broker(tmp_path) as (_, endpoint):
        with start(tmp_path, "worker", "words:nap", "--connect", endpoint, "--grace", "0.1") as worker:
            line_with(worker.stdout, "offering")
            with start(tmp_path, "call", "nap", "--connect", endpoint) as call:
                line_with(worker.stdout, "asleep")
                worker.send_signal(signal.SIGTERM)
                line_with(worker.stderr, "the grace time is over; cancelling 1 request")
                line_with(worker.stderr, "a handler's thread is still at work; another signal ends the process")
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(LIMIT) == 143
                assert call.wait(LIMIT) == 8


def test_signals_end_a_process_that_a_thread_of_the_users_keeps(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "lingering.py").write_text(LINGERING)
    with start_worker(tmp_path, "lingering", cluster.endpoint) as worker:
        while worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                worker.wait(0.2)
        assert worker.returncode == 143


@pytest.mark.parametrize("grace", ["0", "inf"])
def test_broker_takes_any_time_to_drain(tmp_path: Path, grace: str) -> None:
    with start(tmp_path, "broker", "--bind", "tcp://127.0.0.1:*", "--grace", grace) as broker:
        line_with(broker.stdout, "listening")
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(LIMIT) == 0


def test_worker_waiting_for_a_broker_ends_at_a_signal(cluster: Cluster) -> None:
    with start(HERE, "worker", "cli_handlers", "--connect", "tcp://127.0.0.1:9") as worker:
        line_with(worker.stderr, "waiting for a broker")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(LIMIT) == 0


def test_bench_gives_its_figures_to_programs(cluster: Cluster) -> None:
    arguments = ["--payload", "3", "--in-flight", "2,5", "--seconds", "0.2", "--warm-up", "0.1", "--json"]
    done = ask(cluster, "bench", "echo", "count", "--stream", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    figures = json.loads(done.stdout)
    assert (figures["payload_bytes"], figures["interrupted"]) == (1, False)
    assert [run["in_flight"] for run in figures["runs"]] == [2, 5]
    for run in figures["runs"]:
        assert run["seconds"] >= 0.2
        echo, count = run["services"]["echo"], run["services"]["count"]
        assert (echo["chunks"], count["chunks"]) == (0, 3 * count["replies"])
        assert 0 < count["first_chunk_ms"]["p50"] <= count["latency_ms"]["p50"] <= count["latency_ms"]["max"]
        assert run["total"]["replies"] == echo["replies"] + count["replies"]
        assert (run["total"]["errors"], run["total"]["unfinished"]) == ({}, 0)


def test_bench_brings_a_worker_of_its_own_and_takes_it_along(cluster: Cluster) -> None:
    done = ask(cluster, "bench", "--own-worker", "--rate", "100", "--seconds", "0.2", "--warm-up", "0")
    assert (done.returncode, done.stderr) == (0, b"")
    heading, service, replies, *_ = done.stdout.decode().splitlines()
    assert (heading, replies[-9:]) == ("100 requests/s, 16 bytes each, 0.2 s", "20 in all")
    assert service not in json.loads(ask(cluster, "call", "mmi.services").stdout)


def test_ctrl_c_ends_a_bench_with_the_figures_so_far(cluster: Cluster, tmp_path: Path) -> None:
    payload = json.dumps(str(tmp_path))
    arguments = ["--payload", payload, "--rate", "20", "--seconds", "inf", "--warm-up", "0", "--json"]
    with start(cluster.folder, "bench", "patient", *arguments, "--connect", cluster.endpoint) as process:
        for _ in range(4):
            line_with(cluster.worker.stdout, f"entered {tmp_path}")
        process.send_signal(signal.SIGINT)
        assert (process.wait(LIMIT), process.stderr.read()) == (130, b"")
        figures = json.loads(process.stdout.read())
    assert figures["interrupted"]
    assert figures["runs"][0]["total"]["requests"] >= 3


def test_bench_without_a_broker(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--own-worker", "--connect", "tcp://127.0.0.1:9", "--set", "connect=0.2")
    assert (done.returncode, done.stdout) == (8, b"")
    assert b"Start one with: zmdp broker --bind tcp://127.0.0.1:9" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory figures from /proc")
def test_a_large_file_streams_in_flat_memory(cluster: Cluster, tmp_path: Path) -> None:
    size = 15 * 10**7  # the benchmark takes more
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    with start_anew(tmp_path, "broker", "--bind", "tcp://127.0.0.1:*", "--json") as broker, ExitStack() as stack:
        endpoint = json.loads(broker.stdout.readline())["endpoints"][0]
        offer = ("worker", "examples.files", "--connect", endpoint)
        worker = stack.enter_context(start_anew(ROOT, *offer, ZMDP_FILES_ROOT=str(tmp_path)))
        line_with(worker.stdout, "offering")
        before = [_peak_memory(process) for process in (broker, worker)]
        with start(tmp_path, "stream", "files.read", '{"path": "large"}', "--connect", endpoint) as stream:
            received, zeros = 0, bytes(2**20)
            while data := stream.stdout.read(len(zeros)):
                assert data == zeros[: len(data)]
                received += len(data)
        assert received == size
        growth = [_peak_memory(process) - old for process, old in zip((broker, worker), before, strict=True)]
        assert max(growth) < 20 * 2**20


def _peak_memory(process: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

"""Peers that nobody here wrote, each in a process: started, told what to do, and listened to."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
import zmq

HERE = Path(__file__).parent
NODE = HERE / "node"
PYTHON = HERE / "python"

#: Seconds that a peer may take for anything, on a machine that has much else to do.
PATIENCE = 30

Command = list[str]
P = TypeVar("P", bound="Peer")


@attrs.frozen
class Role:
    """A program, and the options that make it this role."""

    program: Path
    options: dict[str, Any] = attrs.field(factory=dict)

    def command(self, endpoint: str, options: dict[str, Any]) -> Command:
        # PIGATO makes its buffers with what Node calls deprecated.
        interpreter = ["node", "--no-deprecation"] if self.program.suffix == ".js" else [sys.executable]
        return [*interpreter, str(self.program), endpoint, json.dumps(self.options | options)]

    @property
    def missing(self) -> str | None:
        """What is not installed here and ought to be."""
        if self.program.suffix == ".js":
            if shutil.which("node") is None:
                return "Node"
            return None if (NODE / "node_modules" / "pigato").is_dir() else "PIGATO"
        if "majortomo" in self.program.name and importlib.util.find_spec("majortomo") is None:
            return "majortomo"
        return None


CLIENTS = {
    "MDP 0.1": Role(PYTHON / "mdp_client.py", {"version": "0.1"}),
    "MDP 0.2": Role(PYTHON / "mdp_client.py", {"version": "0.2"}),
    "majortomo": Role(PYTHON / "majortomo_client.py"),
    "OMDP": Role(NODE / "omdp-client.js"),
    "PIGATO": Role(NODE / "pigato-client.js"),
}

WORKERS = {
    "MDP 0.1": Role(PYTHON / "mdp_worker.py", {"version": "0.1"}),
    "MDP 0.2": Role(PYTHON / "mdp_worker.py", {"version": "0.2"}),
    "majortomo": Role(PYTHON / "majortomo_worker.py"),
    "OMDP": Role(NODE / "omdp-worker.js"),
    "PIGATO": Role(NODE / "pigato-worker.js"),
}

BROKERS = {
    "majortomo": Role(PYTHON / "majortomo_broker.py"),
    "PIGATO": Role(NODE / "pigato-broker.js"),
}

REQ_CLIENT = Role(NODE / "req-client.js")


def programs() -> dict[str, dict[str, Path]]:
    """Return who plays each role, by dialect."""
    roles = {"client": {**CLIENTS, "REQ": REQ_CLIENT}, "worker": WORKERS, "broker": BROKERS}
    return {name: {dialect: role.program for dialect, role in each.items()} for name, each in roles.items()}


def versions() -> dict[str, str]:
    """Return the versions of what is installed here, by name."""
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    packages = [
        json.loads((NODE / "node_modules" / name / "package.json").read_text()) for name in ("pigato", "zeromq")
    ]
    return {
        "PIGATO": packages[0]["version"],
        "zeromq": packages[1]["version"],
        "Node": node.removeprefix("v"),
        "majortomo": importlib.metadata.version("majortomo"),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
    }


@attrs.define
class Outcome:
    """What came of a request."""

    partials: list[Any] = attrs.field(factory=list)
    final: Any = None
    error: Any = None


class Inbox:
    """Lines that one listener waits for; the end of the process is the end of them."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[dict[str, Any]](math.inf)

    def put(self, line: dict[str, Any]) -> None:
        self._send.send_nowait(line)

    async def get(self) -> dict[str, Any]:
        return await self._receive.receive()

    def close(self) -> None:
        self._send.close()

    def get_nowait(self) -> dict[str, Any] | None:
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None


class Peer:
    """A running process that says in lines of JSON what happens to it.

    Lines with an `id` belong to the request of that number; `news` has the others.
    """

    def __init__(self, command: Command, process: trio.Process) -> None:
        self.command = command
        self.pid = process.pid
        self.errors = b""
        self._process = process
        self._next_id = 0
        self._orders = trio.Lock()
        self._news = Inbox()
        self._requests: defaultdict[int, Inbox] = defaultdict(Inbox)
        self._over = False
        self._killed = False

    async def run(self) -> None:
        """Take what the process says, until it ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_errors)
            await self._read_lines()
        await self._process.wait()
        self._over = True
        for inbox in (self._news, *self._requests.values()):
            inbox.close()

    async def _read_lines(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for text in lines:
                line = json.loads(text)
                inbox = self._requests[line.pop("id")] if "id" in line else self._news
                inbox.put(line)

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            self.errors += data

    async def order(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        async with self._orders:
            await self._process.stdin.send_all(json.dumps({"do": do} | arguments).encode() + b"\n")

    async def news(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for the next such event; those before it are passed over."""
        while True:
            line = await self._get(self._news, f"{event} {fields or ''}")
            if line["event"] == event and fields.items() <= line.items():
                return line

    async def greeted(self, services: Iterable[str]) -> None:
        """Wait until a broker has greeted each of these services' workers, in whichever order."""
        missing = set(services)
        while missing:
            missing.discard((await self.news("connect"))["service"])

    def news_so_far(self, event: str) -> list[dict[str, Any]]:
        """Take all events that have come, and return those of this name."""
        lines = []
        while (line := self._news.get_nowait()) is not None:
            if line["event"] == event:
                lines.append(line)
        return lines

    async def _get(self, inbox: Inbox, what: str, limit: float = PATIENCE) -> dict[str, Any]:
        if self._over:
            inbox.close()
        try:
            with trio.fail_after(limit):
                return await inbox.get()
        except trio.EndOfChannel:
            raise AssertionError(f"it has ended, {what} or not: {self}") from None
        except trio.TooSlowError:
            raise AssertionError(f"waited {limit} s for {what}: {self}") from None

    def vanish(self, number: signal.Signals) -> None:
        """Kill it, or stop it: from now on it need not be well."""
        self._killed = True
        self._process.send_signal(number)

    def kill(self) -> None:
        self.vanish(signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for its end, which is what the test wants; return the status."""
        with trio.fail_after(PATIENCE):
            status = await self._process.wait()
        self._killed = True
        return status

    def check(self) -> None:
        """Nobody but the test has ended it, and it had nothing to complain about."""
        died = self._process.poll() is not None and not self._killed
        if died or (self.errors and not self._killed):
            raise AssertionError(f"it {'died' if died else 'complains'}: {self}")

    def __repr__(self) -> str:
        status = self._process.poll()
        name = Path(self.command[-3]).name
        return f"<{name}: {'runs' if status is None else f'status {status}'}\n{self.errors.decode()}>"


class Caller(Peer):
    """A client of any dialect."""

    async def ask(self, service: str, *payload: Any, limit: float = PATIENCE, **more: Any) -> Outcome:
        """Make one request, with a payload or without, and read its replies."""
        pending = await self.begin(service, *payload, **more)
        outcome = Outcome()
        while (reply := await pending.reply(limit))["event"] != "final":
            outcome.partials.append(reply["data"])
        outcome.final, outcome.error = reply["data"], reply["error"]
        return outcome

    async def begin(self, service: str, *payload: Any, do: str = "request", **more: Any) -> Pending:
        self._next_id += 1
        pending = Pending(self, service, self._requests[self._next_id])
        if payload:
            (more["payload"],) = payload
        await self.order(do, id=self._next_id, service=service, **more)
        return pending


@attrs.frozen
class Pending:
    """A request that is under way."""

    caller: Caller
    service: str
    inbox: Inbox

    async def reply(self, limit: float = PATIENCE) -> dict[str, Any]:
        """Wait for its next event: `event`, `data`, and `error`, which is None if there is none."""
        line = await self.caller._get(self.inbox, f"a reply of {self.service}", limit)
        data = value_of(line["frames"]) if "frames" in line else line.get("data")
        return {"event": line["event"], "data": data, "error": line.get("error") or None}

    def replies_so_far(self) -> int:
        """Drop the replies that have come, and return how many they were."""
        count = 0
        while self.inbox.get_nowait() is not None:
            count += 1
        return count


def value_of(frames: list[str]) -> Any:
    """The value in the body of an MDP message: one frame of JSON, or else the frames."""
    try:
        (frame,) = frames
        return json.loads(frame)
    except ValueError:
        return frames


class Stage:
    """Starts peers, and ends them with the test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._peers: list[Peer] = []

    async def client(self, dialect: str, endpoint: str, **options: Any) -> Caller:
        return await self._start(CLIENTS[dialect], Caller, endpoint, options)

    async def worker(self, dialect: str, endpoint: str, services: dict[str, str], **options: Any) -> Peer:
        """Start a worker for each service: its name, and the kind of work that it does."""
        return await self._start(WORKERS[dialect], Peer, endpoint, options | {"services": services})

    async def broker(self, dialect: str, **options: Any) -> tuple[Peer, str]:
        """Start somebody else's broker; return it, and where it listens."""
        broker = await self._start(BROKERS[dialect], Peer, "tcp://127.0.0.1:*", options)
        return broker, (await broker.news("start"))["endpoint"]

    async def req_client(self, endpoint: str, **options: Any) -> Peer:
        return await self._start(REQ_CLIENT, Peer, endpoint, options)

    async def _start(
        self, role: Role, kind: Callable[[Command, trio.Process], P], endpoint: str, options: dict[str, Any]
    ) -> P:
        need(role)
        command = role.command(endpoint, options)
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        peer = kind(command, process)
        self._peers.append(peer)
        self._nursery.start_soon(peer.run)
        return peer

    def check(self) -> None:
        for peer in self._peers:
            peer.check()

    def kill(self) -> None:
        for peer in self._peers:
            peer.kill()


def need(role: Role) -> None:
    """Skip the test where a peer is not installed; where it should be, fail."""
    if role.missing is None:
        return
    reason = f"{role.missing} is not installed: `make peers`"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)

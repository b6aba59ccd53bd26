"""Whom we are measured beside: the table of peers, how each is run, what it needs, and how it is started.

A peer's ends are one program in ends/, which plays one role in each process: see ends/end.py.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import programs
from programs import Program

HERE: Final = Path(__file__).parent
ENDS: Final = HERE / "ends"
BUILD: Final = HERE.parent / "build" / "bench"
NODE_MODULES: Final = HERE.parent / "tests" / "peers" / "node" / "node_modules"

#: Seconds that a program may take to be ready, and to answer beyond the time that a load lasts.
PATIENCE: Final = 20.0

#: Node looks for packages there, which the tests' peers share.
ENVIRONMENT: Final = {"NODE_PATH": str(NODE_MODULES)}

#: Where Debian has servers, which users' paths leave out.
SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"


MIB: Final = 2**20

#: What there may be a process for.
ROLES: Final = ("broker", "worker", "client")


# ---- what peers need


@attrs.frozen
class Need:
    """Something that must be installed."""

    what: str
    #: The command that brings it.
    brought_by: str
    here: Callable[[], bool]
    version: Callable[[], str]


def first_missing(needs: Iterable[Need]) -> str | None:
    """Tell what is not installed and what brings it."""
    absent = (f"{need.what} is missing: {need.brought_by}" for need in needs if not need.here())
    return next(absent, None)


def package(name: str, module: str) -> Need:
    """A package of Python's."""
    return Need(
        name,
        "make .venv/bench",
        lambda: importlib.util.find_spec(module) is not None,
        lambda: importlib.metadata.version(name),
    )


def found(command: str) -> str | None:
    """Return where a command is."""
    return shutil.which(command) or shutil.which(command, path=SBIN)


def says(*command: str) -> str:
    """Return the version that a program tells."""
    text = subprocess.run([found(command[0]) or "", *command[1:]], check=True, capture_output=True, text=True).stdout
    return text.split()[-1].removeprefix("v")


def node_version(name: str) -> str:
    version: str = json.loads((NODE_MODULES / name / "package.json").read_text())["version"]
    return version


@functools.cache
def build(name: str) -> bool:
    """Compile a program of ends/, if that can be done."""
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-o", str(BUILD / name), str(ENDS / f"{name}.c"), "-lzmq", "-lpthread"]
    return subprocess.run(command, capture_output=True).returncode == 0


def compiled(name: str) -> Need:
    """A program in C."""
    return Need(
        "cc with libzmq's headers",
        "apt-get install gcc libzmq3-dev",
        lambda: build(name),
        lambda: says("cc", "-dumpversion"),
    )


PYZMQ = Need("pyzmq", "make .venv/ready", lambda: True, lambda: importlib.metadata.version("pyzmq"))
TRIO = Need("trio", "make .venv/ready", lambda: True, lambda: importlib.metadata.version("trio"))
NATS_SERVER = Need(
    "nats-server",
    "apt-get install nats-server",
    lambda: found("nats-server") is not None,
    lambda: says("nats-server", "--version"),
)
NODE = Need("Node", "apt-get install nodejs npm", lambda: found("node") is not None, lambda: says("node", "--version"))
PIGATO = Need("PIGATO", "make peers", (NODE_MODULES / "pigato").is_dir, lambda: node_version("pigato"))
ZEROMQ_JS = Need("zeromq.js", "make peers", (NODE_MODULES / "zeromq").is_dir, lambda: node_version("zeromq"))


# ---- the peers


@attrs.frozen(kw_only=True)
class Peer:
    """Somebody who carries requests from a client to a worker."""

    name: str
    #: How it was run, for the reader who wants to know whether that was fair.
    how: str
    #: The program in ends/ for each role, in the order in which they start; the client comes last.
    roles: Mapping[str, str]
    needs: tuple[Need, ...]
    options: Mapping[str, Any] = {}
    #: How many workers it has unless a case says otherwise.
    workers: int = 1

    def missing(self) -> str | None:
        """Tell what is not installed and what brings it."""
        return first_missing(self.needs)

    def command(self, role: str, options: dict[str, Any]) -> list[str]:
        """Return the command line of one role."""
        program = ENDS / self.roles[role]
        start = {
            ".py": [sys.executable, str(program)],
            ".js": ["node", "--no-deprecation", str(program)],
            ".c": [str(BUILD / program.stem)],
        }[program.suffix]
        return [*start, role, json.dumps(options)]


def played_by(program: str, *roles: str) -> dict[str, str]:
    """One program in several roles."""
    return dict.fromkeys(roles, program)


ZMDP: Final = played_by("zmdp_ends.py", *ROLES)
ON_TRIO: Final = (TRIO, PYZMQ)
NATS: Final = played_by("nats_ends.py", *ROLES)
ON_ASYNCIO: Final = (NATS_SERVER, package("nats-py", "nats"), package("uvloop", "uvloop"))

OURS: Final = "zmdp-trio"

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(
            name=OURS,
            how="client, broker, and worker on Trio, over tcp; all settings as they are",
            roles=ZMDP,
            needs=ON_TRIO,
        ),
        Peer(
            name="zmdp-trio, ipc",
            how="the same over a Unix domain socket",
            options={"bind": "ipc://*"},
            roles=ZMDP,
            needs=ON_TRIO,
        ),
        Peer(
            name="zmdp-trio, inproc",
            how="client, broker, and worker in one process and one event loop",
            roles={"all": "zmdp_ends.py"},
            needs=ON_TRIO,
        ),
        Peer(
            name="nats-py",
            how="nats-server without configuration; `request`, and `respond` in the callback of a queue group; asyncio",
            roles=NATS,
            needs=ON_ASYNCIO,
        ),
        Peer(
            name="nats-py, uvloop",
            how="the same on uvloop",
            options={"uvloop": True},
            roles=NATS,
            needs=ON_ASYNCIO,
        ),
        Peer(
            name="grpc.aio",
            how="grpcio's aio server and client, without a broker; bytes as they are, without protobuf",
            roles=played_by("grpc_ends.py", "worker", "client"),
            needs=(package("grpcio", "grpc"),),
        ),
        Peer(
            name="zerorpc",
            how="server and client on gevent, a greenlet for each request in flight; without a broker",
            roles=played_by("zerorpc_ends.py", "worker", "client"),
            needs=(package("zerorpc", "zerorpc"), package("gevent", "gevent")),
        ),
        Peer(
            name="PIGATO",
            how="its broker, worker, and client on Node, all settings as they are; zeromq.js 6 under the old interface",
            roles=played_by("pigato_ends.js", *ROLES),
            needs=(NODE, PIGATO, ZEROMQ_JS),
        ),
        Peer(
            name="majortomo",
            how="its broker, workers, and clients: both can do one request at a time, so there are 10 workers, and as "
            "many clients as requests in flight, each in a thread",
            roles=played_by("majortomo_ends.py", *ROLES),
            needs=(package("majortomo", "majortomo"), package("six", "six")),
            workers=10,
        ),
        Peer(
            name="zmq_proxy",
            how="a limit: zmq_proxy between a client and a worker in C; it routes, queues, and checks nothing",
            roles=played_by("pyzmq_ends.py", "broker") | played_by("c_ends.c", "worker", "client"),
            needs=(compiled("c_ends"), PYZMQ),
        ),
        Peer(
            name="zmq_proxy, pyzmq",
            how="a limit: zmq_proxy between a client and a worker that are loops on bare, blocking pyzmq sockets",
            roles=played_by("pyzmq_ends.py", *ROLES),
            needs=(PYZMQ,),
        ),
        Peer(
            name="bare echo",
            how="a limit: a DEALER that asks a ROUTER, both bare, blocking pyzmq sockets; nothing between",
            roles=played_by("pyzmq_ends.py", "worker", "client"),
            needs=(PYZMQ,),
        ),
        Peer(
            name="bare relay",
            how="a limit: a ROUTER that forwards a stream of frames from one DEALER to another; blocking pyzmq sockets",
            roles=played_by("relay_ends.py", *ROLES),
            needs=(PYZMQ,),
        ),
    )
}


# ---- systems


@attrs.frozen
class System:
    """A peer's processes, which run."""

    peer: Peer
    programs: Mapping[str, Program]

    async def load(self, do: str, *, seconds: float, warm_up: float | None = None, **order: Any) -> dict[str, float]:
        """Put a load on it, and return the figures.

        Args:
            do: `requests` or `streams`.
            seconds: how long.
            warm_up: how long the same goes on before, unmeasured; half as long, unless told.
            order: the load's own arguments.

        Returns:
            `count` and `per_second` of requests or chunks, `mib_per_second` of chunks, `p50_us` and `p99_us` of
            requests, and the CPU in microseconds for each, in all processes, `cpu_us`, and by role: `client_us`,
            `broker_us`, `worker_us`.
        """
        streams = do == "streams"
        before_it, it = ({"go_on": True}, {"go_on": False}) if streams else ({}, {})
        await self._ask(do, seconds=seconds / 2 if warm_up is None else warm_up, **order, **before_it)
        before = self._cpu()
        figures = await self._ask(do, seconds=seconds, **order, **it)
        spent = {role: 1e6 * (cpu - before[role]) / figures["count"] for role, cpu in self._cpu().items()}
        if streams:
            figures["mib_per_second"] = figures["per_second"] * order["size"] / MIB
        if spent:
            figures["cpu_us"] = sum(spent.values())
        return figures | {f"{role}_us": cpu for role, cpu in spent.items() if role in ROLES}

    async def _ask(self, do: str, *, seconds: float, **order: Any) -> dict[str, float]:
        *_, client = self.programs.values()
        return await client.ask(PATIENCE + 10 * seconds, do=do, seconds=seconds, **order)

    def _cpu(self) -> dict[str, float]:
        spent = {role: program.cpu_seconds() for role, program in self.programs.items()}
        return {role: cpu for role, cpu in spent.items() if cpu is not None}


@asynccontextmanager
async def open_system(
    peer: Peer, *, clients: int = 1, workers: int | None = None, **more: Any
) -> AsyncIterator[System]:
    """Start a peer's processes, with so many clients and workers, and more options; they end with the block."""
    options: dict[str, Any] = {"clients": clients, "workers": workers or peer.workers, **peer.options, **more}
    running: dict[str, Program] = {}
    async with AsyncExitStack() as stack:
        for role in peer.roles:
            command = peer.command(role, options)
            name = f"{peer.name}'s {role}"
            running[role] = program = await stack.enter_async_context(programs.start(name, command, ENVIRONMENT))
            options |= await program.hear(PATIENCE)
            program.pid = options.pop("pid", program.pid)
        yield System(peer, running)


class Stage:
    """Keeps systems running from one case to the next, so that their turns follow one another closely."""

    def __init__(self) -> None:
        self._systems: dict[str, System] = {}
        self._stack = AsyncExitStack()

    async def system(self, name: str) -> System:
        """Return a peer's system, which is started if it does not run yet."""
        if name not in self._systems:
            self._systems[name] = await self._stack.enter_async_context(open_system(PEERS[name]))
        return self._systems[name]

    async def clear(self) -> None:
        """End all systems."""
        self._systems.clear()
        await self._stack.aclose()

"""nats-py with Debian's nats-server, as its README shows it: `request`, and `respond` in a queue group's callback."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import nats
import uvloop
from asyncio_end import stay, take_orders
from end import Role, run, say, wait_for_end
from nats.aio.msg import Msg

#: Seconds that the server may take to tell its port, and a request to be answered.
PATIENCE = 20


def be_broker(options: dict[str, Any]) -> None:
    """Run nats-server with no configuration, on a port of its choice."""
    program = shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", folder]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            say(address=find_port(Path(folder)), pid=server.pid)
            wait_for_end()
            server.terminate()


def find_port(folder: Path) -> str:
    """Return where the server listens, which it writes into a file there."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for file in folder.glob("*.ports"):
            if text := file.read_text():
                address: str = json.loads(text)["nats"][0]
                return address
        time.sleep(0.01)
    raise TimeoutError("nats-server does not tell its port")


async def respond(message: Msg) -> None:
    await message.respond(message.data)


async def be_worker(options: dict[str, Any]) -> None:
    """Subscribe, as many workers."""
    for _ in range(options["workers"]):
        worker = await nats.connect(options["address"])
        await worker.subscribe("echo", queue="workers", cb=respond)
        await worker.flush()
    say(address=options["address"])
    await stay()


async def be_client(options: dict[str, Any]) -> None:
    """Make requests, as many clients."""
    clients = [await nats.connect(options["address"]) for _ in range(options["clients"])]
    for client in clients:
        assert (await client.request("echo", b"hello", timeout=5)).data == b"hello"
    say()
    await take_orders([partial(client.request, "echo", timeout=PATIENCE) for client in clients])


def start(role: Role, options: dict[str, Any]) -> None:
    """Run on asyncio's own loop, or on uvloop."""
    if role is be_broker:
        be_broker(options)
    else:
        (uvloop.run if options.get("uvloop") else asyncio.run)(role(options))


run({"broker": be_broker, "worker": be_worker, "client": be_client}, start)

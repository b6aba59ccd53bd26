"""What the tests over real sockets share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

PEERS = Path(__file__).with_name("test_sockets_processes.py")


class Peer:
    """A process that plays one role of a file of tests, and says line by line how far it is."""

    def __init__(self, *arguments: str, program: Path = PEERS) -> None:
        self.process = subprocess.Popen([sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self) -> str:
        """Wait for the next line."""
        assert self.process.stdout is not None
        with trio.fail_after(20):
            line = await trio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True)
        assert line, "the process has ended"
        return line.strip()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def memory(self, field: str) -> int:
        """Bytes, from a field of /proc/PID/status such as VmRSS."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
        raise LookupError(field)

    def forget_peak(self) -> None:
        """Let VmHWM start anew from here."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Peer]]:
    """Starts peers; they are killed when the test ends."""
    peers: list[Peer] = []

    def spawn(*arguments: str, program: Path = PEERS) -> Peer:
        peers.append(Peer(*arguments, program=program))
        return peers[-1]

    yield spawn
    for peer in peers:
        if peer.process.poll() is None:
            os.kill(peer.pid, signal.SIGCONT)
        peer.close()

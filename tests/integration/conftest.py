"""What the tests over real sockets share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import pytest
import trio
from forked import Forked

PEERS = Path(__file__).with_name("test_sockets_processes.py")


class Peer:
    """A process that plays one role of a file of tests, and says line by line how far it is."""

    def __init__(self, *arguments: str, program: Path = PEERS) -> None:
        self.process = Forked(forked.program(program, *arguments))

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self) -> str:
        """Wait for the next line."""
        with trio.fail_after(20):
            line = await trio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True)
            if not line:
                errors = await trio.to_thread.run_sync(self.process.stderr.read, abandon_on_cancel=True)
                raise AssertionError(f"the process has ended: {errors.decode()}")
        return line.decode().strip()

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
        with self.process:
            self.process.kill()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Peer]]:
    """Starts peers; they are killed when the test ends."""
    peers: list[Peer] = []

    def spawn(*arguments: str, program: Path = PEERS) -> Peer:
        peers.append(Peer(*arguments, program=program))
        return peers[-1]

    yield spawn
    for peer in peers:
        peer.send_signal(signal.SIGCONT)
        peer.close()

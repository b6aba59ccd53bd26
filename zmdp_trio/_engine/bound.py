"""The engine of brokers and gateways: one bound port, and a log of who was dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from .._log import LimitedLog, plain
from .._transport import Lost, Port
from .._wire.frames import Frames
from .post import Post
from .pump import Engine, Machine, Outbox


class BoundMachine(Machine, Protocol):
    """What this engine asks of its machine, and tells it."""

    name: str

    def receive(self, peer: bytes, frames: Frames, *, now: float) -> None: ...
    def lost(self, peer: bytes, *, now: float) -> None: ...
    def unreachable(self, peer: bytes, *, now: float) -> None: ...
    def take_dropped(self) -> list[tuple[str, str]]: ...


class BoundEngine(Engine):
    """One bound port, many peers."""

    def __init__(self, machine: BoundMachine, port: Port, act: Callable[[], None], logger: logging.Logger) -> None:
        """Make an engine; `logger` gets a line for each peer that the machine drops, at a limited rate."""
        super().__init__(machine, act)
        self._bound = machine
        self._port = port
        self._log = LimitedLog(logger, logging.WARNING)

    def close(self) -> None:
        super().close()
        self._log.summarize()

    def _run_ports(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._serve, Post(self._port))
        nursery.start_soon(self._log.run)

    def _ports(self) -> list[Port]:
        return [self._port]

    def _receive(self, now: float) -> None:
        for peer, what in self._port.receive():
            if type(what) is list:
                self._bound.receive(peer, what, now=now)
            elif isinstance(what, Lost):
                self._bound.lost(peer, now=now)
        for who, why in self._bound.take_dropped():
            self._log.log(f"{self._bound.name} dropped {plain(who)}: {plain(why)}", now=now)

    def _settled(self) -> bool:
        return self._port.settled()

    def _send(self, link: Outbox, frames: Frames) -> bool:
        return self._port.send(link.peer, frames)

    def _gone(self, link: Outbox, now: float) -> None:
        self._bound.unreachable(link.peer, now=now)

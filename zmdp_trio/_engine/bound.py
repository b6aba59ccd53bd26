"""The broker's engine: one bound port, and a log of who was dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from .._core.broker import BrokerMachine
from .._core.link import Link
from .._log import LimitedLog, plain
from .._transport import Lost, Port
from .._wire.frames import Frames
from .pump import Engine

logger = logging.getLogger("zmdp_trio.broker")


class BrokerEngine(Engine):
    """One bound port, many peers."""

    def __init__(self, machine: BrokerMachine, port: Port, act: Callable[[], None]) -> None:
        super().__init__(machine, act)
        self._broker = machine
        self._port = port
        self._log = LimitedLog(logger, logging.WARNING)

    def close(self) -> None:
        super().close()
        self._log.summarize()

    def _run_ports(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._serve, self._port)
        nursery.start_soon(self._log.run)

    def _ports(self) -> list[Port]:
        return [self._port]

    def _receive(self, now: float) -> bool:
        received = self._port.receive()
        for peer, what in received:
            if type(what) is list:
                self._broker.receive(peer, what, now=now)
            elif isinstance(what, Lost):
                self._broker.lost(peer, now=now)
        for who, why in self._broker.take_dropped():
            self._log.log(f"{self._broker.name} dropped {plain(who)}: {plain(why)}", now=now)
        return bool(received)

    def _send(self, link: Link, frames: Frames) -> bool:
        return self._port.send(link.peer, frames)

    def _gone(self, link: Link, now: float) -> None:
        self._broker.unreachable(link.peer, now=now)

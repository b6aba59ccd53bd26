"""What the targets have in common: a machine that is sent messages, of which some have mistakes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from random import Random
from typing import Any, ClassVar, Final

from zmdp_trio._core.link import Link
from zmdp_trio._settings import Settings

from .mistakes import Mutator

EPOCH: Final = b"epoch"
LIMITS: Final = [2**20, 2**14, 255]
SERVICES: Final = ("a", "b", "c")
#: Small, so that a run reaches every limit.
SETTINGS: Final = Settings(
    queue_requests=50,
    client_queue=20,
    client_requests=100,
    outbox=100_000,
    broker_sessions=20,
    broker_services=30,
    broker_memory=100_000,
    key_limit=20,
    key_bytes=10_000,
    max_message=100_000,
    credit_messages=8,
    credit_bytes=10_000,
    connection_credit=100_000,
    legacy_buffer=20_000,
    legacy_busy=5.0,
    legacy_wait=2.0,
    resume=1.0,
    key_window=5.0,
    recent_limit=20,
    recent_bytes=20_000,
)


class Target(ABC):
    """A machine, and the peers that send to it."""

    name: ClassVar[str]

    def __init__(self, random: Random) -> None:
        self.random = random
        self.mutator = Mutator(random)
        self.now = 0.0
        self.steps = 0
        #: How many of 1.0 messages are as they should be.  Few, and no session gets far; many, and little is tried.
        self.honest = 0.9
        #: Messages that the machine wanted sent.
        self.answers = 0

    def step(self) -> None:
        """Send one message, and do all that is due."""
        self.now += self.random.choice((0.0, 0.0, 0.001))
        if self.steps % 1000 == 0:
            self.honest = self.random.choice((0.2, 0.6, 0.95, 0.99))
        self.steps += 1
        self._send()
        self._work()
        if self.machine.deadline <= self.now:
            self.machine.handle_timer(now=self.now)
        self._flush(self.machine.take_dirty())

    @property
    @abstractmethod
    def machine(self) -> Any:
        """What is tested."""

    @abstractmethod
    def _send(self) -> None:
        """Hand the machine a message."""

    @abstractmethod
    def _work(self) -> None:
        """Do the shell's part."""

    @abstractmethod
    def check(self) -> None:
        """Hold what always holds."""

    @abstractmethod
    def finish(self) -> None:
        """Let everybody leave, and look whether anything is left."""

    @property
    @abstractmethod
    def tables(self) -> dict[str, int]:
        """How much the machine keeps, of each kind."""

    def _flush(self, links: Iterable[Link]) -> None:
        for link in links:
            link.scheduled = False
            while link.peer is not None and link.next_batch() is not None:
                link.batch_sent()
                self.answers += 1

    def _check_empty(self) -> None:
        """Nothing is left but what has a limit of its own, and is kept on purpose."""
        kept = ("heap", "keys", "unacknowledged", "outcomes")
        assert {name: count for name, count in self.tables.items() if count and name not in kept} == {}

    def _pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.machine.deadline <= until:
            self.now = max(self.now, self.machine.deadline)
            self.machine.handle_timer(now=self.now)
            self._flush(self.machine.take_dirty())
        self.now = until

    def _id(self, known: Iterable[int]) -> int:
        """Return the id of a request: mostly of one that there is."""
        ids = list(known)
        return self.random.choice(ids) if ids and self.random.random() < 0.9 else self.random.choice((0, 7, 2**62))

    def _batch(self, link: Link | None) -> list[Any]:
        """Return the BATCH that the machine expects next, and that acknowledges something, or nothing."""
        if link is None:
            return [0, 1, 0, False]
        acknowledged = link.sent if self.random.random() < 0.3 else link.acked
        return [0, link.received + 1, acknowledged, self.random.random() < 0.02]

    def _left(self) -> float | None:
        return self.random.choice((None, None, 0.0, 0.01, 1.0, 1e300, math.inf))

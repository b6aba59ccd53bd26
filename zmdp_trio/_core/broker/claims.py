"""What is known of a request of the last broker: its caller's claim, its worker's holding, and who awaits its key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from ..._wire import commands as c
from ..shared import Fingerprint, Origin
from ..weights import request_weight

if TYPE_CHECKING:
    from .session import Session


class Claim:
    """A request that waits for the worker that may have it; stands among its session's requests, as a job would.

    Attributes:
        request: the request itself, if this broker was sent it: it can be run if no worker has its key.
        received: partial replies that the caller has; None if it reads none.
        awaited: the key that it waits for.
    """

    __slots__ = (
        "awaited",
        "bytes",
        "deadline",
        "id",
        "key",
        "messages",
        "received",
        "request",
        "service",
        "session",
    )

    def __init__(self, session: Session, command: c.Claim | c.Request, deadline: float) -> None:
        self.session = session
        self.id = command.id
        self.service = command.service
        self.key = command.key
        self.deadline = deadline
        self.messages = command.messages
        self.bytes = command.bytes
        self.request = command if isinstance(command, c.Request) else None
        self.received = command.received if isinstance(command, c.Claim) else None
        self.awaited: AwaitedKey | None = None

    @property
    def origin(self) -> Origin:
        """What the request is called whichever broker it came by."""
        return self.session.digest, self.id

    @property
    def size(self) -> int:
        """Bytes that it weighs here."""
        return 0 if self.request is None else request_weight(self.request)

    def left(self, now: float) -> float | None:
        """Return the seconds until its deadline, None for none."""
        return None if self.deadline == math.inf else max(self.deadline - now, 0.0)

    def as_request(self, now: float) -> c.Request:
        """Return the request as it would be if it came now."""
        assert self.request is not None
        return msgspec.structs.replace(self.request, left=self.left(now), messages=self.messages, bytes=self.bytes)

    def grant(self, credit: c.Credit) -> None:
        """Keep credit for when the worker is there."""
        self.messages = min(self.messages + credit.messages, c.MAX_AMOUNT)
        self.bytes = min(self.bytes + credit.bytes, c.MAX_AMOUNT)


class Holding:
    """What a worker has of a request of the last broker."""

    __slots__ = ("awaited", "key", "offered", "origin", "payload", "service", "worker")

    def __init__(self, worker: Session, holding: c.Holding) -> None:
        self.worker = worker
        self.origin = holding.caller, holding.call
        self.service = holding.service
        #: What the worker offers it as.
        self.offered = holding.offered or holding.service
        self.key = holding.key
        self.payload = holding.payload
        self.awaited: AwaitedKey | None = None

    def answers(self, claim: Claim) -> bool:
        """Whether it is what a client claims."""
        if claim.request is not None:
            return False
        return (self.origin, self.service, self.key) == (claim.origin, claim.service, claim.key)


class AwaitedKey:
    """A key that some worker may have, or has, an execution of, and who waits for that.

    Attributes:
        holding: the worker's, once it has come.
        ripe: the caller whose request it was had time enough to claim it: whoever asks is served now.
    """

    __slots__ = ("claims", "holding", "key", "payload", "ripe")

    def __init__(self, key: tuple[str, str], payload: Fingerprint | None) -> None:
        self.key = key
        self.payload = payload
        self.holding: Holding | None = None
        self.claims: dict[Claim, None] = {}
        self.ripe = False

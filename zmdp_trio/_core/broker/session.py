"""A peer of the broker: a client or a worker."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ..._wire.commands import Command, Hello
from ..link import Ledger, Link
from ..shared import Origin

if TYPE_CHECKING:
    from .claims import Claim, Holding
    from .job import Job
    from .keys import Caller
    from .service import Offer


class Session:
    """What the broker knows of one peer, over however many connections.

    Attributes:
        handlers: what each of its commands does; a command that is not listed is not its to send.
        requests: jobs that it asked for and that are not over, by its own ids.
        held: jobs that it runs, by the broker's ids.
        holdings: what it has of the last broker's requests and nobody has claimed, by origin.
        digest: what its requests are known by to workers: the same with every broker, and it does not tell the id.
        offers: what it serves, by service.
        heard: when its last message came.
        choked: too much is queued for it: it gets no more work for the time being.
        answers: commands that it had answered since nothing was queued for it.
    """

    __slots__ = (
        "answers",
        "choked",
        "digest",
        "drained",
        "draining",
        "ended",
        "handlers",
        "heard",
        "held",
        "holdings",
        "id",
        "is_worker",
        "limits",
        "link",
        "name",
        "offers",
        "requests",
        "resumed",
    )

    def __init__(
        self, hello: Hello, dirty: list[Link], handlers: dict[type[Command], Any], ledger: Ledger | None = None
    ) -> None:
        """Make a session; `ledger` is for what waits for clients: for a worker it is requests, which count already."""
        self.id = hello.session
        self.digest = blake2b(hello.session, digest_size=16).digest()
        self.name = hello.name
        self.limits = hello.limits
        self.handlers = handlers
        self.is_worker = hello.offers is not None
        self.link = Link(dirty, None if self.is_worker else ledger)
        self.requests: dict[int, Job | Caller | Claim] = {}
        self.held: dict[int, Job] = {}
        self.holdings: dict[Origin, Holding] = {}
        self.offers: dict[str, Offer] = {}
        self.heard = 0.0
        self.draining = False
        #: A client that has heard of our DRAIN: it sends nothing any more that another broker could have.
        self.drained = False
        self.ended = False
        #: Its last greeting went on with a session that was there.
        self.resumed = False
        self.choked = False
        self.answers = 0

    def __repr__(self) -> str:
        return f"<Session {self.name} {self.role} requests={len(self.requests)} held={len(self.held)}>"

    @property
    def role(self) -> str:
        """What it is, for people."""
        return "worker" if self.is_worker else "client"

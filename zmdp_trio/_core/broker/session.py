"""A peer of the broker: a client or a worker."""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ..._settings import Settings
from ..._wire.commands import Command, Hello, Limits
from ..link import Ledger, Link
from ..shared import Origin

if TYPE_CHECKING:
    from .claims import Claim, Holding
    from .job import Job
    from .keys import Caller
    from .legacy import LegacyPeer
    from .service import Offer


class Session:
    """What the broker knows of one peer, over however many connections.

    Attributes:
        handlers: what each of its commands does; a command that is not listed is not its to send.
        requests: jobs that it asked for and that are not over, by its own ids.
        held: jobs that it runs, by the broker's ids.
        holdings: what it has of the last broker's requests and nobody has claimed, by origin.
        digest: what its requests are known by to workers: the same with every broker, and it does not tell the id;
            empty for one that can't claim them.
        offers: what it serves, by service.
        appear: seconds that its requests wait for a service to appear.
        heard: when its last message came.
        choked: too much is queued for it: it gets no more work for the time being.
        answers: commands that it had answered since nothing was queued for it.
    """

    __slots__ = (
        "answers",
        "appear",
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
        self,
        id: Hashable,
        name: str,
        limits: Limits,
        link: Link | LegacyPeer,
        handlers: dict[type[Command], Any],
        *,
        is_worker: bool,
        digest: bytes,
        appear: float,
    ) -> None:
        self.id = id
        self.digest = digest
        self.name = name
        self.limits = limits
        self.handlers = handlers
        self.is_worker = is_worker
        self.link = link
        self.appear = appear
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

    @classmethod
    def of(
        cls, hello: Hello, dirty: list[Link], handlers: dict[type[Command], Any], ledger: Ledger, settings: Settings
    ) -> Session:
        """Return the session that a peer of our own asks for.

        Args:
            dirty: where its link enters itself when it has something to send.
            handlers: what its commands do.
            ledger: of what waits for clients: for a worker it is requests, which count already.
        """
        is_worker = hello.offers is not None
        return cls(
            hello.session,
            hello.name,
            hello.limits,
            Link(dirty, None if is_worker else ledger),
            handlers,
            is_worker=is_worker,
            digest=blake2b(hello.session, digest_size=16).digest(),
            appear=settings.appear,
        )

    def __repr__(self) -> str:
        return f"<Session {self.name} {self.role} requests={len(self.requests)} held={len(self.held)}>"

    @property
    def role(self) -> str:
        """What it is, for people."""
        return "worker" if self.is_worker else "client"

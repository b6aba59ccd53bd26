"""A peer of the broker: a client or a worker; and what the machine asks of the link to it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Sized
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from ..._settings import Settings
from ..._wire.commands import Command, Credit, Hello, Limits
from ..._wire.frames import Frame, Frames
from ..link import Ledger, Link
from ..shared import Origin

if TYPE_CHECKING:
    from .claims import Claim, Holding
    from .job import Job
    from .keys import Caller
    from .service import Offer


class SessionLink(Protocol):
    """What a session's commands come from, and are put into: a `Link`, or what stands for one.

    The words are those of `Link`.  What an older dialect has no form for means nothing there, and costs nothing.
    """

    #: What the engine reaches the peer by; None while there is no connection.
    peer: Any
    #: Commands put now may leave at once.
    opened: bool
    outbox_bytes: int

    # What the machine does.

    def receive(self, frames: Sequence[Frame]) -> list[Any]: ...
    def put(self, command: Command, size: int = 0) -> None: ...
    def put_credit(self, credit: Credit) -> None: ...
    def put_heartbeat(self, id: int, left: float | None = None) -> None: ...
    def put_uncounted(self, command: Command, *, received: int = 0) -> None: ...
    def beat(self) -> None: ...
    def open(self, peer: Any, received: int) -> None: ...
    def close(self) -> None: ...
    def drop_outbox(self) -> list[Command]: ...
    def reset(self) -> None: ...

    # What kind of peer this is.

    @property
    def may_return(self) -> bool: ...
    @property
    def patience(self) -> float: ...
    @property
    def request_beats(self) -> bool: ...

    # How things stand.

    @property
    def outbox(self) -> Sized: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def flushed(self) -> bool: ...
    @property
    def awaits_ack(self) -> bool: ...
    @property
    def received(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def skipped(self) -> int: ...

    # For the engine.

    scheduled: bool

    def schedule(self) -> None: ...
    def next_batch(self) -> Frames | None: ...
    def batch_sent(self) -> None: ...


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
        link: SessionLink,
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
        cls,
        hello: Hello,
        dirty: list[SessionLink],
        handlers: dict[type[Command], Any],
        ledger: Ledger,
        settings: Settings,
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

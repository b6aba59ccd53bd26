"""The commands that the machines speak, whatever the dialect on the wire.

Each class is also its own ZMDP/1 wire format: a MessagePack array of the tag and the fields, in this order.
docs/protocol.md shows the same table for readers who have no Python.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

import msgspec

from .._errors import RequestError
from .._settings import Settings

VERSION = 1
#: Largest amount of anything in one field.
MAX_AMOUNT = 2**48
#: Bytes in the longest session id, name of a peer, or key.
MAX_NAME = 255
#: Details, as a value, of an error of the broker's own: no worker has seen the request, so another broker may have it.
NOT_RUN = {"ran": False}

#: `bytes`, under a name that the fields called so don't hide.
Data = bytes
#: A number that only grows: of a batch, of a request in its session.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
#: An amount of messages, bytes, or slots.
Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
#: Enough for a fleet that restarts, too little for a payload that kills it.
MAX_RETRY = 2**10
#: How often a request may run again.
Retries = Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRY)]
#: A length of time in seconds; infinity is none that matters.
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Content(enum.IntEnum):
    """How a body is to be read."""

    BYTES = 0
    MSGPACK = 1
    JSON = 2
    #: Bytes of a peer whose protocol does not say what they are: what the reader takes them for, bytes or JSON.
    OPAQUE = 3


class Command(msgspec.Struct, array_like=True, gc=False):
    """One command.  A peer may send more fields than are listed: they are skipped."""

    carries_body: ClassVar[bool] = False


class Limits(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What the sender of a HELLO or a WELCOME takes, in bytes."""

    #: Largest body.
    message: Amount
    #: Largest set of headers, names and values added up.
    headers: Amount
    #: Longest service name.
    service: Amount

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits that these settings announce."""
        return cls(settings.max_message, settings.max_headers, settings.max_service_name)


class Offer(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A service that a worker offers, and how many requests for it this broker may have running there."""

    service: str
    slots: Amount


class Batch(Command, tag=0):
    """The first command of every message: which batch this is, and which ones have arrived."""

    #: Number of this batch in its session, from 1; 0 for one that is not counted (greetings, acknowledgements).
    sequence: Number
    #: Number of the last batch received in order.
    received: Number
    #: Batches after `received` went missing: send them again.
    resend: bool = False


class Hello(Command, tag=1):
    """First command of a connection, from a client or a worker."""

    version: int
    #: Random, 16 bytes or more; whoever knows it is this peer.
    session: bytes
    #: Whom other peers may know this one as.
    name: str
    #: Epoch of the broker that the session was with; empty for a new session.
    epoch: bytes
    limits: Limits
    #: Seconds between the sender's heartbeats.
    heartbeat: Seconds
    features: list[str]
    #: What a worker serves; nil for a client.
    offers: list[Offer] | None


class Welcome(Command, tag=2):
    """Answer to HELLO."""

    version: int
    broker: str
    #: Random for each start of the broker: another one means that it knows nothing any more.
    epoch: bytes
    #: The session goes on where it was; else it is new, and holds nothing.
    resumed: bool
    limits: Limits
    heartbeat: Seconds
    features: list[str]


class Slots(Command, tag=3):
    """A worker changes a lease; the broker answers with the same once it holds to it."""

    service: str
    slots: Amount


class Request(Command, tag=4):
    """Run a service: from a client to the broker, and from the broker to a worker (under an id of its own)."""

    carries_body: ClassVar[bool] = True
    id: Number
    service: str
    content: int
    body: Data | None
    #: Partial replies that may be sent before the first CREDIT.
    messages: Amount
    #: The same in bytes.
    bytes: Amount
    #: Seconds until the deadline; None for none.
    left: Seconds | None = None
    #: Longest silence between replies, in seconds, that the caller accepts; None for any.
    timeout: Seconds | None = None
    headers: dict[str, str] | None = None
    #: How often it may run again when a worker or a broker is lost.
    retry: Retries = 0
    #: Requests of one service with the same key share one execution.
    key: str | None = None
    #: Only the worker of this name may run it.
    worker: str | None = None
    #: Broker to worker: the name of the caller.
    peer: str = ""
    #: Broker to worker: what tells the caller's session from others, after a restart of the broker too.
    caller: Data = b""
    #: Broker to worker: the id that the caller gave it.
    call: Number = 0
    #: Broker to worker: the name that the caller asked for, if `service` is a wildcard or a version; else empty.
    asked: str = ""


class Partial(Command, tag=5):
    """A partial reply."""

    carries_body: ClassVar[bool] = True
    id: Number
    content: int
    body: Data | None


class Final(Command, tag=6):
    """The final reply; nothing follows."""

    carries_body: ClassVar[bool] = True
    id: Number
    content: int
    body: Data | None


class Error(Command, tag=7):
    """The request ended without a final reply; nothing follows."""

    id: Number
    #: Name of a `Code`.
    code: str
    #: Which exception of its code; empty for any.
    reason: str
    message: str
    #: MessagePack of the details; empty for none.
    details: bytes = b""

    @classmethod
    def of(cls, id: int, error: RequestError) -> Error:
        """Return what a request's caller is told of an error of our own: MessagePack can say its details."""
        details = b"" if error.details is None else msgspec.msgpack.encode(error.details)
        return cls(id, error.code.value, error.reason, error.message, details)


class Cancel(Command, tag=8):
    """The caller has left."""

    id: Number


class Credit(Command, tag=9):
    """More partial replies may be sent; with 0 of both only the time left is news."""

    id: Number
    messages: Amount
    bytes: Amount
    #: Seconds until the deadline; None if it was not moved.
    left: Seconds | None = None


class Reject(Command, tag=10):
    """The worker will not run this request; another one may."""

    id: Number


class Held(msgspec.Struct, array_like=True, gc=False):
    """A request that lives, in a HEARTBEAT."""

    id: Number
    #: From its caller: seconds until its deadline; None if it was not moved.
    left: Seconds | None = None
    #: From its broker: how often it may still run again, which has become less; None if it has not.
    retry: Retries | None = None


class Heartbeat(Command, tag=11):
    """A sign of life, for the session and for each request that it names."""

    held: list[Held] = []


class Drain(Command, tag=12):
    """The sender wants no more requests.  Answered with DRAINED; a broker's is not answered."""


class Drained(Command, tag=13):
    """Nothing that was sent before the DRAIN is left on the way."""


class Goodbye(Command, tag=14):
    """The session is over, and all that it held; nothing follows."""

    #: Why, in words for a log; empty for a plain leave.
    reason: str = ""
    #: The greeting itself was refused: another try would be refused too.
    refused: bool = False


class Claim(Command, tag=15):
    """A client asks a broker that was restarted for a request that it had sent before."""

    #: As it was sent.
    id: Number
    service: str
    #: Partial replies that came; None if nobody reads them.
    received: Number | None
    #: Credit that the worker has, beyond these.
    messages: Amount
    bytes: Amount
    left: Seconds | None = None
    key: str | None = None


class Holding(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A request that a worker runs, or ran lately, for a broker that was restarted since."""

    #: `caller` and `call` of its REQUEST.
    caller: Data
    call: Number
    #: What its caller asked for.
    service: str
    key: str | None = None
    #: Content type, length, and CRC-32 of the payload of a request with a key.
    payload: tuple[int, int, int] | None = None
    #: Seconds since its end; None while it runs.
    ended: Seconds | None = None
    #: `service` of its REQUEST, if that is not what was asked for; else empty.
    offered: str = ""


class Holdings(Command, tag=16):
    """What a worker has of the requests of the broker before this one."""

    holdings: list[Holding]


class Resume(Command, tag=17):
    """A caller has claimed what a worker holds: go on with it."""

    #: What it is called from now on.
    id: Number
    caller: Data
    call: Number
    #: Partial replies that the caller has; None to leave out all that were sent.
    received: Number | None
    #: Credit beyond these.
    messages: Amount
    bytes: Amount
    left: Seconds | None = None


class Wanted(Command, tag=18):
    """Requests wait at the broker because this worker's lease is used up; with 0, none do any more."""

    service: str
    #: How many of them this worker could run.
    queued: Amount


ALL: tuple[type[Command], ...] = (
    Batch,
    Hello,
    Welcome,
    Slots,
    Request,
    Partial,
    Final,
    Error,
    Cancel,
    Credit,
    Reject,
    Heartbeat,
    Drain,
    Drained,
    Goodbye,
    Claim,
    Holdings,
    Resume,
    Wanted,
)

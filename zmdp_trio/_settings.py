"""Every default, once.  docs/settings.md shows the same table, and a test holds the two together."""

from __future__ import annotations

import difflib
import math
from typing import Any, TypedDict, Unpack

import attrs

KIB = 2**10
MIB = 2**20


def _seconds(_: Any, attribute: attrs.Attribute[float], value: float) -> None:
    if not (isinstance(value, int | float) and value >= 0):
        raise ValueError(f"{attribute.name} must be seconds, 0 or more, not {value!r}")


def _interval(_: Any, attribute: attrs.Attribute[float], value: float) -> None:
    if not (isinstance(value, int | float) and 0.01 <= value < math.inf):
        raise ValueError(f"{attribute.name} must be seconds, 0.01 or more and finite, not {value!r}")


def _span(_: Any, attribute: attrs.Attribute[float], value: float) -> None:
    if not (isinstance(value, int | float) and value >= 0.01):
        raise ValueError(f"{attribute.name} must be seconds, 0.01 or more, or math.inf for never, not {value!r}")


def _count(_: Any, attribute: attrs.Attribute[int], value: int) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{attribute.name} must be a whole number, 1 or more, not {value!r}")


def _switch(_: Any, attribute: attrs.Attribute[bool], value: bool) -> None:
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ValueError(f"{attribute.name} must be 1 or 0, not {value!r}")


def _of(who: str, unit: str = "") -> dict[str, str]:
    """Note whose a setting is, and whether it counts bytes.

    "b" is the broker's, "w" the worker's, "c" the client's, "g" the gateway's, which has those of its client, too.
    """
    return {"who": who, "unit": unit}


@attrs.frozen(kw_only=True)
class Settings:
    """The limits and intervals of a broker, a worker, a client, or a gateway.  Times in seconds, sizes in bytes."""

    #: Seconds between heartbeats, of the transport (ZMTP) and of the protocol.
    heartbeat: float = attrs.field(default=2.5, validator=_interval, metadata=_of("bwc"))
    #: Heartbeats that may be missed before a connection counts as lost (L).
    misses: int = attrs.field(default=3, validator=_count, metadata=_of("bwc"))
    #: How long a request may go without a reply.
    timeout: float = attrs.field(default=60.0, validator=_seconds, metadata=_of("c"))
    #: How long a request waits for a connection to a broker, before it ends as BrokerLost.
    connect: float = attrs.field(default=5.0, validator=_seconds, metadata=_of("c"))
    #: How long a request waits for its service to appear, before it ends as ServiceNotFound.
    appear: float = attrs.field(default=1.0, validator=_seconds, metadata=_of("b"))
    #: Seconds after which the host name of a broker is looked up again.
    resolve: float = attrs.field(default=30.0, validator=_span, metadata=_of("wc"))
    #: How long a lost session may take to come back with what it held.
    resume: float = attrs.field(default=10.0, validator=_seconds, metadata=_of("bwc"))
    #: Requests that a worker runs at once per service: coroutines and async generators.
    concurrency: int = attrs.field(default=100, validator=_count, metadata=_of("w"))
    #: The same for sync functions and generators, which take a thread each.
    sync_concurrency: int = attrs.field(default=32, validator=_count, metadata=_of("w"))
    #: Partial replies that may be on their way per request.
    credit_messages: int = attrs.field(default=64, validator=_count, metadata=_of("c"))
    #: What that grows to, for a stream of which sixteen times as many were read.
    max_credit_messages: int = attrs.field(default=1_024, validator=_count, metadata=_of("c"))
    #: Bytes of partial replies that may be on their way per request; while any is left, one message may overdraw it.
    credit_bytes: int = attrs.field(default=MIB, validator=_count, metadata=_of("c", "bytes"))
    #: What that grows to, for a stream of which sixteen times as many were read.
    max_credit_bytes: int = attrs.field(default=2 * MIB, validator=_count, metadata=_of("c", "bytes"))
    #: Bytes of partial replies that may be on their way or unread per connection.
    connection_credit: int = attrs.field(default=16 * MIB, validator=_count, metadata=_of("c", "bytes"))
    #: Requests that may wait in one service's queue.
    queue_requests: int = attrs.field(default=10_000, validator=_count, metadata=_of("b"))
    #: Bytes of payload that may wait in one service's queue.
    queue_bytes: int = attrs.field(default=256 * MIB, validator=_count, metadata=_of("b", "bytes"))
    #: Requests that one client may have waiting in one service's queue.
    client_queue: int = attrs.field(default=4_096, validator=_count, metadata=_of("b"))
    #: Bytes that may be queued for one peer: above it a worker gets no more work,
    #: and at twice it a client that does not read is cut off.
    outbox: int = attrs.field(default=256 * MIB, validator=_count, metadata=_of("bw", "bytes"))
    #: Requests that one client may have outstanding in all.
    client_requests: int = attrs.field(default=65_536, validator=_count, metadata=_of("b"))
    #: Peers that a broker knows at once; further ones are told to come again later.
    broker_sessions: int = attrs.field(default=10_000, validator=_count, metadata=_of("b"))
    #: Services that a broker knows at once, offered or asked for.
    broker_services: int = attrs.field(default=10_000, validator=_count, metadata=_of("b"))
    #: Bytes that a broker keeps for all clients together, of requests and of replies.
    broker_memory: int = attrs.field(default=1024 * MIB, validator=_count, metadata=_of("b", "bytes"))
    #: Bytes in the largest payload or reply.
    max_message: int = attrs.field(default=64 * MIB, validator=_count, metadata=_of("bwc", "bytes"))
    #: Bytes in the largest set of headers, names and values.
    max_headers: int = attrs.field(default=16 * KIB, validator=_count, metadata=_of("bc", "bytes"))
    #: Bytes (UTF-8) in the longest service name.
    max_service_name: int = attrs.field(default=255, validator=_count, metadata=_of("bc", "bytes"))
    #: How long a request of an MDP client waits for its service to appear: it expects to be queued.
    legacy_wait: float = attrs.field(default=60.0, validator=_seconds, metadata=_of("b"))
    #: How long a worker of an older dialect, which can't beat while it works, may be busy without a sign of life;
    #: 0 for no longer than an idle one.
    legacy_busy: float = attrs.field(default=900.0, validator=_seconds, metadata=_of("b"))
    #: Bytes that such a worker, or to a client such a broker, may send beyond what the caller of a request reads,
    #: before the request ends.
    legacy_buffer: int = attrs.field(default=16 * MIB, validator=_count, metadata=_of("bc", "bytes"))
    #: Whether an MDP client, whose protocol has no errors, gets one as its last reply; else it gets nothing.
    mdp_errors: bool = attrs.field(default=True, validator=_switch, metadata=_of("b"))
    #: How long a drain lets what runs go on.
    drain_grace: float = attrs.field(default=30.0, validator=_seconds, metadata=_of("bwg"))
    #: How long a worker's event loop may be blocked before that is logged; `math.inf` for never.
    blocked_after: float = attrs.field(default=1.0, validator=_span, metadata=_of("w"))
    #: The same, before the process is ended with status 70.
    hung_after: float = attrs.field(default=math.inf, validator=_span, metadata=_of("w"))
    #: How long the outcome of a keyed request is remembered.
    key_window: float = attrs.field(default=600.0, validator=_seconds, metadata=_of("bw"))
    #: Keyed outcomes that are remembered at most.
    key_limit: int = attrs.field(default=10_000, validator=_count, metadata=_of("bw"))
    #: Bytes of keyed outcomes that are remembered at most.
    key_bytes: int = attrs.field(default=64 * MIB, validator=_count, metadata=_of("bw", "bytes"))
    #: Outcomes that a worker keeps for some seconds, for a broker that is restarted before it passed them on.
    recent_limit: int = attrs.field(default=4_096, validator=_count, metadata=_of("w"))
    #: The same in bytes.
    recent_bytes: int = attrs.field(default=16 * MIB, validator=_count, metadata=_of("w", "bytes"))
    #: Requests that one connection to a gateway may have outstanding; at twice as many it is cut off.
    gateway_requests: int = attrs.field(default=1_000, validator=_count, metadata=_of("g"))
    #: Bytes that a gateway keeps for all of them together, half of it at most of requests.
    gateway_memory: int = attrs.field(default=256 * MIB, validator=_count, metadata=_of("g", "bytes"))

    @property
    def silence(self) -> float:
        """Seconds until a peer that vanished without a word has certainly been noticed: (L+1) x heartbeat."""
        return self.heartbeat * (self.misses + 1)


DEFAULTS = Settings()


class Overrides(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments; a test holds the two equal."""

    heartbeat: float
    misses: int
    timeout: float
    connect: float
    appear: float
    resolve: float
    resume: float
    concurrency: int
    sync_concurrency: int
    credit_messages: int
    max_credit_messages: int
    credit_bytes: int
    max_credit_bytes: int
    connection_credit: int
    queue_requests: int
    queue_bytes: int
    client_queue: int
    outbox: int
    client_requests: int
    broker_sessions: int
    broker_services: int
    broker_memory: int
    max_message: int
    max_headers: int
    max_service_name: int
    legacy_wait: float
    legacy_busy: float
    legacy_buffer: int
    mdp_errors: bool
    drain_grace: float
    blocked_after: float
    hung_after: float
    key_window: float
    key_limit: int
    key_bytes: int
    recent_limit: int
    recent_bytes: int
    gateway_requests: int
    gateway_memory: int


def settings_with(settings: Settings | None, **overrides: Unpack[Overrides]) -> Settings:
    """Return `settings` (else the defaults) with some fields replaced.

    Raises:
        TypeError: there is no such setting.
        ValueError: a value is out of range.
    """
    for name in overrides:
        if name not in Overrides.__annotations__:
            close = difflib.get_close_matches(name, Overrides.__annotations__, n=1)
            raise TypeError(f"there is no setting {name!r}" + (f"; is {close[0]!r} meant?" if close else ""))
    return attrs.evolve(settings or DEFAULTS, **overrides)

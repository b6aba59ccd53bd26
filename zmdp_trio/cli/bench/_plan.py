"""What is to be measured, from the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from zmdp_trio import Settings

from .._failures import usage
from .._values import read_payload
from ._load import Level, Work

#: The command's options by name.
Options = dict[str, Any]

_SIZE: Final = 16
#: Requests in flight.
_IN_FLIGHT: Final = 10
#: The most of them where there is a rate: a broker lets one client queue 4,096 for a service.
_MOST: Final = 1_000


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        services: that are asked in turn; none for a worker of our own.
        work: what they are asked.
        levels: how much of it, one after the other.
        seconds: that each level is measured.
        warm_up: seconds of the same load before that.
        endpoints: of brokers.
        protocol: that these speak.
        settings: of the client.
        json: print one object, when all is done.
    """

    services: Sequence[str]
    work: Work
    levels: Sequence[Level]
    seconds: float
    warm_up: float
    endpoints: Sequence[str]
    protocol: str
    settings: Settings
    json: bool


def read_plan(options: Options) -> Plan:
    """Make the plan.

    Raises:
        Failure: options that don't go together; a payload that can't be read.
    """
    services = options["services"]
    if bool(services) is options["own_worker"]:
        raise usage("name either the services, or --own-worker")
    if len(set(services)) < len(services):
        raise usage("a service is named twice")
    alike = {name: options[name] for name in ("seconds", "warm_up", "endpoints", "protocol", "settings", "json")}
    work = Work(_payload(options), options["timeout"], options["stream"])
    return Plan(services=services, work=work, levels=_levels(options["in_flight"], options["rate"]), **alike)


def _payload(options: Options) -> Any:
    text, size = options["payload"], options["size"]
    if text is not None and size is not None:
        raise usage("give either --size or --payload, not both")
    if text is None and options["raw"]:
        raise usage("--raw is for --payload")
    return filler(_SIZE if size is None else size) if text is None else read_payload(text, None, options["raw"])


def filler(size: int) -> bytes:
    """Make so many bytes that are JSON as well, for whoever reads them as that: no byte at all is not."""
    return b'"' + b"x" * (size - 2) + b'"' if size >= 2 else b"0"[:size]


def _levels(in_flight: tuple[int, ...] | None, rates: tuple[float, ...] | None) -> list[Level]:
    if rates is None:
        return [Level(number) for number in in_flight or (_IN_FLIGHT,)]
    most, *others = in_flight or (_MOST,)
    if others:
        raise usage("with --rate, --in-flight is one number: the most requests at once")
    return [Level(most, rate) for rate in rates]

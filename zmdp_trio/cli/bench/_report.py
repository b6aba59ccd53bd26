"""The figures of a load, for programs and for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .._values import size
from ._histogram import Histogram
from ._load import Level, Load
from ._tally import Progress, Tally, together

_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
#: The share of a core from which on our own thread, and not what it measures, may be the limit.
_BUSY: Final = 0.9

#: What --json has of a load; see `record`.
Record = dict[str, Any]


def record(load: Load, sent: int) -> Record:
    """Gather the figures of a load that is over.

    Args:
        load: the load.
        sent: bytes of each request's payload.

    Returns:
        `services`, with what `_figures` returns for each, and the same for all of them in `total`; `seconds` are those
        that were measured, `cpu` is the share of them in which our thread computed.
    """
    services = {
        tally.service: _figures(tally, progress, load.elapsed, sent)
        for tally, progress in zip(load.tallies, load.reached, strict=True)
    }
    reached = Progress(*(sum(each) for each in zip(*map(_numbers, load.reached), strict=True)))
    return {
        "in_flight": load.level.in_flight,
        "rate": load.level.rate,
        "seconds": load.elapsed,
        "cpu": load.cpu / load.elapsed if load.elapsed else 0.0,
        "unsent": load.unsent,
        "services": services,
        "total": _figures(together(load.tallies), reached, load.elapsed, sent),
    }


def _numbers(progress: Progress) -> tuple[int, int, int]:
    return progress.replies, progress.chunks, progress.received


def _figures(tally: Tally, reached: Progress, seconds: float, sent: int) -> Record:
    """Compute the figures of a tally: rates of what came within the time, latencies and errors of all that was sent."""
    per_second = 1 / seconds if seconds else 0.0
    return {
        "requests": tally.begun,
        "replies": tally.latency.count,
        "replies_per_second": reached.replies * per_second,
        "latency_ms": _percentiles(tally.latency),
        "sent_bytes_per_second": reached.replies * sent * per_second,
        "received_bytes_per_second": reached.received * per_second,
        "errors": {code: {"count": each.count, "first": each.first} for code, each in tally.errors.items()},
        "unfinished": tally.unfinished,
        "chunks": tally.chunks,
        "chunks_per_second": reached.chunks * per_second,
        "first_chunk_ms": _percentiles(tally.first),
    }


def _percentiles(spans: Histogram) -> dict[str, float] | None:
    if not spans.count:
        return None
    found = {name: spans.quantile(share) for name, share in _SHARES.items()} | {"max": spans.longest}
    return {name: seconds * 1000 for name, seconds in found.items()}


def lines(record: Record, sent: int) -> Iterator[str]:
    """Write a record of requests with `sent` bytes for people."""
    services = record["services"]
    level = describe(Level(record["in_flight"], record["rate"]))
    yield f"{level}, {size(sent)} each, {record['seconds']:.1f} s"
    for name, figures in services.items():
        yield name
        yield from _about(figures)
    if len(services) > 1:
        yield "all of them"
        yield from _about(record["total"])
    if record["unsent"]:
        yield f"{record['unsent']:,} requests were due and not sent: all {record['in_flight']:,} in flight were waiting"
    if record["cpu"] > _BUSY:
        yield f"this client was busy {record['cpu']:.0%} of the time, and may be the limit: run a second one beside it"


def _about(figures: Record) -> Iterator[str]:
    chunks, sent = figures["chunks"], figures["sent_bytes_per_second"]
    yield _rate("streams" if chunks else "replies", figures["replies_per_second"], figures["replies"])
    if figures["latency_ms"]:
        yield _row("latency", _spans(figures["latency_ms"]))
    if chunks:
        yield _rate("chunks", figures["chunks_per_second"], chunks)
        yield _row("first chunk", _spans(figures["first_chunk_ms"]))
    yield _row("bytes", f"{size(sent)}/s sent, {size(figures['received_bytes_per_second'])}/s received")
    if figures["unfinished"]:
        yield _row("unfinished", f"{figures['unfinished']:,}, which are not in the latency")
    for code, failed in figures["errors"].items():
        yield _row("errors", f"{failed['count']:,} {code}, the first: {' '.join(failed['first'].split())}")
    if not figures["errors"]:
        yield _row("errors", "none")


def _rate(label: str, per_second: float, number: int) -> str:
    return _row(label, f"{per_second:,.{0 if per_second >= 99.5 else 1}f}/s   {number:,} in all")


def _row(label: str, text: str) -> str:
    return f"  {label:<12}{text}"


def _spans(percentiles: dict[str, float]) -> str:
    return "   ".join(f"{name} {milliseconds(value)}" for name, value in percentiles.items())


def milliseconds(value: float) -> str:
    """Write a number of milliseconds with three digits."""
    if value >= 999.5:
        return f"{value / 1000:.3g} s" if value < 999_500 else f"{value / 1000:,.0f} s"
    return f"{value:.3g} ms" if value >= 1 else f"{value:.2f} ms"


def describe(level: Level) -> str:
    """Name a level."""
    if level.rate is None:
        return f"{level.in_flight:,} in flight"
    return f"{level.rate:,.10g} requests/s"

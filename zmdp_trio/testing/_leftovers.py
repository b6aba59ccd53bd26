"""What brokers, workers, and clients still hold of requests, when there should be none."""

from __future__ import annotations

from typing import Any

from .._broker import Broker, ServiceStatistics
from .._client import Client
from .._worker import Worker


def leftovers(peer: Broker | Worker | Client) -> dict[str, Any]:
    """Return what a peer still holds of requests, and counters that don't add up, by name; empty when all is over."""
    if isinstance(peer, Broker):
        held = _of_broker(peer)
    elif isinstance(peer, Worker):
        held = _of_worker(peer)
    else:
        held = _of_client(peer)
    return {name: value for name, value in held.items() if value}


def _of_broker(broker: Broker) -> dict[str, Any]:
    numbers = broker.statistics()
    held: dict[str, Any] = {
        "timers": numbers.timers,
        "outbox_bytes": numbers.outbox_bytes,
        "memory": numbers.memory,
        "busy": broker._machine.busy,
        "protocol_errors": numbers.protocol_errors,
    }
    for name, service in numbers.services.items():
        held |= {
            f"{name}.queued": service.queued,
            f"{name}.running": service.running,
            f"{name}.cancelling": service.cancelling,
            f"{name}.unaccounted": service.received - _accounted(service),
        }
    return held


def _accounted(service: ServiceStatistics) -> int:
    return sum(
        (
            service.refused,
            service.replied,
            service.failed,
            service.cancelled,
            service.expired,
            service.lost,
            service.queued,
            service.running,
            service.cancelling,
        )
    )


def _of_worker(worker: Worker) -> dict[str, Any]:
    numbers = worker.statistics()
    held: dict[str, Any] = {
        "running": numbers.running,
        "cancelling": numbers.cancelling,
        "protocol_errors": numbers.protocol_errors,
    }
    for name, counters in worker._machine.counters().items():
        held[f"{name}.unaccounted"] = counters.received - counters.accounted
    if worker._callers is not None:
        held |= {f"calls.{name}": value for name, value in _of_client(worker._callers).items()}
    return held


def _of_client(client: Client) -> dict[str, Any]:
    numbers = client.statistics()
    return {
        "waiting": numbers.waiting,
        "outstanding": numbers.outstanding,
        "timers": numbers.timers,
        "protocol_errors": numbers.protocol_errors,
        "credit": client.settings.connection_credit - client._machine.credit.left,
    }

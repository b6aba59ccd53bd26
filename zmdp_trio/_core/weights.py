"""What commands count for, in bytes, where they wait: limits on memory are made of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._wire.commands import Claim, Command, Error, Final, Holding, Holdings, Partial, Request

#: What a command counts for in an outbox, beside its body: a rough upper bound for all but the rarest.
COMMAND_BYTES = 64


def weight(command: Command) -> int:
    """Return the bytes of a command's variable parts, roughly: what `Link.put` takes as `size`."""
    kind = type(command)
    if kind is Partial or kind is Final:
        return len(command.body)  # type: ignore[attr-defined]
    if isinstance(command, Request):
        return request_weight(command)
    if isinstance(command, Error):
        return len(command.code) + len(command.reason) + len(command.message) + len(command.details)
    if isinstance(command, Claim):
        return len(command.service) + len(command.key or "")
    if isinstance(command, Holdings):
        return sum(map(_holding_weight, command.holdings))
    return 0


def weights(commands: Sequence[Command]) -> int:
    """Return what these commands count for in an outbox."""
    return sum(COMMAND_BYTES + weight(command) for command in commands)


def request_weight(request: Request) -> int:
    """Return the bytes of a REQUEST's body, service name, and headers."""
    size = len(request.body) + len(request.service)  # type: ignore[arg-type]
    if request.asked:
        size += len(request.asked)
    if request.headers:
        size += headers_size(request.headers)
    if request.key:
        size += len(request.key)
    return size


def headers_size(headers: Mapping[str, str]) -> int:
    """Return the bytes that headers count for: their names and values, in UTF-8."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())


def _holding_weight(holding: Holding) -> int:
    return COMMAND_BYTES + len(holding.service) + len(holding.key or "") + len(holding.offered)

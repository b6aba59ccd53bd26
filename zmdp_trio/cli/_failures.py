"""What a command says when it fails, and with which status it exits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import click

#: The exit codes: the one table that code, `zmdp --help`, and the docs read.  A request that failed has the code of
#: its error; the names without an error of that name are the command's own.
EXIT_CODES: Final[dict[str, tuple[int, str]]] = {
    "OK": (0, "done; broker, worker, gateway: all requests finished after a signal"),
    "FAILED": (1, "the command itself failed, or a check of the demo did"),
    "USAGE": (2, "wrong use: an option, the payload, a module, an endpoint"),
    "INTERNAL": (3, "the service failed"),
    "NOT_FOUND": (4, "no such service, or the service found no such thing"),
    "INVALID_ARGUMENT": (5, "the service does not take this payload"),
    "PERMISSION_DENIED": (6, "not allowed"),
    "DEADLINE_EXCEEDED": (7, "took longer than --timeout or --deadline"),
    "UNAVAILABLE": (8, "no broker answered, or the worker or the broker was lost"),
    "RESOURCE_EXHAUSTED": (9, "over a limit: too much is queued, or too large"),
    "CANCELLED": (10, "cancelled by the other side"),
    "UNIMPLEMENTED": (11, "the other side can't do that"),
    "HUNG": (70, "worker: its event loop was blocked for longer than --hung-after"),
    "SIGHUP": (129, "ended as its terminal closed; broker, worker, gateway: before all requests were finished"),
    "SIGINT": (130, "ended by Ctrl-C; the same"),
    "SIGTERM": (143, "ended by SIGTERM; the same"),
}

#: What only a broker can say: one is running.
_RESTARTED: Final = ("the broker was restarted", "was lost with the broker")
_LOST_IN_RESTART: Final = "the request may have run; --retry 1 lets it run again"

#: What is said of a broker that is there, and speaks something else.
_OTHERWISE: Final = ("not answered as by a broker that speaks", "this broker is set to speak")
_NAME_IT: Final = "if another protocol is spoken there, name it with --protocol"

#: What to do about an error, by the name of its class, or else of its code.
_HINTS: Final = {
    "ServiceNotFound": "is its worker running? Start one with: zmdp worker MODULE",
    "BrokerLost": "is a broker running at {brokers}? Start one with: zmdp broker --bind {broker}",
    "MessageTooLarge": "",
    # By class alone: what a handler itself refuses with this code, it explains itself.
    "InvalidArgument": "compare the payload with what the service expects",
    "WorkerLost": "the worker ended while it had the request; --retry 1 lets another one run it",
    "Overloaded": "too much is waiting already; try again a little later",
    "DEADLINE_EXCEEDED": "allow more time with --timeout or --deadline",
    "UNAVAILABLE": "try again a little later",
    "INTERNAL": "the worker's log says more",
}


@attrs.frozen(eq=False)
class Failure(Exception):
    """A reason to end that the user can understand: never shown with a traceback."""

    message: str
    code: str = "FAILED"
    details: Any = None
    hint: str | None = None
    service: str | None = None

    @property
    def status(self) -> int:
        """The status to exit with."""
        return EXIT_CODES.get(self.code, EXIT_CODES["FAILED"])[0]

    def line(self) -> str:
        """Say it all in one line, as it stands on stderr behind the command's name."""
        from ._values import to_json

        code = "" if self.code in ("FAILED", "USAGE") else f"{self.code}: "
        details = "" if self.details is None else f" {to_json(self.details).decode()}"
        hint = f" ({self.hint})" if self.hint else ""
        return " ".join(f"{code}{self.message}{details}{hint}".split())

    def record(self) -> dict[str, Any]:
        """Say the same to a program: the value of `error` in the output of --json."""
        fields = {"code": self.code, "message": self.message, "details": self.details}
        return fields | {"service": self.service, "hint": self.hint}


def usage(message: str, hint: str | None = None) -> Failure:
    """Make the failure for a wrong use of the command."""
    return Failure(message, "USAGE", hint=hint)


def not_written(error: OSError) -> Failure:
    """Make the failure for output that the other end does not take."""
    return Failure(f"can't write to standard output: {error.strerror}")


def explain(error: BaseException, brokers: Sequence[str] = ()) -> Failure | None:
    """Turn an error that is to be expected into a `Failure`; None for one that is a bug.

    Of several errors at once, what a command itself found says more than what it did to the requests under way.

    Raises:
        BrokenPipeError: it is one; whoever read our output has seen enough.
    """
    if any(isinstance(each, BrokenPipeError) for each in _members(error)):
        raise BrokenPipeError from error
    found = [_explain(each, brokers) for each in _members(error)]
    if None in found:
        return None
    return next((each for each in _members(error) if isinstance(each, Failure)), found[0])


def give_up(error: Exception, brokers: Sequence[str], *, json: bool) -> int:
    """Say why a command failed: as JSON on standard output if that is what its user reads.

    Returns:
        The status to exit with.

    Raises:
        Failure: it is to be said on standard error.
        Exception: `error` itself, if it is a bug.
        BrokenPipeError: nobody reads our output any more.
    """
    from ._values import to_json

    failure = explain(error, brokers)
    if failure is None:
        raise error
    if not json or sys.stdout is None:
        raise failure from error
    try:
        click.echo(to_json({"error": failure.record()}))
    except BrokenPipeError:
        raise
    except OSError:  # then on standard error, like that of which it tells
        raise failure from error
    return failure.status


def _members(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _members(each)
    else:
        yield error


def _explain(error: BaseException, brokers: Sequence[str]) -> Failure | None:
    from zmdp_trio import BrokerLost, EndpointError, RequestError

    if isinstance(error, Failure):
        return error
    if isinstance(error, RequestError):
        hint = _hint(error, error.code.name)
        if isinstance(error, BrokerLost) and hint:
            hint = _about_brokers(error.message, hint, brokers)
        return Failure(error.message, error.code.name, error.details, hint, error.service)
    if isinstance(error, EndpointError):
        return usage(str(error))
    if isinstance(error, OSError):
        return Failure(str(error))
    return None


def exit_codes_help() -> str:
    """Write the table for `zmdp --help`."""
    rows = (f"  {status:>3}  {meaning}" for status, meaning in EXIT_CODES.values())
    return "\b\nExit codes:\n" + "\n".join(rows)


def _about_brokers(message: str, hint: str, brokers: Sequence[str]) -> str | None:
    if any(words in message for words in _RESTARTED):
        return _LOST_IN_RESTART
    if any(words in message for words in _OTHERWISE):
        return _NAME_IT
    return hint.format(brokers=" or ".join(brokers), broker=brokers[0]) if brokers else None


def _hint(error: Exception, code: str) -> str | None:
    names = [*(cls.__name__ for cls in type(error).__mro__), code]
    return next((_HINTS[name] for name in names if name in _HINTS), "") or None

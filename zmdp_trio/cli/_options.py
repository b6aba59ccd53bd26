"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final, TypeVar

import click

from zmdp_trio import PROTOCOLS

from ._types import Endpoint, Header, Seconds, ServiceName, Setting, Span

DEFAULT_BROKER: Final = "tcp://127.0.0.1:5555"

#: How often `--retry` may let a request run again: as often as a client may ask for.
MAX_RETRY: Final = 1024

_Function = TypeVar("_Function", bound=Callable[..., Any])


def settings(roles: str, **options: str) -> Callable[[_Function], _Function]:
    """Make the option for the settings that a command uses and that have no option of their own, as `options` do."""
    kind = Setting(roles, options)
    names = ", ".join(kind.names())
    return click.option(
        "--set",
        "settings",
        type=kind,
        multiple=True,
        metavar="NAME=VALUE",
        help=f"Change another setting, as in --set max_message=128MiB: {names}.  [repeatable; the last one counts]",
    )


def endpoints(name: str, help: str) -> Callable[[_Function], _Function]:
    """Make the option that names endpoints: repeatable, with the same default everywhere.

    Several in the environment variable are separated by blanks or commas.
    """
    return click.option(
        name,
        "endpoints",
        type=Endpoint(),
        multiple=True,
        envvar="ZMDP_BROKER",
        default=[DEFAULT_BROKER],
        callback=lambda _, __, value: value or (DEFAULT_BROKER,),  # an environment variable of nothing but blanks
        metavar="ENDPOINT",
        help=f"{help}  [repeatable; default: $ZMDP_BROKER or {DEFAULT_BROKER}]",
    )


def protocol() -> Callable[[_Function], _Function]:
    """Make the option for what the brokers speak."""
    return click.option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        default=PROTOCOLS[0],
        show_default=True,
        help="What the broker speaks: ours, or one of the older Majordomo dialects.",
    )


def grace() -> Callable[[_Function], _Function]:
    """Make the option for the time that a drain may take."""
    return click.option(
        "--grace",
        type=Span(),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Seconds for running requests to finish after the first signal; 'inf' for all the time that they want.",
    )


def as_json(help: str) -> Callable[[_Function], _Function]:
    """Make the option for output that a program reads."""
    return click.option("--json", "json", is_flag=True, help=help)


def request_options(timeout: float | None) -> Callable[[_Function], _Function]:
    """Make what `call` and `stream` have in common; `timeout` is the default of --timeout."""
    shown = "none" if timeout is None else f"{timeout:g}"
    options = [
        click.argument("service", type=ServiceName()),
        click.argument("payload", required=False),
        click.option("--file", metavar="PATH", help="Read the payload from a file, like @PATH; - is standard input."),
        click.option("--raw", is_flag=True, help="Send the payload as bytes, as it is, instead of reading it as JSON."),
        click.option(
            "--timeout",
            type=Seconds(),
            default=shown,
            metavar="SECONDS",
            help=f"Longest silence between two replies, or 'none'.  [default: {shown}]",
        ),
        click.option("--deadline", type=Seconds(), metavar="SECONDS", help="Time for all of it together."),
        click.option(
            "--retry",
            type=click.IntRange(0, MAX_RETRY),
            default=0,
            metavar="N",
            help="Run again up to N times if worker or broker is lost before the first reply.",
        ),
        click.option(
            "--header",
            "headers",
            type=Header(),
            multiple=True,
            metavar="NAME=VALUE",
            help="A header for the handler.  [repeatable]",
        ),
        click.option(
            "--key",
            metavar="TEXT",
            help="Requests of one service with the same key run once, and share the outcome for ten minutes.",
        ),
        click.option("--worker", metavar="NAME", help="Run it on the worker of this name (its --name), or not at all."),
        settings("c", timeout="--timeout"),
        endpoints("--connect", "The broker."),
        protocol(),
    ]
    return lambda function: reduce(lambda inner, option: option(inner), reversed(options), function)

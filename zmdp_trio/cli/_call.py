"""`zmdp call` and `zmdp stream`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click
import trio

from zmdp_trio import Client, open_client

from ._failures import give_up
from ._output import Output
from ._signals import with_signals
from ._values import as_record, holds_bytes, read_payload, to_json

Options = dict[str, Any]
_Work = Callable[[Client, Any, Output], Awaitable[None]]

_BASE64: Final = "zmdp: the reply holds bytes, shown as base64; --json says which"


def run_call(options: Options) -> int:
    """Call a service and print its final reply.

    Returns:
        The status to exit with.
    """

    async def work(client: Client, payload: Any, output: Output) -> None:
        on_partial = _note_partial if options["partials"] else None
        reply = await client.request(options["service"], payload, **_limits(options), on_partial=on_partial)
        await output.write(_shown("reply", reply, options["json"], pretty=sys.stdout.isatty()))
        if _needs_note(reply, options["json"]):
            click.echo(_BASE64, err=True)

    return _run(options, work)


def run_stream(options: Options) -> int:
    """Call a service and print its partial replies as they come.

    Returns:
        The status to exit with.
    """

    async def work(client: Client, payload: Any, output: Output) -> None:
        async with client.stream(options["service"], payload, **_limits(options)) as stream:
            noted = False
            async for chunk in stream:
                await output.write(_shown("partial", chunk, options["json"]))
                if not noted and _needs_note(chunk, options["json"]):
                    noted = True
                    click.echo(_BASE64, err=True)
        if options["json"]:
            await output.write(_shown("final", stream.final, True))
        elif stream.final is not None:
            click.echo(f"final reply: {_readable(stream.final)}", err=True)

    return _run(options, work)


def _run(options: Options, work: _Work) -> int:
    try:
        payload = read_payload(options["payload"], options["file"], options["raw"])
        signum = trio.run(_connected, options, payload, work)
    except Exception as error:
        return give_up(error, options["endpoints"], json=options["json"])
    return 128 + signum if signum else 0


async def _connected(options: Options, payload: Any, work: _Work) -> int | None:
    """Do the work with a client; a signal cancels it, and so the handler, and a second one does not wait for that."""
    output = Output()

    async def with_client() -> None:
        async with open_client(
            *options["endpoints"], protocol=options["protocol"], settings=options["settings"]
        ) as client:
            with output.scope:
                await work(client, payload, output)

    return await with_signals(lambda: output.run(with_client), output.drop)


def _limits(options: Options) -> dict[str, Any]:
    limits = {name: options[name] for name in ("timeout", "retry", "key", "worker")}
    limits["headers"] = dict(options["headers"]) or None
    if options["deadline"] is not None:
        limits["deadline"] = trio.current_time() + options["deadline"]
    return limits


def _shown(name: str, value: Any, json: bool, *, pretty: bool = False) -> bytes:
    if json:
        return to_json(as_record(name, value)) + b"\n"
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return to_json(value, pretty=pretty) + b"\n"


def _needs_note(value: Any, json: bool) -> bool:
    """Tell whether JSON hides bytes, and nothing beside it says so."""
    return not json and not isinstance(value, bytes | bytearray | memoryview) and holds_bytes(value)


def _readable(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} bytes"
    return to_json(value).decode() + (" (bytes as base64)" if holds_bytes(value) else "")


def _note_partial(value: Any) -> None:
    click.echo(f"partial reply: {_readable(value)}", err=True)

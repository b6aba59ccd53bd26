"""The commands and their options.  What they do is imported when they run, so that `zmdp --help` is quick."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from zmdp_trio import PROTOCOLS, Settings

from ._failures import Failure, exit_codes_help, not_written, usage
from ._options import MAX_RETRY, as_json, endpoints, grace, protocol, request_options, settings
from ._types import Endpoint, Numbers, Seconds, ServiceName, Size, Span, Target


def run(arguments: list[str]) -> int:
    """Run one command.

    Returns:
        The status to exit with, from `EXIT_CODES`.
    """
    try:
        status = zmdp.main(arguments, prog_name="zmdp", standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Failure as failure:
        click.echo(f"zmdp: {failure.line()}", err=True)
        return failure.status
    except BrokenPipeError:
        raise
    except OSError as error:  # of --help and --version: commands explain their own
        unwritten = not_written(error)
        click.echo(f"zmdp: {unwritten.line()}", err=True)
        return unwritten.status
    return status if isinstance(status, int) else 0


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from zmdp_trio import __version__

        click.echo(f"zmdp {__version__}")
        context.exit()


def _keep_logs_quiet() -> None:
    """Write no log lines of the library to stderr: there stands what the command has to say, and nothing else."""
    import logging

    logging.getLogger("zmdp_trio").addHandler(logging.NullHandler())


_Pairs = tuple[tuple[str, float], ...]


def _gather(pairs: _Pairs, **options: float) -> Settings:
    """Make the settings of what --set says and of the options that are settings, too."""
    return Settings(**(dict(pairs) | options))  # type: ignore[arg-type]  # each was checked when it was read


class _InOrder(click.Group):
    """Lists the commands in the order in which they stand here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]}, epilog=exit_codes_help())
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def zmdp() -> None:
    """Services over ZeroMQ, on Trio: run a broker and workers, call services, watch replies stream in.

    \b
    See it at work:       zmdp demo
    Or do it yourself:    zmdp broker
                          zmdp worker my_services
                          zmdp call hello '"World"'
    """


@zmdp.command()
@click.argument("path", required=False, type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@as_json("Print the figures as one JSON object, and nothing else.")
def demo(path: Path | None, json: bool) -> int:
    """See it at work on a real file.

    Starts a broker here and a worker in a process of its own; streams PATH, or a file that it makes; times small
    requests; leaves a stream midway; meets an error.  Nothing is left behind.
    """
    from .demo import run_demo

    return run_demo(path, json=json)


@zmdp.command()
@endpoints("--bind", "Where to listen; tcp://HOST:* takes any free port.")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(PROTOCOLS),
    help="Speak this one, and no other that is not named; again for more.  [default: all]",
)
@grace()
@settings("b", drain_grace="--grace")
@as_json("Print the endpoints as one JSON object when ready.")
def broker(endpoints: tuple[str, ...], protocols: tuple[str, ...], grace: float, settings: _Pairs, json: bool) -> int:
    """Run a broker until Ctrl-C, SIGTERM, or SIGHUP.

    At the first signal it refuses new requests, and lets those that it has finish; a second one ends it now.
    """
    from ._serve import run_broker

    chosen = _gather(settings, drain_grace=grace)
    return run_broker(endpoints, protocols=protocols or None, settings=chosen, json=json)


@zmdp.command()
@click.argument("modules", nargs=-1, required=True, type=Target(), metavar="MODULE[:NAME]...")
@endpoints("--connect", "The broker.")
@protocol()
@click.option("--name", help="What the worker is called in statistics and logs.")
@grace()
@click.option(
    "--blocked-after",
    type=Span(0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Log who blocks the event loop for as long as this; 'inf' for never.",
)
@click.option(
    "--hung-after",
    type=Span(0.01),
    default=math.inf,
    show_default=True,
    metavar="SECONDS",
    help="End the process when its event loop was blocked for as long as this; 'inf' for never.",
)
@settings("wc", drain_grace="--grace", blocked_after="--blocked-after", hung_after="--hung-after")
@as_json("Print the services as one JSON object when ready.")
def worker(
    modules: tuple[str, ...],
    endpoints: tuple[str, ...],
    protocol: str,
    name: str | None,
    grace: float,
    settings: _Pairs,
    json: bool,
    **limits: float,
) -> int:
    """Run a worker until Ctrl-C, SIGTERM, or SIGHUP.

    MODULE is importable, from the current folder too.  All its Service objects are offered, or with :NAME only
    that one, that list, or what that function returns.

    At the first signal it takes no new requests, and lets those that run finish; a second one ends it now.
    """
    from ._serve import run_worker

    chosen = _gather(settings, drain_grace=grace, **limits)
    return run_worker(modules, endpoints, protocol=protocol, name=name, settings=chosen, json=json)


@zmdp.command()
@request_options(timeout=60.0)
@click.option("--partials", is_flag=True, help="Show partial replies on standard error as they come.")
@as_json(
    'Print {"reply": ...} or {"error": {...}}; bytes, and a list of bytes, as base64, with "encoding": "base64"; of '
    'bytes elsewhere "encoding" says where they are, as in {"/name/0": "base64"}.'
)
def call(**options: Any) -> int:
    """Call SERVICE and print its final reply.

    PAYLOAD is JSON; - reads it from standard input, @PATH from a file.  The reply is printed as JSON, or, if it is
    bytes, as it is.

    \b
    zmdp call files.stat '{"path": "README.md"}'
    zmdp call resize --raw @photo.jpg > small.jpg
    """
    from ._call import run_call

    _keep_logs_quiet()
    return run_call(options | {"settings": _gather(options["settings"])})


@zmdp.command()
@request_options(timeout=None)
@as_json(
    'Print a line for each reply: {"partial": ...}, at last {"final": ...} or {"error": {...}}; bytes as in "zmdp call '
    '--json".'
)
def stream(**options: Any) -> int:
    """Call SERVICE and print each partial reply as soon as it comes.

    PAYLOAD is JSON; - reads it from standard input, @PATH from a file.  Replies are printed as JSON, one per line, or,
    if they are bytes, as they are.  The final reply, if there is one, goes to standard error, so that a file stays
    that file.  Ctrl-C, or closing the pipe, cancels the handler.

    \b
    zmdp stream files.read '{"path": "photo.jpg"}' > copy.jpg
    zmdp stream count 1000000 | head
    """
    from ._call import run_stream

    _keep_logs_quiet()
    return run_stream(options | {"settings": _gather(options["settings"])})


@zmdp.command()
@click.argument("services", nargs=-1, type=ServiceName(), metavar="[SERVICE]...")
@click.option(
    "--own-worker",
    is_flag=True,
    help="Measure the way through the broker alone: a worker that is started here, in a process of its own, echoes.",
)
@click.option(
    "--size",
    type=Size(),
    metavar="BYTES",
    help="Send so many bytes, which read as a JSON string, too; also with KiB or MiB behind it.  [default: 16]",
)
@click.option("--payload", metavar="JSON", help="Send this instead; - reads it from standard input, @PATH from a file.")
@click.option("--raw", is_flag=True, help="Send --payload as bytes, as it is, instead of reading it as JSON.")
@click.option("--stream", is_flag=True, help="Read each service's partial replies, and count them.")
@click.option(
    "--in-flight",
    type=Numbers(1, 65_536),
    metavar="N[,N]...",
    help="Requests at once, or at most, with --rate; several are measured one after the other.  [default: 10; 1000]",
)
@click.option(
    "--rate",
    type=Numbers(0.001, 1_000_000.0),
    metavar="N[,N]...",
    help="Requests a second, on a plan that does not wait for replies; several are measured one after the other.",
)
@click.option(
    "--seconds",
    type=Span(0.1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each is measured; 'inf' until Ctrl-C.",
)
@click.option(
    "--warm-up",
    type=Span(),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the same load runs before that, and is not measured.",
)
@click.option(
    "--timeout",
    type=Seconds(),
    default="10",
    metavar="SECONDS",
    help="Longest silence between two replies, and longest wait for the last ones, or 'none'.  [default: 10]",
)
@settings("c", timeout="--timeout")
@endpoints("--connect", "The broker.")
@protocol()
@as_json("Print the figures as one JSON object, and nothing else.")
def bench(**options: Any) -> int:
    """Measure what services do under load: replies a second, and how long each takes.

    Each SERVICE gets the same requests, in turn.  Without --rate there are always --in-flight requests under way: the
    next one is made when one is answered.  If all of them are stuck, nothing is asked, so the latency hardly tells of
    it.  With --rate, requests are due on a plan, and the latency counts from when one was due, though it could not
    be sent in time: what a stall did to users is in it ("coordinated omission" is avoided).

    Rates are of what came within the time, latencies of all answered requests that were made in it.  A service that
    fails at a first call, before the warm-up, fails the command; later errors are counted, and the status is 0 if
    anything was answered.  Ctrl-C ends it, with the figures so far.

    \b
    zmdp bench echo --size 1KiB --in-flight 1,10,100
    zmdp bench files.stat --payload '{"path": "README.md"}' --rate 500
    zmdp bench --own-worker --json
    """
    from .bench import run_bench

    _keep_logs_quiet()
    return run_bench(options | {"settings": _gather(options["settings"])})


@zmdp.command()
@click.option(
    "--bind",
    "binds",
    type=Endpoint(),
    multiple=True,
    metavar="ENDPOINT",
    help="Where REQ clients connect to.  [repeatable]",
)
@click.option("--rep", "server", type=Endpoint(), metavar="ENDPOINT", help="Where a REP server is bound.")
@click.option("--service", type=ServiceName(), required=True, metavar="SERVICE", help="What is called, or offered.")
@endpoints("--connect", "The broker.")
@protocol()
@click.option(
    "--timeout",
    type=Seconds(),
    default="60",
    metavar="SECONDS",
    help="Longest wait for a reply (with --bind, between partial replies), or 'none'.  [default: 60]",
)
@click.option(
    "--retry",
    type=click.IntRange(0, MAX_RETRY),
    metavar="N",
    help="With --bind: run a request again up to N times if its worker or broker is lost.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    metavar="N",
    help="With --rep: requests that the server gets at once.  [default: 1, as a REP socket answers them]",
)
@click.option("--name", help="What it is called in statistics and logs.")
@grace()
@settings("cgw", timeout="--timeout", concurrency="--concurrency", drain_grace="--grace")
@as_json("Print what is served where as one JSON object when ready.")
def gateway(
    binds: tuple[str, ...],
    server: str | None,
    service: str,
    endpoints: tuple[str, ...],
    timeout: float | None,
    retry: int | None,
    concurrency: int | None,
    protocol: str,
    name: str | None,
    grace: float,
    settings: _Pairs,
    json: bool,
) -> int:
    """Let plain REQ clients call a service, or offer a REP server as one, until Ctrl-C, SIGTERM, or SIGHUP.

    With --bind, what REQ clients send there goes to SERVICE, and its replies go back, each client's in order.  With
    --rep, what is asked of SERVICE goes to the REP server, which need not know of it.

    At the first signal it takes no new requests, and lets those that it has finish; a second one ends it now.

    \b
    zmdp gateway --bind tcp://127.0.0.1:60401 --service files.content
    zmdp gateway --rep tcp://127.0.0.1:7000 --service legacy
    """
    from ._serve import run_gateway, run_rep_service

    chosen = _gather(settings, drain_grace=grace, timeout=math.inf if timeout is None else timeout)
    if server is None and binds:
        if concurrency is not None:
            raise usage("--concurrency is for --rep: with --bind the workers say how many requests run at once")
        return run_gateway(
            binds, service, endpoints, retry=retry or 0, protocol=protocol, name=name, settings=chosen, json=json
        )
    if server is None or binds:
        raise usage("give either --bind, for REQ clients, or --rep, for a REP server")
    if retry is not None:
        raise usage("--retry is for --bind: what is asked of a REP server, its callers may retry")
    return run_rep_service(
        server,
        service,
        endpoints,
        concurrency=concurrency or 1,
        protocol=protocol,
        name=name,
        settings=chosen,
        json=json,
    )

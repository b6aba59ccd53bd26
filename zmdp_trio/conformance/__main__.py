"""`python -m zmdp_trio.conformance`: the command line of the checks."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence

import trio

from .._transport import EndpointError
from ._bench import Target
from ._run import JOBS, RFCS, Outcome, Report, check_broker
from ._show import show, to_json
from ._verdict import Unreachable

_EPILOG = """\
exit status: 0 the broker passes all checks; 1 it fails some; 2 it can't be reached, the report
can't be written, or wrong use; 130 Ctrl-C.
The checks use service names of their own, and may run on a broker that is in use; requests that they leave in its
queues are for services that nobody offers."""


#: Descriptors that are enough, also with many jobs; the usual number takes some 700.
_DESCRIPTORS = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The status to exit with.
    """
    options = _parser().parse_args(arguments)
    if sys.stdout is None:
        sys.stderr.write("conformance: standard output is closed\n")
        return 2
    target = Target(options.endpoint, options.workers or options.endpoint, options.heartbeat, options.service_prefix)

    async def check() -> Report:
        rfcs, only = options.rfc or (), options.only or ()
        return await check_broker(target, rfcs=rfcs, only=only, jobs=options.jobs, progress=_progress)

    _allow_sockets()
    try:
        report = trio.run(check)
    except (Unreachable, EndpointError) as error:
        sys.stderr.write(f"conformance: {error}\n")
        return 2
    except BaseException as error:
        if _interrupted(error):
            return 130
        raise
    try:
        if options.json:
            sys.stdout.write(f"{to_json(report)}\n")
        else:
            show(report, sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        # What is left can't be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # or whoever read our output has seen enough
            sys.stderr.write(f"conformance: can't write the report: {error.strerror}\n")
            return 2
    return int(report.count(Outcome.FAIL) > 0)


def _interrupted(error: BaseException) -> bool:
    """Tell whether this is Ctrl-C, which nurseries put into groups."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def _allow_sockets() -> None:
    """Raise the limit on descriptors: of some systems' 256 there would be too few."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zmdp_trio.conformance",
        description="Check a Majordomo broker against RFC 7 (MDP 0.1), RFC 8 (MMI), and RFC 18 (MDP 0.2).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("endpoint", metavar="ENDPOINT", help="the broker's, such as tcp://127.0.0.1:5555")
    parser.add_argument(
        "--workers",
        metavar="ENDPOINT",
        help="where the broker expects workers, if it has a socket of their own for them",
    )
    parser.add_argument(
        "--rfc",
        type=int,
        choices=RFCS,
        action="append",
        help="check this one, also if the broker does not seem to speak it  [repeatable; default: all that it speaks]",
    )
    parser.add_argument(
        "--heartbeat",
        type=_seconds,
        default=2.5,
        metavar="SECONDS",
        help="the broker's heartbeat interval  [default: 2.5]",
    )
    parser.add_argument(
        "--service-prefix",
        default="conformance.",
        metavar="TEXT",
        help="what the names of the services begin with that the checks offer  [default: conformance.]",
    )
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="only these checks, as in '18/worker/*'  [repeatable]"
    )
    parser.add_argument(
        "--jobs", type=_count, default=JOBS, metavar="N", help=f"checks to run at a time  [default: {JOBS}]"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return count


def _progress(done: int, total: int) -> None:
    """Tell how far it is, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} checks" if done < total else "\r\033[K")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

"""The `zmdp` command.  It uses the public package only, and imports what a subcommand needs when that one runs."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

_EXTRAS = {"click", "rich"}


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    atexit.register(_ignore_signals)
    try:
        from ._commands import run

        _let_interrupts_be_caught()
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        _ignore_signals()
        status = 130
    except BrokenPipeError:  # whoever read our output has seen enough
        status = 0
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        sys.exit(f"zmdp: the command needs {error.name}, which is not installed: pip install 'zmdp-trio[cli]'")
    _let_go_of_output()
    sys.exit(status)


def _let_go_of_output() -> None:
    """Drop what can't be written: the interpreter would try again as it ends, complain, and change the status."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _let_interrupts_be_caught() -> None:
    """Have Ctrl-C raise again: until now it may have ended the process at once."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _ignore_signals() -> None:
    """Let no signal change the status any more: while the interpreter is taken down it would kill the process."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

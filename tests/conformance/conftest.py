"""What the tests of conformance share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import over_tcp
import pytest


@pytest.fixture(scope="session", autouse=True)
def examined_over_tcp() -> Iterator[subprocess.Popen[str]]:
    """The examination of our own broker over tcp, which waits most of the time, and in which the other tests go on."""
    command = [sys.executable, "-W", "error", over_tcp.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()

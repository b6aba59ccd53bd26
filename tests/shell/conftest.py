"""What the tests of the shell share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import long_check
import pytest

pytest.register_assert_rewrite("cluster")

from cluster import Cluster, Probe, count, echo, open_cluster  # noqa: E402  only now are its asserts rewritten


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster that offers `echo` and `count`."""
    async with open_cluster(echo, count) as cluster:
        yield cluster


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture(scope="session", autouse=True)
def checked_at_length(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str | None]]:
    """Tells what came of long_check.py for a transport: it goes on in a process of its own beside the other tests."""
    if not any(long_check.CHECK.__name__ in item.name for item in request.session.items):
        yield lambda kind: "it was not begun"
        return
    errors: dict[str, str | None] = {}

    def outcome(kind: str) -> str | None:
        while kind not in errors:
            line = process.stdout.readline()
            assert line, "long_check.py has ended"
            found = json.loads(line)
            errors[found["kind"]] = found["error"]
        return errors[kind]

    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("long_check.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield outcome
        process.kill()

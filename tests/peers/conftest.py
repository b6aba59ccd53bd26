"""What the tests with real peers share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

pytest.register_assert_rewrite("processes")

from processes import Stage  # noqa: E402  only now are its asserts rewritten


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Starts peers; when the test ends all of them are alive that it did not kill, and are ended."""
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        try:
            yield stage
            stage.check()
        finally:
            stage.kill()

"""What the tests with real peers share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

pytest.register_assert_rewrite("outsiders")

from outsiders import Stage  # noqa: E402  only now are its asserts rewritten


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Tell why a test is skipped: of what comes out of nurseries, pytest-trio keeps that it is a skip, and no more."""
    try:
        yield
    except (pytest.skip.Exception, BaseExceptionGroup) as error:
        group = error if isinstance(error, BaseExceptionGroup) else error.__context__
        reasons = skips(group) if isinstance(group, BaseExceptionGroup) else []
        if reasons:
            pytest.skip(reasons[0])
        raise


def skips(group: BaseExceptionGroup[BaseException]) -> list[str]:
    """Return the reasons in a group that is made of skips alone."""
    reasons: list[str] = []
    for each in group.exceptions:
        inner = skips(each) if isinstance(each, BaseExceptionGroup) else reasons_of(each)
        if not inner:
            return []
        reasons += inner
    return reasons


def reasons_of(error: BaseException) -> list[str]:
    return [str(error.msg)] if isinstance(error, pytest.skip.Exception) else []

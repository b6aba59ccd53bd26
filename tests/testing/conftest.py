"""What the harness' own tests share."""

from __future__ import annotations

import pytest

from zmdp_trio.testing import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()

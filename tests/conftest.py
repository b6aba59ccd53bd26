"""What all tests share."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Keep thousands of tests and their modules out of all collections while they run: a seventh of the core's time."""
    gc.collect()
    gc.freeze()

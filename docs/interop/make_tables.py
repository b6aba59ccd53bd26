"""Write the end of interop.md: `make interop`, and read the difference.

What it tells is found by the code of the tests, which compare it with the document.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("core", "conformance", "peers")]

import interop_tables  # noqa: E402  only now is all of it found
import ours  # noqa: E402
import outsiders  # noqa: E402
import pairs  # noqa: E402


def main() -> None:
    """Find out, and write."""
    logging.disable(logging.WARNING)
    interop_tables.write(
        [
            interop_tables.matrix(pairs.single, pairs.streamed),
            interop_tables.peers(outsiders.programs(), outsiders.versions()),
            interop_tables.conformance(*map(ours.examine_in_memory, (ours.STRICT, ours.DEFAULT))),
        ]
    )


main()

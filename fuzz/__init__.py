"""Long runs against the machines and the decoders, in one process and without a network.

    python -m fuzz.steps        100,000 steps of honest and lying peers around a broker, its books held at each
    python -m fuzz.machines     a million messages with mistakes against the broker's, worker's, and client's machine
    python -m fuzz.decoders     coverage-guided, on what reads bytes (needs the extra `fuzz`)

`make fuzz` runs them in full; tests/core runs a short form of each.  What they share with the tests lives there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "core"))

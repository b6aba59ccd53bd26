"""What the tests of the core share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: How many examples a property has that names no number of its own; a long run sets it: see `make fuzz`.
EXAMPLES = os.environ.get("ZMDP_EXAMPLES")

# How long an example takes says more of what else the machine does than of the code.  A short run has the same examples
# each time, so that it fails where the code has changed, and not by chance; a long one has others.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=EXAMPLES is None,
    max_examples=int(EXAMPLES or 50),
)
settings.load_profile("any machine")

"""Check any Majordomo broker against RFC 7 (MDP 0.1), RFC 8 (MMI), and RFC 18 (MDP 0.2), clause by clause.

    python -m zmdp_trio.conformance tcp://127.0.0.1:5555

or, in a program,

    report = trio.run(check_broker, Target("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"))
"""

from __future__ import annotations

from ._bench import Target as Target
from ._clauses import Level as Level
from ._run import RFCS as RFCS
from ._run import Outcome as Outcome
from ._run import Report as Report
from ._run import Result as Result
from ._run import check_broker as check_broker
from ._verdict import Unreachable as Unreachable

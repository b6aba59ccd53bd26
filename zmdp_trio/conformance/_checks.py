"""What a check is, and how the modules of checks name theirs."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from .._wire.majordomo import MDP01, MDP02, Dialect
from ._bench import Bench
from ._clauses import Clause

Body = Callable[[Bench], Awaitable[None]]

#: The dialect of each RFC, and what stands for it in the names of MMI's checks.
DIALECTS: Final = {7: MDP01, 18: MDP02}
_SHORT: Final = {7: "mdp01", 18: "mdp02"}


class Stage(enum.IntEnum):
    """When a check runs: the later, the more likely it is that a broker ends of it."""

    #: What any peer might do, side by side.
    USUAL = 0
    #: Commands that are valid, and not expected or the last ones, side by side.
    UNEXPECTED = 1
    #: Messages that are none, one check at a time.
    INVALID = 2


@attrs.frozen(eq=False)
class Check:
    """One thing that a broker does or does not.

    Attributes:
        id: such as `18/worker/ready-twice`.
        rfc: the RFC that asks for it.
        needs: the RFCs that the broker has to speak for it.
        dialect: the dialect of its peers.
        clause: what the RFC says.
        body: raises `NotAsSpecified` where the broker fails.
        slow: whether it takes several heartbeat intervals.
        stage: when it runs.
    """

    id: str
    rfc: int
    needs: frozenset[int]
    dialect: Dialect
    clause: Clause
    body: Body
    slow: bool = False
    stage: Stage = Stage.USUAL

    @property
    def text(self) -> str:
        """What the RFC says."""
        return self.clause.text[self.rfc]


CHECKS: Final[list[Check]] = []


def check(
    name: str, clause: Clause, *, slow: bool = False, stage: Stage = Stage.USUAL, both: bool = False
) -> Callable[[Body], Body]:
    """Register a check, for each RFC and each dialect that its clause is for; `both` if it takes two dialects."""

    def register(body: Body) -> Body:
        for rfc in clause.text:
            dialects = DIALECTS if rfc == 8 else {rfc: DIALECTS[rfc]}
            for spoken, dialect in dialects.items():
                where = f"8/{_SHORT[spoken]}" if rfc == 8 else f"{rfc}"
                needs = frozenset(DIALECTS) if both else frozenset((rfc, spoken))
                CHECKS.append(Check(f"{where}/{name}", rfc, needs, dialect, clause, body, slow, stage))
        return body

    return register

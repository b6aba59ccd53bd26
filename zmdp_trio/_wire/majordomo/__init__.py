"""The older Majordomo dialects: frames to typed messages and back."""

from __future__ import annotations

from typing import Final as _Final

from .detect import detect as detect
from .detect import is_worker as is_worker
from .dialect import Dialect as Dialect
from .majortomo import MAJORTOMO as MAJORTOMO
from .mdp01 import MDP01 as MDP01
from .mdp02 import MDP02 as MDP02
from .mdp02 import MDP02_ENVELOPED as MDP02_ENVELOPED
from .omdp import OMDP as OMDP
from .pigato import PIGATO as PIGATO
from .rows import Route as Route

#: Every dialect, by its name.
DIALECTS: _Final = {each.name: each for each in (MDP01, MDP02, MDP02_ENVELOPED, MAJORTOMO, OMDP, PIGATO)}

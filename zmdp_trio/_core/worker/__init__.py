"""The worker's machine."""

from .counters import Counters as Counters
from .execution import RUNNING as RUNNING
from .execution import Execution as Execution
from .execution import ExecutionState as ExecutionState
from .machine import WorkerMachine as WorkerMachine
from .requests import WorkerEvent as WorkerEvent

"""The client's machine."""

from .call import NEW as NEW
from .call import OPEN as OPEN
from .call import SENT as SENT
from .call import Call as Call
from .call import CallState as CallState
from .machine import ClientMachine as ClientMachine

"""The client's machine."""

from .call import Call as Call
from .call import CallState as CallState
from .machine import ClientMachine as ClientMachine

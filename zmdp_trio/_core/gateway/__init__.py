"""The gateway's machine."""

from .exchange import Exchange as Exchange
from .exchange import Fate as Fate
from .machine import GatewayMachine as GatewayMachine

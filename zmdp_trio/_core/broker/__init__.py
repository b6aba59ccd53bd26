"""The broker's machine."""

from .job import Job as Job
from .job import JobState as JobState
from .machine import BrokerMachine as BrokerMachine
from .service import Counters as Counters
from .service import Service as Service

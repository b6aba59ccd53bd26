"""Drives a machine over ports, bound or dialled: the one pump, and the only reader of Trio's clock."""

from .bound import BoundEngine as BoundEngine
from .dialled import DialEngine as DialEngine
from .pace import Pace as Pace
from .post import Post as Post
from .pump import Engine as Engine
from .pump import clock as clock
from .pump import transport_options as transport_options

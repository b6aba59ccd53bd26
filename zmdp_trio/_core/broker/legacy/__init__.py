"""The broker's side of peers that speak an older dialect: what a `Link` is for our own."""

from .client import LegacyClient as LegacyClient
from .peer import Finder as Finder
from .peer import LegacyPeer as LegacyPeer
from .replies import GiveUp as GiveUp
from .worker import LegacyWorker as LegacyWorker
from .worker import NotReady as NotReady

"""Brokered services for Trio: decorate a function, call it from anywhere, cancel it from anywhere.

from zmdp_trio import open_client, serve_broker, serve_worker, service
"""

from __future__ import annotations

from ._broker import Broker as Broker
from ._broker import BrokerStatistics as BrokerStatistics
from ._broker import ServiceStatistics as ServiceStatistics
from ._broker import open_broker as open_broker
from ._broker import serve_broker as serve_broker
from ._client import Client as Client
from ._client import ClientStatistics as ClientStatistics
from ._client import open_client as open_client
from ._errors import BrokerLost as BrokerLost
from ._errors import Code as Code
from ._errors import DeadlineExceeded as DeadlineExceeded
from ._errors import InvalidArgument as InvalidArgument
from ._errors import MessageTooLarge as MessageTooLarge
from ._errors import Overloaded as Overloaded
from ._errors import Reject as Reject
from ._errors import RequestCancelled as RequestCancelled
from ._errors import RequestError as RequestError
from ._errors import RequestRejected as RequestRejected
from ._errors import ServiceError as ServiceError
from ._errors import ServiceNotFound as ServiceNotFound
from ._errors import Unavailable as Unavailable
from ._errors import WorkerLost as WorkerLost
from ._gateway import Gateway as Gateway
from ._gateway import GatewayStatistics as GatewayStatistics
from ._gateway import open_gateway as open_gateway
from ._gateway import serve_gateway as serve_gateway
from ._rep import open_rep_service as open_rep_service
from ._request import Request as Request
from ._request import SyncRequest as SyncRequest
from ._service import Final as Final
from ._service import Service as Service
from ._service import service as service
from ._settings import Settings as Settings
from ._stream import ReplyStream as ReplyStream
from ._transport import EndpointError as EndpointError
from ._wire.protocols import PROTOCOLS as PROTOCOLS
from ._worker import Worker as Worker
from ._worker import WorkerServiceStatistics as WorkerServiceStatistics
from ._worker import WorkerStatistics as WorkerStatistics
from ._worker import open_worker as open_worker
from ._worker import serve_worker as serve_worker

__version__ = "0.1.0"

__all__ = [
    "PROTOCOLS",
    "Broker",
    "BrokerLost",
    "BrokerStatistics",
    "Client",
    "ClientStatistics",
    "Code",
    "DeadlineExceeded",
    "EndpointError",
    "Final",
    "Gateway",
    "GatewayStatistics",
    "InvalidArgument",
    "MessageTooLarge",
    "Overloaded",
    "Reject",
    "ReplyStream",
    "Request",
    "RequestCancelled",
    "RequestError",
    "RequestRejected",
    "Service",
    "ServiceError",
    "ServiceNotFound",
    "ServiceStatistics",
    "Settings",
    "SyncRequest",
    "Unavailable",
    "Worker",
    "WorkerLost",
    "WorkerServiceStatistics",
    "WorkerStatistics",
    "open_broker",
    "open_client",
    "open_gateway",
    "open_rep_service",
    "open_worker",
    "serve_broker",
    "serve_gateway",
    "serve_worker",
    "service",
]

# What users see in help() and in tracebacks is where they import it from.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith(__name__ + "."):
        globals()[_name].__module__ = __name__
del _name

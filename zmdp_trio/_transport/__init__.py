"""Networks that carry messages: ZeroMQ (`tcp://`, `ipc://`, `inproc://`) and one in memory (`memory://`).

    port = listen("tcp://127.0.0.1:*", options=Options())
    port = dial(endpoint, Options())

The rest of the package imports from here only.  pyzmq is loaded when the first ZeroMQ endpoint is opened, so that
programs and tests that stay in memory never need it.
"""

from __future__ import annotations

from typing import Final

from .._wire.frames import Frame as Frame
from .._wire.frames import Frames as Frames
from ._seam import DIALLED as DIALLED
from ._seam import Connected as Connected
from ._seam import EndpointError as EndpointError
from ._seam import Lost as Lost
from ._seam import Options as Options
from ._seam import PeerGone as PeerGone
from ._seam import Port as Port
from ._seam import Received as Received
from ._seam import attend as attend

MAX_PORT: Final = 65_535
_SCHEMES: Final = ("tcp", "ipc", "inproc", "memory")


def listen(*endpoints: str, options: Options) -> Port:
    """Bind one port to all the endpoints; a `*` in one stands for an address that is free.

    Raises:
        EndpointError: an endpoint is malformed, in use, or not permitted, or memory and ZeroMQ are mixed.
    """
    if not endpoints:
        raise EndpointError("nothing to listen on: no endpoint was given")
    in_memory = {_scheme(endpoint) == "memory" for endpoint in endpoints}
    if len(in_memory) > 1:
        raise EndpointError(f"{', '.join(endpoints)}: one port can't be both in memory and on ZeroMQ")
    if in_memory == {True}:
        from . import memory

        return memory.listen(*endpoints, options=options)
    from . import zmq

    return zmq.listen(*endpoints, options=options)


def dial(endpoint: str, options: Options) -> Port:
    """Open a port to one endpoint; `Connected` or `Lost` arrives on it when the outcome is known.

    Raises:
        EndpointError: the endpoint is malformed or has a `*` in it, or the process has no file descriptors left.
    """
    scheme = _scheme(endpoint)
    if _has_wildcard(endpoint):
        raise EndpointError(f"{endpoint}: can't dial a wildcard; name the address that the broker is bound to")
    if scheme == "memory":
        from . import memory

        return memory.dial(endpoint, options)
    from . import zmq

    return zmq.dial(endpoint, options)


def _has_wildcard(endpoint: str) -> bool:
    scheme, _, address = endpoint.partition("://")
    if scheme != "tcp":
        return address == "*"
    return "*" in address.rpartition(";")[2].rpartition(":")[::2]  # before a semicolon stands our own side's address


def _scheme(endpoint: str) -> str:
    if not isinstance(endpoint, str):
        raise EndpointError(f"{endpoint!r}: an endpoint is a string, and several are several arguments")
    scheme, separator, address = endpoint.partition("://")
    if not separator or not address or scheme not in _SCHEMES:
        forms = "tcp://host:port, ipc://path, inproc://name, memory://name"
        raise EndpointError(f"{endpoint}: not an endpoint; expected one of {forms}")
    if scheme == "tcp":
        host, _, port = address.rpartition(":")
        if not host:
            raise EndpointError(f"{endpoint}: the port is missing; expected tcp://host:port")
        if port.isdecimal() and int(port) > MAX_PORT:
            # libzmq would take the number modulo 2**16.
            raise EndpointError(f"{endpoint}: there is no port above {MAX_PORT}")
    return scheme

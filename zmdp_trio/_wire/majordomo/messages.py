"""What the older Majordomo dialects can say, whatever their frames: the messages of clients, workers, and brokers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..frames import Frame


class Message(msgspec.Struct, gc=False):
    """One message.  A field that a dialect has no frame for is empty.

    A body is one frame or more; where the dialect's `json` is set, one frame of JSON.  Whether it is JSON nobody has
    looked: errors and options neither.
    """


class Ready(Message):
    """A worker offers a service; from a PIGATO broker, without a name: it is registered."""

    service: str = ""


class Request(Message):
    """Run a service: from a client, and from the broker to a worker."""

    body: Sequence[Frame]
    service: str = ""
    #: Chosen by the client; a broker of ours gives a worker an id of its own.
    id: bytes = b""
    #: To a worker: whom the reply is for.
    client: bytes = b""
    #: JSON object.
    options: Frame = b""


class Partial(Message):
    """A partial reply."""

    body: Sequence[Frame]
    service: str = ""
    id: bytes = b""
    client: bytes = b""
    options: Frame = b""


class Final(Message):
    """The final reply."""

    body: Sequence[Frame]
    service: str = ""
    id: bytes = b""
    client: bytes = b""
    options: Frame = b""


class Failure(Message):
    """The request ended with an error, any JSON value."""

    error: Frame
    id: bytes = b""
    client: bytes = b""


class Reject(Message):
    """A worker will not run this request, another one may."""

    error: Frame = b"null"
    id: bytes = b""
    client: bytes = b""


class Heartbeat(Message):
    """A sign of life: of a peer, or with an id, of whoever waits for that request."""

    id: bytes = b""
    client: bytes = b""
    #: From a worker: JSON object.
    options: Frame = b""


class Disconnect(Message):
    """The sender leaves; or, from a broker, knows this worker no more, which is to start over."""

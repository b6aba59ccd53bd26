"""The frames of MDP 0.1 (RFC 7) and 0.2 (RFC 18), after the letter of the two documents."""

from __future__ import annotations

import attrs


@attrs.frozen
class Version:
    #: What stands before the header.
    route: tuple[bytes, ...]
    client: bytes
    worker: bytes
    #: What stands between the client's header and the service.
    client_request: tuple[bytes, ...]
    client_partial: bytes | None
    client_final: bytes | None
    ready: bytes
    request: bytes
    partial: bytes | None
    final: bytes
    heartbeat: bytes
    disconnect: bytes


VERSIONS = {
    "0.1": Version(
        route=(b"",),
        client=b"MDPC01",
        worker=b"MDPW01",
        client_request=(),
        client_partial=None,
        client_final=None,
        ready=b"\x01",
        request=b"\x02",
        partial=None,
        final=b"\x03",
        heartbeat=b"\x04",
        disconnect=b"\x05",
    ),
    "0.2": Version(
        route=(),
        client=b"MDPC02",
        worker=b"MDPW02",
        client_request=(b"\x01",),
        client_partial=b"\x02",
        client_final=b"\x03",
        ready=b"\x01",
        request=b"\x02",
        partial=b"\x03",
        final=b"\x04",
        heartbeat=b"\x05",
        disconnect=b"\x06",
    ),
}

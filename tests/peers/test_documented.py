"""docs/interop.md names the peers that the tests start."""

from __future__ import annotations

import json

import interop_tables
from outsiders import NODE, programs

TEXT, VERSIONS = interop_tables.versions_apart(interop_tables.written()[interop_tables.PEERS])


def test_peers() -> None:
    assert interop_tables.versions_apart(interop_tables.peers(programs(), VERSIONS)) == (TEXT, VERSIONS)


def test_a_version_that_is_prescribed() -> None:
    """The others may be newer than those of the document's last run."""
    assert list(VERSIONS) == ["PIGATO", "zeromq", "Node", "majortomo", "pyzmq", "libzmq"]
    package = json.loads((NODE / "package.json").read_text())
    assert VERSIONS["PIGATO"] == package["dependencies"]["pigato"]

"""What a broker is set to speak, it speaks, and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import pytest
from cluster import echo

from zmdp_trio import PROTOCOLS, BrokerLost, DeadlineExceeded, open_broker, open_client, open_worker


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_one_protocol_alone(protocol: str, autojump_clock: Any) -> None:
    endpoint = f"memory://{secrets.token_hex(4)}"
    async with (
        open_broker(endpoint, protocols=[protocol]) as broker,
        open_worker([echo], endpoint, protocol=protocol),
        open_client(endpoint, protocol=protocol) as client,
    ):
        assert await client.request("echo", {"a": 1}) in ({"a": 1}, b'{"a":1}')
        assert broker.statistics().protocol_errors == 0
        for other in PROTOCOLS:
            if other != protocol:
                async with open_client(endpoint, protocol=other, connect=1) as stranger:
                    with pytest.raises((BrokerLost, DeadlineExceeded)):
                        await stranger.request("echo", {"a": 1}, timeout=2)
        assert broker.statistics().total.received == 1


@pytest.mark.parametrize(("protocols", "complaint"), [(["mdp"], "'mdp' is no protocol"), ([], "no protocol is left")])
async def test_an_unknown_protocol(protocols: Sequence[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"{complaint}: choose from zmdp/1, mdp/0.1, "):
        async with open_broker("memory://never", protocols=protocols):
            raise AssertionError("unreachable")

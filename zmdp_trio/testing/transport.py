"""Checks that any transport must pass; for those who write one.

    transport = Transport(listen=listen, dial=dial, endpoint=lambda: "carrier-pigeon://*")

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_the_transport(check):
        await check(transport)

A transport is two functions, `listen` and `dial`, which return a `Port`.  A check raises `AssertionError` where the
port breaks a promise, and `trio.TooSlowError` where it hangs.  What `Transport` says the transport does not have is not
checked.
"""

from __future__ import annotations

from .._transport import DIALLED as DIALLED
from .._transport import Connected as Connected
from .._transport import EndpointError as EndpointError
from .._transport import Lost as Lost
from .._transport import Options as Options
from .._transport import PeerGone as PeerGone
from .._transport import Port as Port
from .._transport import attend as attend
from ._checks import CHECKS as CHECKS
from ._checks import Check as Check
from ._checks import Endurance as Endurance
from ._checks import Transport as Transport
from ._checks import check_random_cancellation as check_random_cancellation

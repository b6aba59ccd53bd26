"""Checks: what can be bound and dialled, and what not."""

from __future__ import annotations

from ..._transport import DIALLED, EndpointError, Lost, PeerGone
from .ends import OPTIONS, Transport, running
from .suite import check, refused


@check
async def where_nobody_listens_the_connection_is_lost(transport: Transport) -> None:
    if transport.nobody is None:
        return
    dialled = transport.call(transport.nobody)
    async with running(dialled):
        peer, what = await dialled.get()
        assert peer == DIALLED
        assert isinstance(what, Lost)
        assert what.reason
        with refused(PeerGone):
            dialled.port.send(DIALLED, [b"x"])


@check
async def one_port_may_have_several_endpoints(transport: Transport) -> None:
    bound = transport.bind(endpoints=2)
    bound.echo = True
    first, second = bound.port.endpoints
    assert first != second
    dialled = [transport.call(first), transport.call(second)]
    async with running(bound, *dialled):
        for end in dialled:
            await end.get_connected()
            end.post(DIALLED, b"x", b"y")
            assert await end.get_frames() == [b"x", b"y"]


@check
async def an_endpoint_that_is_in_use_is_refused(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, _):
        address = bound.port.endpoints[0]
        with refused(EndpointError, says=address):
            transport.listen(address, options=OPTIONS)
        dialled.post(DIALLED, b"the first one still works")
        assert await bound.get_frames() == [b"the first one still works"]


@check
async def an_endpoint_can_be_bound_again_after_its_port_closed(transport: Transport) -> None:
    async with transport.pair() as (bound, dialled, _):
        address = bound.port.endpoints[0]
        bound.port.close()
        assert await dialled.get_lost() == DIALLED
        transport.listen(address, options=OPTIONS).close()

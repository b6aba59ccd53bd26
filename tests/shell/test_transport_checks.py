"""The checks of transports find what they are meant to find: each fault here is caught by the check for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from zmdp_trio._transport import dial, listen
from zmdp_trio._wire.frames import Frame
from zmdp_trio.testing.transport import (
    CHECKS,
    Lost,
    Options,
    PeerGone,
    Port,
    Transport,
    check_random_cancellation,
)


class Flawed:
    """A port in memory; the subclasses break one promise each."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self.endpoints = port.endpoints

    def receive(self) -> Sequence[tuple[bytes, object]]:
        return self._port.receive()

    def settled(self) -> bool:
        return self._port.settled()

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        return self._port.send(peer, frames)

    async def wait(self) -> bool:
        try:
            return await self._port.wait()
        except trio.Cancelled:
            self.cancelled()
            raise

    def recall(self) -> None:
        self._port.recall()

    def cancelled(self) -> None:
        """What goes wrong when `wait` is cancelled."""

    def close(self) -> None:
        self._port.close()


class Loses(Flawed):
    def cancelled(self) -> None:
        self._port.receive()


class Doubles(Flawed):
    last: Sequence[tuple[bytes, object]] = ()
    again = False

    def receive(self) -> Sequence[tuple[bytes, object]]:
        if self.again and self.last:
            self.again = False
            return self.last
        self.last = self._port.receive()
        return self.last

    def cancelled(self) -> None:
        self.again = True


class Tears(Flawed):
    torn = False

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        if self.torn and len(frames) > 1:
            self.torn = False
            frames = frames[:-1]
        return self._port.send(peer, frames)

    def cancelled(self) -> None:
        self.torn = True


class Stalls(Flawed):
    """Believes that whoever waited before has seen to what had come by then."""

    deaf = False

    async def wait(self) -> bool:
        news = await super().wait()
        if self.deaf:
            self.deaf = False
            news = await super().wait()
        return news

    def cancelled(self) -> None:
        self.deaf = True


class KeepsLossesToItself(Flawed):
    def receive(self) -> Sequence[tuple[bytes, object]]:
        return [each for each in self._port.receive() if not isinstance(each[1], Lost)]


class TellsOfLossesFirst(Flawed):
    def receive(self) -> Sequence[tuple[bytes, object]]:
        return sorted(self._port.receive(), key=lambda each: not isinstance(each[1], Lost))


class TakesAll(Flawed):
    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.waiting: list[tuple[bytes, Sequence[Frame]]] = []

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        if not self._port.send(peer, frames):
            self.waiting.append((peer, frames))
        return True


class IgnoresTheUnknown(Flawed):
    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        try:
            return self._port.send(peer, frames)
        except PeerGone:
            return True


class Garbles(Flawed):
    """Lets nothing through unchanged but the greeting: both directions are wrong from the first message on."""

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        return self._port.send(peer, frames if frames[0] == b"hello" else [b"garbled"])


class BreaksWhenItIsCancelled(IgnoresTheUnknown):
    def cancelled(self) -> None:
        raise ExceptionGroup("from a nursery of its own", [OSError("one"), OSError("two")])


class HasNoNews(Flawed):
    async def wait(self) -> bool:
        await trio.sleep_forever()
        return True


class IgnoresRecalls(Flawed):
    def recall(self) -> None:
        pass


class ForgetsWhatCameWhenItIsRecalled(Flawed):
    def recall(self) -> None:
        self._port.receive()
        self._port.recall()


def flawed(flaw: type[Flawed]) -> Transport:
    return Transport(
        listen=lambda *endpoints, options: flaw(listen(*endpoints, options=options)),  # type: ignore[arg-type, return-value]
        dial=lambda endpoint, options: flaw(dial(endpoint, options)),  # type: ignore[arg-type, return-value]
        endpoint=lambda: "memory://*",
    )


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [(Loses, "not message|stuck"), (Doubles, "not message"), (Tears, "not message"), (Stalls, "stuck")],
)
async def test_what_a_cancellation_may_not_do(flaw: type[Flawed], complaint: str, autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await check_random_cancellation(flawed(flaw))


async def test_two_faults_at_once_are_one_error(autojump_clock: MockClock) -> None:
    notes: list[str] = []
    for seed in range(30):  # which of the two comes first, and whether the other still comes then, is chance
        with pytest.raises(AssertionError, match="not message 0") as caught:
            await check_random_cancellation(flawed(Garbles), seed=seed)
        notes += getattr(caught.value, "__notes__", ())
    assert set(notes) == {"""At the same time: AssertionError("not message 0: b'garbled'")"""}


async def test_a_greeting_that_does_not_come_is_stuck(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="the greeting is stuck"):
        await check_random_cancellation(flawed(HasNoNews))


@pytest.mark.parametrize(
    ("flaw", "name", "error"),
    [
        (KeepsLossesToItself, "the_bound_side_learns_that_a_peer_closed", trio.TooSlowError),
        (KeepsLossesToItself, "every_peer_that_comes_and_goes_is_told_of_once", trio.TooSlowError),
        (TellsOfLossesFirst, "what_came_before_the_loss_is_delivered_late_too", AssertionError),
        (TakesAll, "a_full_queue_refuses_and_then_wakes", AssertionError),
        (IgnoresRecalls, "a_wait_that_is_recalled_returns", trio.TooSlowError),
        (ForgetsWhatCameWhenItIsRecalled, "what_comes_while_a_wait_is_recalled_is_not_missed", trio.TooSlowError),
        (IgnoresTheUnknown, "sending_to_an_unknown_peer_is_an_error", AssertionError),
    ],
)
async def test_a_broken_promise_is_found(
    flaw: type[Flawed], name: str, error: type[Exception], autojump_clock: MockClock
) -> None:
    (check,) = (check for check in CHECKS if check.__name__ == name)
    with pytest.raises(error):
        await check(flawed(flaw))


async def test_a_broken_promise_goes_before_what_the_ports_raise_beside_it(autojump_clock: MockClock) -> None:
    (check,) = (check for check in CHECKS if check.__name__ == "sending_to_an_unknown_peer_is_an_error")
    with pytest.raises(AssertionError, match="PeerGone was to be raised") as caught:
        await check(flawed(BreaksWhenItIsCancelled))
    assert caught.value.__notes__ == ["At the same time: OSError('one')", "At the same time: OSError('two')"] * 2


async def test_one_of_many_errors_of_the_ports_comes_out(autojump_clock: MockClock) -> None:
    with pytest.raises(OSError, match=r"one|two"):
        async with flawed(BreaksWhenItIsCancelled).pair() as (bound, _, _):
            bound.post(b"nobody", b"x")


async def test_a_port_is_given_the_options(autojump_clock: MockClock) -> None:
    transport = flawed(Flawed)
    async with transport.pair(Options(max_frame=10)) as (bound, dialled, peer):
        bound.post(peer, bytes(11))
        assert await dialled.get_lost() == b""

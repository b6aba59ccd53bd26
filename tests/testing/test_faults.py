"""Faults on demand: late messages, and seeded chance."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from zmdp_trio._transport import DIALLED, Lost, Options, attend
from zmdp_trio._transport.memory import dial, listen
from zmdp_trio.testing import Faults, Hook, Late, VirtualClock, current_network, host

NAME = "memory://broker"
OPTIONS = Options(heartbeat=2.0, misses=3)


class Ends:
    """A bound port and one that has dialled it, and what arrives at the bound one, when."""

    def __init__(self) -> None:
        self.bound = listen(NAME, options=OPTIONS)
        self.dialled = dial(NAME, OPTIONS)
        self.arrived: list[tuple[float, Any]] = []

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend, self.bound, self._take)
            nursery.start_soon(attend, self.dialled, self._ignore)

    def _ignore(self) -> None:
        self.dialled.receive()

    def _take(self) -> None:
        for _, what in self.bound.receive():
            self.arrived.append((trio.current_time(), what[0] if isinstance(what, list) else type(what)))


async def arrivals(hook: Hook | None, *messages: bytes, then: Any = None) -> list[tuple[float, Any]]:
    """Greet, send messages under a hook, and return what arrived within ten seconds."""
    ends = Ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.run)
        await trio.testing.wait_all_tasks_blocked()
        assert ends.dialled.send(DIALLED, [b"hello"])
        await trio.testing.wait_all_tasks_blocked()
        current_network().hook = hook
        for message in messages:
            assert ends.dialled.send(DIALLED, [message])
        if then is not None:
            then(current_network(), ends)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert ends.arrived[0] == (0, b"hello")
    return ends.arrived[1:]


def only(which: bytes, delay: float) -> Hook:
    """A hook that delays one message."""
    return lambda source, target, frames: (delay if frames[0] == which else 0,)


async def test_a_delay_holds_up_what_comes_behind(clock: VirtualClock) -> None:
    assert await arrivals(only(b"a", 1.5), b"a", b"b") == [(1.5, b"a"), (1.5, b"b")]


async def test_what_is_late_is_overtaken(clock: VirtualClock) -> None:
    assert await arrivals(only(b"a", Late(1.5)), b"a", b"b", b"c") == [(0, b"b"), (0, b"c"), (1.5, b"a")]


async def test_what_is_late_waits_for_what_was_sent_before(clock: VirtualClock) -> None:
    hook = lambda source, target, frames: (2 if frames[0] == b"a" else Late(1),)  # noqa: E731
    assert await arrivals(hook, b"a", b"b") == [(2, b"a"), (2, b"b")]


async def test_the_end_of_a_connection_comes_last(clock: VirtualClock) -> None:
    arrived = await arrivals(only(b"a", Late(1.5)), b"a", b"b", then=lambda network, ends: network.kill(ends.dialled))
    assert arrived == [(0, b"b"), (1.5, b"a"), (1.5, Lost)]


async def test_nothing_comes_after_a_silence_was_told(clock: VirtualClock) -> None:
    """What was under way when the partition began may come later than the silence lasts."""
    arrived = await arrivals(
        only(b"a", Late(8)), b"a", b"b", then=lambda network, ends: network.partition([ends.bound], [ends.dialled])
    )
    assert arrived == [(0, b"b"), (OPTIONS.silence, Lost)]


async def test_ports_are_called_by_their_host(clock: VirtualClock) -> None:
    bound = listen(NAME, options=OPTIONS)
    host.set("north")
    assert (bound.name, dial(NAME, OPTIONS).name) == (NAME, "north")


async def test_something_is_on_one_side_of_a_partition(clock: VirtualClock) -> None:
    network, bound = current_network(), listen(NAME, options=OPTIONS)
    network.partition([bound, NAME, NAME], ["nobody yet"])
    before = network._groups
    with pytest.raises(ValueError, match="'north' is in two groups"):
        network.partition(["north"], [NAME], ["south", "north"])
    with pytest.raises(TypeError, match="a group is a list of ports or names, not 'north'"):
        network.partition([NAME], "north")
    assert network._groups is before


# ---- chance


def fates(faults: Faults, number: int = 10_000) -> list[list[float]]:
    port: Any = None
    return [list(faults(port, port, [b""])) for _ in range(number)]


def test_without_faults_all_arrives_at_once() -> None:
    assert fates(Faults(), 100) == [[0]] * 100


def test_the_same_seed_does_the_same() -> None:
    def harm(seed: int) -> Faults:
        return Faults(seed=seed, drop=0.1, double=0.1, reorder=0.1, delay=(0.1, 0.2))

    assert fates(harm(1)) == fates(harm(1)) != fates(harm(2))


def test_the_shares_are_kept_and_counted() -> None:
    faults = Faults(drop=0.1, double=0.2, reorder=0.3, delay=(1, 2), late=3)
    all_of_them = fates(faults)
    copies = [copy for fate in all_of_them for copy in fate]
    late = [copy for copy in copies if type(copy) is Late]
    assert faults.dropped == all_of_them.count([]) == pytest.approx(1_000, rel=0.2)
    assert faults.doubled == sum(len(fate) == 2 for fate in all_of_them) == pytest.approx(1_800, rel=0.2)
    assert faults.reordered == len(late) == pytest.approx(0.3 * len(copies), rel=0.2)
    assert 1 <= min(copies) <= max(set(copies) - set(late)) <= 2 < max(late) <= 5


def test_a_delay_may_be_one_number() -> None:
    assert fates(Faults(delay=1.5), 100) == [[1.5]] * 100


@pytest.mark.parametrize(
    "wrong",
    [
        *({"drop": -0.1}, {"double": 1.1}, {"reorder": 7}, {"late": -1}),
        *({"delay": (2, 1)}, {"delay": (-1, 1)}, {"delay": -1}, {"delay": (1,)}, {"delay": (1, 2, 3)}),
    ],
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Faults(**wrong)

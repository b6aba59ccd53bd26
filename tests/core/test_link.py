"""Links: every command exactly once and in order, whatever the pipe between them does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stage import outgoing

from zmdp_trio._core import link as links
from zmdp_trio._core.link import ACK_BATCHES, ACK_BYTES, WINDOW_BATCHES, WINDOW_BYTES, Link
from zmdp_trio._core.weights import COMMAND_BYTES, headers_size, weight
from zmdp_trio._errors import ProtocolError
from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1


class End:
    """One end of a session: its link, and what has come of the other end's commands."""

    def __init__(self) -> None:
        self.dirty: list[Link] = []
        self.link = Link(self.dirty)
        self.heard: list[int] = []
        self.said = 0

    def say(self, size: int = 0) -> None:
        self.said += 1
        self.link.put(c.Partial(self.said, 0, bytes(size)), size)

    def messages(self) -> Iterator[list[Any]]:
        dirty, self.dirty[:] = self.dirty[:], []
        for _, frames in outgoing(dirty):
            yield frames

    def hear(self, frames: list[Any]) -> None:
        for command in self.link.receive(frames)[1:]:
            if isinstance(command, c.Partial):
                self.heard.append(command.id)

    def beat(self) -> None:
        self.link.beat()


def join(*ends: End) -> None:
    """Give the two ends a new connection."""
    here, there = ends
    received = there.link.received, here.link.received
    for end, number in zip(ends, received, strict=True):
        end.link.close()
        end.link.open("peer", number)


def pair() -> tuple[End, End]:
    ends = End(), End()
    join(*ends)
    return ends


def exchange(here: End, there: End) -> int:
    """Pass on all that is ready, until both are quiet; return the number of messages."""
    passed = 0
    moved = True
    while moved:
        moved = False
        for sender, receiver in ((here, there), (there, here)):
            for frames in sender.messages():
                receiver.hear(frames)
                passed += 1
                moved = True
    return passed


# ---- the property


class LossyPipe(RuleBasedStateMachine):
    """Two links over a pipe that drops, doubles, reorders, delays, and breaks."""

    @initialize(window=st.sampled_from([2, 5, 256]), size=st.sampled_from([300, 5_000, WINDOW_BYTES]))
    def prepare(self, window: int, size: int) -> None:
        self.patch = mock.patch.multiple(links, WINDOW_BATCHES=window, WINDOW_BYTES=size)
        self.patch.start()
        self.window = window
        self.ends = pair()
        self.pipes: tuple[deque[Any], deque[Any]] = (deque(), deque())

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.heal()
            self.patch.stop()

    @rule(side=st.integers(0, 1), sizes=st.lists(st.sampled_from([0, 10, 200, 9_000]), min_size=1, max_size=5))
    def say(self, side: int, sizes: list[int]) -> None:
        for size in sizes:
            self.ends[side].say(size)

    @rule(side=st.integers(0, 1))
    def send(self, side: int) -> None:
        self.pipes[side].extend(self.ends[side].messages())

    @rule(side=st.integers(0, 1), count=st.integers(1, 5))
    def deliver(self, side: int, count: int) -> None:
        for _ in range(min(count, len(self.pipes[side]))):
            self.ends[1 - side].hear(self.pipes[side].popleft())

    @rule(side=st.integers(0, 1), which=st.integers(0, 10))
    def drop(self, side: int, which: int) -> None:
        if which < len(self.pipes[side]):
            del self.pipes[side][which]

    @rule(side=st.integers(0, 1))
    def drop_all(self, side: int) -> None:
        self.pipes[side].clear()

    @rule(side=st.integers(0, 1), which=st.integers(0, 10))
    def double(self, side: int, which: int) -> None:
        if which < len(self.pipes[side]):
            self.pipes[side].append(self.pipes[side][which])

    @rule(side=st.integers(0, 1), by=st.integers(-3, 3))
    def reorder(self, side: int, by: int) -> None:
        self.pipes[side].rotate(by)

    @rule(side=st.integers(0, 1))
    def beat(self, side: int) -> None:
        self.ends[side].beat()

    @rule()
    def break_and_join(self) -> None:
        for pipe in self.pipes:
            pipe.clear()
        join(*self.ends)

    @invariant()
    def nothing_is_doubled_or_out_of_order(self) -> None:
        if hasattr(self, "ends"):
            for here, there in (self.ends, self.ends[::-1]):
                assert here.heard == list(range(1, len(here.heard) + 1))
                assert len(here.heard) <= there.said

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        if hasattr(self, "ends"):
            for end in self.ends:
                sent = [number for number, _, _ in end.link._unacked]
                assert sent == list(range(end.link.sent - len(sent) + 1, end.link.sent + 1))

    def heal(self) -> None:
        """Without any more faults, a few heartbeats bring everything over."""
        for side, pipe in enumerate(self.pipes):
            while pipe:
                self.ends[1 - side].hear(pipe.popleft())
        exchange(*self.ends)
        for _ in range(4 + sum(end.said for end in self.ends)):
            for end in self.ends:
                end.beat()
            exchange(*self.ends)
        for here, there in (self.ends, self.ends[::-1]):
            assert there.heard == list(range(1, here.said + 1))
            assert not here.link.outbox
            assert here.link.outbox_bytes == here.link._unacked_bytes == 0 or here.link.held_bytes <= COMMAND_BYTES


TestLossyPipe = LossyPipe.TestCase
TestLossyPipe.settings = settings(stateful_step_count=40)


# ---- stories


def test_commands_arrive_in_order_and_share_a_message() -> None:
    here, there = pair()
    for _ in range(100):
        here.say()
    assert exchange(here, there) == 1
    assert there.heard == list(range(1, 101))


def test_large_bodies_travel_in_frames_of_their_own() -> None:
    here, there = pair()
    here.say(zmdp1.INLINE)
    here.say(zmdp1.INLINE + 1)
    [frames] = here.messages()
    assert [len(frame) for frame in frames[2:]] == [zmdp1.INLINE + 1]
    there.hear(frames)
    assert there.heard == [1, 2]
    here.say(1)
    [frames] = here.messages()
    assert len(frames) == 2


def test_nothing_numbered_is_sent_before_the_greetings_are_exchanged() -> None:
    end = End()
    end.link.peer = "peer"
    end.say()
    end.link.put_uncounted(c.Goodbye())
    [frames] = end.messages()
    assert zmdp1.decode(frames)[0] == [c.Batch(0, 0), c.Goodbye()]


def test_a_message_that_the_transport_did_not_take_is_offered_again() -> None:
    here, _ = pair()
    here.say()
    frames = here.link.next_batch()
    assert here.link.next_batch() is frames
    here.link.batch_sent()
    assert here.link.next_batch() is None


def test_a_batch_is_capped_in_bytes() -> None:
    here, _ = pair()
    for _ in range(100):
        here.say(8 * 2**10)
    sizes = [sum(map(len, frames)) for frames in here.messages()]
    assert len(sizes) == 4
    assert all(size <= zmdp1.BATCH + 9 * 2**10 for size in sizes)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c.Request(1, "s" * 255, 0, b"", 0, 0, headers={"h": "\N{PILE OF POO}" * 4000}), id="headers"),
        pytest.param(c.Request(1, "s", 0, b"", 0, 0, key="\N{PILE OF POO}" * 255, worker="w" * 255), id="names"),
        pytest.param(c.Error(1, "NOT_FOUND", "service-not-found", "\N{PILE OF POO}" * 400), id="errors"),
    ],
)
def test_a_command_frame_never_exceeds_what_the_other_side_reads(command: c.Command) -> None:
    here, there = pair()
    for _ in range(1500):
        here.link.put(command)
    count = 0
    while messages := list(here.messages()):
        for frames in messages:
            assert len(frames[1]) <= zmdp1.MAX_COMMANDS
            count += len(there.link.receive(frames)) - 1
        for frames in there.messages():
            here.link.receive(frames)
    assert count == 1500
    assert here.link.outbox_bytes == 0


def test_a_sender_stops_at_the_window_of_batches() -> None:
    here, there = pair()
    sent = []
    for _ in range(WINDOW_BATCHES + 10):
        here.say()
        sent += here.messages()
    assert len(sent) == WINDOW_BATCHES
    assert len(here.link.outbox) == 10
    for frames in sent:
        there.hear(frames)
    exchange(here, there)
    assert there.heard == list(range(1, WINDOW_BATCHES + 11))


def test_a_sender_stops_at_the_window_of_bytes() -> None:
    here, there = pair()
    for _ in range(12):
        here.say(2**20)
    sent = list(here.messages())
    assert sum(sum(map(len, frames)) for frames in sent) <= WINDOW_BYTES + 2**20
    assert here.link.held_bytes >= 12 * 2**20
    for frames in sent:
        there.hear(frames)
    exchange(here, there)
    assert len(there.heard) == 12


def test_a_batch_larger_than_the_window_goes_out_alone() -> None:
    here, there = pair()
    here.say(2 * WINDOW_BYTES)
    here.say(2 * WINDOW_BYTES)
    [frames] = here.messages()
    there.hear(frames)
    exchange(here, there)
    assert there.heard == [1, 2]


def test_an_acknowledgement_goes_out_after_so_many_batches_though_there_is_nothing_else_to_say() -> None:
    here, there = pair()
    for n in range(1, ACK_BATCHES + 1):
        here.say()
        [frames] = here.messages()
        there.hear(frames)
        assert bool(list(there.messages())) == (n == ACK_BATCHES)


def test_an_acknowledgement_goes_out_after_so_many_bytes() -> None:
    here, there = pair()
    here.say(ACK_BYTES)
    assert exchange(here, there) == 2
    assert not here.link.awaits_ack


def test_what_is_acknowledged_is_let_go_of() -> None:
    here, there = pair()
    here.say(100)
    assert here.link.held_bytes == 100 + COMMAND_BYTES
    for frames in here.messages():
        there.hear(frames)
    assert here.link.awaits_ack
    there.say()
    exchange(here, there)
    assert not here.link.awaits_ack
    assert here.link.held_bytes == 0


def test_a_heartbeat_makes_both_ends_quiet() -> None:
    here, there = pair()
    here.say()
    exchange(here, there)
    assert here.link.held_bytes
    there.beat()
    exchange(here, there)
    assert not here.link.held_bytes
    assert not there.link.held_bytes
    here.beat()
    there.beat()
    assert exchange(here, there) == 0, "an idle session says nothing"


@pytest.mark.parametrize(("both", "expected"), [(True, [2, 2, 0, 0, 0]), (False, [1, 2, 1, 0, 0])])
def test_two_that_beat_together_are_quiet_soon(both: bool, expected: list[int]) -> None:
    here, there = pair()
    here.say()
    if both:
        there.say()
    said = []
    for _ in range(5):
        # What both say crosses on its way.
        messages = [*here.messages()], [*there.messages()]
        for frames in messages[0]:
            there.hear(frames)
        for frames in messages[1]:
            here.hear(frames)
        said.append(sum(map(len, messages)))
        here.beat()
        there.beat()
    assert said == expected
    assert not here.link.held_bytes
    assert not there.link.held_bytes


def test_what_was_lost_is_missed_though_the_other_side_beats_on() -> None:
    """It has requests, say, and so there is something to acknowledge at each beat."""
    here, there = pair()
    there.say()
    assert len([*there.messages()]) == 1, "and is lost"
    for _ in range(4):
        here.link.beat(busy=True)
        for frames in [*here.messages()]:
            there.hear(frames)
        there.beat()
        exchange(here, there)
    assert here.heard == [1]


def test_a_batch_that_comes_twice_is_passed_over_and_counted() -> None:
    here, there = pair()
    here.say()
    [frames] = here.messages()
    there.hear(frames)
    there.hear(frames)
    assert there.heard == [1]
    assert there.link.duplicates == 1


def test_a_gap_is_noticed_and_filled() -> None:
    here, there = pair()
    here.say()
    lost = list(here.messages())
    here.say()
    assert len(lost) == 1
    exchange(here, there)
    assert there.heard == [1, 2]


def test_a_gap_is_complained_of_once_and_again_at_each_heartbeat() -> None:
    here, there = pair()
    here.say()
    list(here.messages())
    for expected in (1, 0, 0):
        here.say()
        for frames in here.messages():
            there.hear(frames)
        assert len(list(there.messages())) == expected
    there.beat()
    assert len(list(there.messages())) == 1


def test_the_last_message_lost_is_noticed_at_a_heartbeat() -> None:
    here, there = pair()
    here.say()
    list(here.messages())
    here.beat()
    exchange(here, there)
    assert there.heard == [1]


@pytest.mark.parametrize("lost", ["the messages", "the acknowledgements"])
def test_a_full_window_gets_over_a_loss(lost: str) -> None:
    here, there = pair()
    for _ in range(WINDOW_BATCHES):
        here.say()
        for frames in here.messages():
            if lost != "the messages":
                there.hear(frames)
    list(there.messages())
    here.say()
    for _ in range(3):
        here.beat()
        there.beat()
        exchange(here, there)
    assert there.heard == list(range(1, WINDOW_BATCHES + 2))


def test_a_new_connection_sends_what_the_other_side_has_not() -> None:
    here, there = pair()
    here.say()
    for frames in here.messages():
        there.hear(frames)
    here.say()
    list(here.messages())
    here.link.close()
    here.say()
    assert list(here.messages()) == []
    join(here, there)
    exchange(here, there)
    assert there.heard == [1, 2, 3]


def test_a_reset_forgets_the_session_but_not_what_waits() -> None:
    here, there = pair()
    here.say()
    exchange(here, there)
    here.link.close()
    here.say()
    here.link.reset()
    assert (here.link.sent, here.link.received, here.link.awaits_ack) == (0, 0, False)
    assert len(here.link.outbox) == 1
    here.link.drop_outbox()
    assert not here.link.held_bytes
    assert here.link.held_bytes == 0


@pytest.mark.parametrize("received", [2, 2**62])
def test_an_acknowledgement_of_what_was_never_sent_is_a_breach(received: int) -> None:
    here, there = pair()
    here.say()
    exchange(here, there)
    with pytest.raises(ProtocolError, match="acknowledged"):
        here.link.receive(zmdp1.encode(c.Batch(1, received), []))
    here.link.close()
    with pytest.raises(ProtocolError, match="acknowledged"):
        here.link.open("peer", received)


def test_a_new_connection_can_not_take_back_an_acknowledgement() -> None:
    here, there = pair()
    here.say()
    there.beat()
    exchange(here, there)
    there.beat()
    exchange(here, there)
    here.link.close()
    with pytest.raises(ProtocolError, match="acknowledged"):
        here.link.open("peer", 0)


def test_an_old_acknowledgement_is_passed_over() -> None:
    here, there = pair()
    for _ in range(2):
        here.say()
        exchange(here, there)
    there.beat()
    exchange(here, there)
    here.hear(zmdp1.encode(c.Batch(0, 1), []))
    assert here.link.acked == 2


def test_a_greeting_that_came_twice_acknowledges_nothing() -> None:
    """A HELLO tells where the session before was, and that may have ended."""
    here, _ = pair()
    here.link.receive(zmdp1.encode(c.Batch(0, 50), [c.Goodbye()]))
    assert here.link.acked == 0


def test_unknown_commands_are_skipped_and_counted() -> None:
    here, _ = pair()
    message = [zmdp1.MAGIC, b"\x93\x93\x00\x01\x00\x92\x63\x01\x92\x08\x07"]
    assert here.link.receive(message)[1:] == [c.Cancel(7)]
    assert here.link.skipped == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (c.Partial(1, 0, b"12345"), 5),
        (c.Final(1, 0, b"12345"), 5),
        (c.Request(1, "echo", 0, b"12345", 0, 0), 9),
        (c.Request(1, "echo", 0, b"", 0, 0, headers={"a": "bc"}), 7),
        (c.Request(1, "echo", 0, b"", 0, 0, headers={"a": "\N{EURO SIGN}"}), 8),
        (c.Error(1, "INTERNAL", "why", "abc", b"12"), 16),
        (c.Cancel(1), 0),
        (c.Heartbeat(), 0),
    ],
)
def test_what_a_command_weighs(command: c.Command, expected: int) -> None:
    assert weight(command) == expected


def test_headers_count_in_bytes() -> None:
    assert headers_size({}) == 0
    assert headers_size({"\N{EURO SIGN}": "ab", "c": ""}) == 6


@pytest.mark.parametrize("command", [c.Cancel(1), c.Partial(1, 0, b""), c.Heartbeat()], ids=repr)
def test_only_greetings_and_farewells_come_outside_of_the_numbering(command: c.Command) -> None:
    """Any other could be said twice, and would be done twice."""
    here, _ = pair()
    with pytest.raises(ProtocolError, match="numbered"):
        here.link.receive(zmdp1.encode(c.Batch(0, 0), [command]))


def test_what_is_put_back_into_an_outbox_counts_for_what_it_weighs() -> None:
    here, there = pair()
    error = c.Error(1, "NOT_FOUND", "service-not-found", "\N{PILE OF POO}" * 60_000)
    commands = [c.Cancel(1), error, error, error, *[c.Cancel(1)] * 5]
    for command in commands:
        here.link.put(command, weight(command))
    heard = []
    while messages := list(here.messages()):
        assert here.link.outbox_bytes == sum(COMMAND_BYTES + weight(command) for command in here.link.outbox)
        for frames in messages:
            heard += there.link.receive(frames)[1:]
        for frames in there.messages():
            here.link.receive(frames)
    assert heard == commands
    there.link.acknowledge()
    for frames in there.messages():
        here.link.receive(frames)
    assert here.link.held_bytes == 0


# ---- what is added to what waits


def test_credit_and_heartbeats_that_wait_take_up_more() -> None:
    here, there = pair()
    link = here.link
    link.put_heartbeat(1)
    link.put_heartbeat(1)
    link.put_heartbeat(1, 5.0)
    link.put_credit(c.Credit(1, 2, 3))
    link.put_heartbeat(1, 4.0)
    link.put_credit(c.Credit(1, c.MAX_AMOUNT, 4))
    link.put_credit(c.Credit(2, 1, 1, 9.0))
    link.put_heartbeat(2)
    link.put_credit(c.Credit(2, 1, 1, 8.0))
    assert link.outbox_bytes == 3 * COMMAND_BYTES
    [frames] = here.messages()
    assert there.link.receive(frames)[1:] == [
        c.Heartbeat([c.Held(1, 5.0)]),
        c.Credit(1, c.MAX_AMOUNT, 7, 4.0),
        c.Credit(2, 2, 2, 8.0),
    ]
    link.put_heartbeat(1, 3.0)
    [frames] = here.messages()
    assert there.link.receive(frames)[1:] == [c.Heartbeat([c.Held(1, 3.0)])]


def test_nothing_is_added_to_what_is_on_its_way() -> None:
    here, there = pair()
    link = here.link
    link.put_heartbeat(1, 5.0)
    link.put_credit(c.Credit(2, 1, 1))
    link.put(c.Heartbeat())
    for _ in range(40):
        here.say(8 * 2**10)
    link.put_credit(c.Credit(3, 1, 1))
    link.put_heartbeat(4, 1.0)
    first = link.next_batch()
    assert first is not None
    link.batch_sent()
    link.put_credit(c.Credit(2, 2, 2))
    link.put_credit(c.Credit(3, 3, 3))
    link.put_heartbeat(1, 4.0)
    link.put_heartbeat(4, 2.0)
    heard = [command for command in there.link.receive(first) if isinstance(command, c.Credit | c.Heartbeat)]
    assert heard == [c.Heartbeat([c.Held(1, 5.0)]), c.Credit(2, 1, 1), c.Heartbeat()]
    [second] = here.messages()
    heard = [command for command in there.link.receive(second) if isinstance(command, c.Credit | c.Heartbeat)]
    assert heard == [
        c.Credit(3, 4, 4),
        c.Heartbeat([c.Held(4, 2.0)]),
        c.Credit(2, 2, 2),
        c.Heartbeat([c.Held(1, 4.0)]),
    ]


def test_what_was_forgotten_takes_up_nothing() -> None:
    here, there = pair()
    here.link.put_heartbeat(1)
    here.link.drop_outbox()
    here.link.put_heartbeat(1)
    [frames] = here.messages()
    assert there.link.receive(frames)[1:] == [c.Heartbeat([c.Held(1)])]

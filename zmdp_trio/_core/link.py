"""One session's commands, in order and once each, over connections that come and go.

Theory of operation.  Every batch of commands has a number.  The sender keeps it until the other side has said, in
any batch of its own, that it arrived.  A batch that was seen before is passed over; one that comes too early means
that another was lost, and is asked for again.  When a connection is lost, the next one's greeting tells where each
side was, and the rest is sent anew.  So the machines above never hear of a lost, doubled, or reordered message, nor
of a connection that broke and came back in time.

A sender stops at `WINDOW_BATCHES` or `WINDOW_BYTES` without an acknowledgement: that bounds what it keeps for a peer
that does not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .._errors import ProtocolError
from .._wire import zmdp1
from .._wire.commands import MAX_AMOUNT, Batch, Command, Credit, Goodbye, Heartbeat, Held, Hello, Welcome
from .._wire.frames import Frame, Frames
from .._wire.zmdp1 import INLINE
from .weights import COMMAND_BYTES, weight, weights

#: Batches, and bytes, that may be unacknowledged; a batch that is larger than the window goes out alone.
WINDOW_BATCHES = 256
WINDOW_BYTES = 8 * 2**20
#: Batches, and bytes, after which an acknowledgement goes out, though there is nothing else to say.
ACK_BATCHES = 32
ACK_BYTES = 2 * 2**20
#: Commands that may be in a batch without a number.
UNCOUNTED = frozenset((Hello, Welcome, Goodbye))


class Ledger:
    """What several links keep in all, in bytes."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Link:
    """The two directions of one session.

    `put` commands; as long as `next_batch` returns a message, offer it to the transport, and say `batch_sent` when
    that took it.  `receive` returns the commands that a message brought.
    """

    #: Seconds of silence after which the other side is gone: ZMTP's heartbeats see to that.
    patience = math.inf
    #: A session may come back over another connection.
    may_return = True
    #: Single requests have heartbeats of their own.
    request_beats = False

    __slots__ = (
        "_asked",
        "_asks",
        "_dirty",
        "_greeting",
        "_large",
        "_latest",
        "_ledger",
        "_owed",
        "_owed_bytes",
        "_resend_wanted",
        "_resent",
        "_unacked",
        "_unacked_bytes",
        "_unsent",
        "acked",
        "duplicates",
        "opened",
        "outbox",
        "outbox_bytes",
        "peer",
        "received",
        "scheduled",
        "sent",
        "skipped",
    )

    def __init__(self, dirty: list[Any], ledger: Ledger | None = None) -> None:
        """Make a link that enters itself into `dirty` when it has something to send; `ledger` counts what it keeps."""
        self._dirty = dirty
        self._ledger = ledger or Ledger()
        #: What the engine reaches the other side by, whatever that is; None while there is no connection.
        self.peer: Any = None
        #: Greetings were exchanged on this connection: numbered batches may be sent.
        self.opened = False
        self.outbox: list[Command] = []
        self.outbox_bytes = 0
        self._large = False
        #: By request, the CREDIT or HEARTBEAT in the outbox that more of its kind is added to.
        self._latest: dict[int, Credit | Heartbeat] = {}
        self.scheduled = False
        self.skipped = 0
        self.duplicates = 0
        self._greeting: Frames | None = None
        self._unacked_bytes = 0
        self.reset()

    def reset(self) -> None:
        """Start a new session: what was sent or received before is forgotten, what waits in the outbox stays."""
        self.sent = self.acked = self.received = 0
        # Lists, though they are emptied from the left: both are short, and an empty deque takes 760 bytes.
        self._unacked: list[tuple[int, Frames, int]] = []
        self._ledger.bytes -= self._unacked_bytes
        self._unacked_bytes = 0
        self._unsent: list[Frames] = []
        self._owed = self._owed_bytes = 0
        #: Whether the last beat asked for an acknowledgement; None if nothing was unacknowledged then.
        self._asks: bool | None = None
        self._asked = self._resend_wanted = self._resent = False

    # ---- out

    def put(self, command: Command, size: int = 0) -> None:
        """Queue a command that weighs `size` bytes: see `weight`."""
        if size > INLINE:
            self._large = True
        size += COMMAND_BYTES
        self.outbox_bytes += size
        self._ledger.bytes += size
        self.outbox.append(command)
        if not self.scheduled:
            self.scheduled = True
            self._dirty.append(self)

    def put_credit(self, credit: Credit) -> None:
        """Queue a CREDIT; or add it to one for the same request that still waits, so that many take no more room."""
        waiting = self._latest.get(credit.id)
        if type(waiting) is Credit:
            waiting.messages = min(waiting.messages + credit.messages, MAX_AMOUNT)
            waiting.bytes = min(waiting.bytes + credit.bytes, MAX_AMOUNT)
            if credit.left is not None:
                waiting.left = credit.left
        else:
            self._latest[credit.id] = credit
            self.put(credit)

    def put_heartbeat(self, id: int, left: float | None = None) -> None:
        """Queue a HEARTBEAT for one request; or let one that waits, or a CREDIT, say what this one would."""
        waiting = self._latest.get(id)
        if waiting is None:
            waiting = self._latest[id] = Heartbeat([Held(id, left)])
            self.put(waiting)
        elif left is None:
            return
        elif type(waiting) is Credit:
            waiting.left = left
        else:
            waiting.held[0].left = left  # type: ignore[union-attr]

    def put_uncounted(self, command: Command, *, received: int = 0) -> None:
        """Send a greeting or a farewell, outside the numbering, ahead of all else, and in place of any that waits."""
        self._greeting = zmdp1.encode_inline(Batch(0, received), [command])
        self.schedule()

    def schedule(self) -> None:
        """Have the link looked at when its machine is next flushed."""
        if not self.scheduled:
            self.scheduled = True
            self._dirty.append(self)

    def next_batch(self) -> Frames | None:
        """Return the message to offer to the transport now; None when there is none."""
        if self._greeting is not None:
            return self._greeting
        if self._unsent:
            return self._unsent[0]
        if not self.opened:
            return None
        if self.outbox and not self._window_full:
            frames = self._encode_outbox()
        elif self._owed >= ACK_BATCHES or self._owed_bytes >= ACK_BYTES or self._resend_wanted:
            frames = zmdp1.encode_inline(Batch(0, self.received, self._resend_wanted), ())
        else:
            return None
        self._owed = self._owed_bytes = 0
        self._resend_wanted = False
        self._unsent.append(frames)
        return frames

    def batch_sent(self) -> None:
        """Tell that the transport took the message that `next_batch` returned."""
        if self._greeting is not None:
            self._greeting = None
        else:
            del self._unsent[0]

    def _encode_outbox(self) -> Frames:
        self.sent += 1
        batch = Batch(self.sent, self.received, self._resend_wanted)
        commands, size = self._take_outbox()
        encode = zmdp1.encode if self._large else zmdp1.encode_inline
        frames = encode(batch, commands)
        while len(frames[1]) > zmdp1.MAX_COMMANDS and len(commands) > 1:
            # Their weights were far too low: the other side would refuse the batch.
            commands, size = self._put_half_back(commands)
            frames = encode(batch, commands)
        if not self.outbox:
            self._large = False
        self._unacked.append((self.sent, frames, size))
        self._unacked_bytes += size
        return frames

    def _take_outbox(self) -> tuple[Sequence[Command], int]:
        """Take as much from the outbox as one batch holds."""
        outbox, size = self.outbox, self.outbox_bytes
        if size <= zmdp1.BATCH:
            self.outbox = []
            self.outbox_bytes = 0
            if self._latest:
                self._latest.clear()
            return outbox, size
        size = taken = 0
        for command in outbox:
            size += COMMAND_BYTES + weight(command)
            taken += 1
            if size >= zmdp1.BATCH:
                break
        self.outbox = outbox[taken:]
        self.outbox_bytes -= size
        if self._latest:
            self._let_go(outbox[:taken])
        return outbox[:taken], size

    def _let_go(self, commands: Sequence[Command]) -> None:
        """These are on their way: nothing can be added to them any more."""
        for command in commands:
            if isinstance(command, Credit):
                id = command.id
            elif isinstance(command, Heartbeat) and command.held:
                id = command.held[0].id
            else:
                continue
            if self._latest.get(id) is command:
                del self._latest[id]

    def _put_half_back(self, commands: Sequence[Command]) -> tuple[Sequence[Command], int]:
        half = len(commands) // 2
        self.outbox = [*commands[half:], *self.outbox]
        self.outbox_bytes += weights(commands[half:])
        return commands[:half], weights(commands[:half])

    @property
    def _window_full(self) -> bool:
        return len(self._unacked) >= WINDOW_BATCHES or self._unacked_bytes >= WINDOW_BYTES

    @property
    def flushed(self) -> bool:
        """All was handed to the transport, and less is unacknowledged than the other side lets stand for long."""
        return not (self.outbox or self._unsent or self._unacked_bytes >= ACK_BYTES)

    @property
    def held_bytes(self) -> int:
        """Bytes queued or kept for this peer."""
        return self.outbox_bytes + self._unacked_bytes

    @property
    def awaits_ack(self) -> bool:
        """Something that was sent is unacknowledged."""
        return bool(self._unacked)

    def beat(self, *, busy: bool = False) -> None:
        """Say what is due after a heartbeat interval: nothing at all, on an idle session."""
        if busy or self._must_ask():
            self.put(Heartbeat())
        self.acknowledge()

    def _must_ask(self) -> bool:
        """Whether to send something that shows the other side what it misses, and makes it acknowledge the rest.

        Every second beat at most, and not the first where an acknowledgement is owed: of two that beat together, each
        would else ask before it hears the other's answer, for ever.
        """
        if not self._unacked or self.outbox:
            self._asks = None
        elif self._asks is None:
            self._asks = not self._owed
        else:
            self._asks = not self._asks
        return bool(self._asks)

    def acknowledge(self) -> None:
        """Send what is owed now: an acknowledgement, or once more the wish to have something sent again."""
        self._resent = False
        self._resend_wanted = self._asked
        if self._owed or self._asked:
            self._owed = max(self._owed, ACK_BATCHES)
            self.schedule()
        if self._window_full and not self._unsent:
            self._probe()

    def _probe(self) -> None:
        """Send an empty batch beyond the full window: what was in there, or its acknowledgement, may have been lost."""
        if self._unacked[-1][2]:
            self.sent += 1
            self._unacked.append((self.sent, zmdp1.encode_inline(Batch(self.sent, self.received), ()), 0))
        self._unsent.append(self._unacked[-1][1])
        self.schedule()

    # ---- in

    def receive(self, frames: Sequence[Frame]) -> list[Any]:
        """Return the commands of a message, or none if it came twice or too early; the first is the BATCH.

        Raises:
            ProtocolError: the message can't be read.
        """
        commands, skipped = zmdp1.decode(frames)
        if skipped:
            self.skipped += skipped
        batch = commands[0]
        sequence = batch.sequence
        if sequence == 0 and len(commands) > 1:
            if any(type(command) not in UNCOUNTED for command in commands[1:]):
                raise ProtocolError("a command that must be in a numbered batch")
            # A greeting that came again, or a farewell: what it says of a session is not for this one.
            return commands
        if batch.received > self.acked:
            self._forget(batch.received)
        if batch.resend and not self._resent:
            # Once until the other side has got on, or a heartbeat has passed: a wish is small, and what it asks is not.
            self._resent = True
            self._unsent = [frames for _, frames, _ in self._unacked]
            self.schedule()
        if sequence == 0:
            return commands
        if sequence != self.received + 1:
            self._out_of_order(sequence)
            return []
        self.received = sequence
        self._asked = False
        self._owed += 1
        self._owed_bytes += len(frames[1]) if len(frames) == 2 else sum(map(len, frames))
        if self._owed >= ACK_BATCHES or self._owed_bytes >= ACK_BYTES:
            self.schedule()
        return commands

    def _out_of_order(self, sequence: int) -> None:
        if sequence <= self.received:
            self.duplicates += 1
            self._owed += 1
        elif not self._asked:
            self._asked = self._resend_wanted = True
            self.schedule()

    def _forget(self, received: int) -> None:
        """Let go of the batches that the other side has."""
        if received > self.sent:
            raise ProtocolError(f"batch {received} is acknowledged, {self.sent} were sent")
        unacked, before = self._unacked, self._unacked_bytes
        known = 0
        for number, _, size in unacked:
            if number > received:
                break
            known += 1
            self._unacked_bytes -= size
        del unacked[:known]
        self._ledger.bytes += self._unacked_bytes - before
        self._resent = False
        self.acked = received
        if self.outbox:
            self.schedule()

    # ---- connections

    def open(self, peer: Any, received: int) -> None:
        """Go on over a new connection, whose other side has everything up to batch `received`.

        Raises:
            ProtocolError: it claims to have what was never sent, or no more to have what it had.
        """
        if received < self.acked:
            raise ProtocolError(f"batch {received} is said to be the last, {self.acked} was acknowledged")
        self._forget(received)
        self.peer = peer
        self.opened = True
        self._unsent = [frames for _, frames, _ in self._unacked]
        self._asked = self._resend_wanted = False
        self.schedule()

    def close(self) -> None:
        """Forget the connection, and nothing else."""
        self.peer = None
        self.opened = False
        self._greeting = None
        self._unsent.clear()

    def drop_outbox(self) -> list[Command]:
        """Forget what waits to be sent, and return it: the session that it was meant for is over."""
        self._ledger.bytes -= self.outbox_bytes
        dropped, self.outbox = self.outbox, []
        self.outbox_bytes = 0
        self._large = False
        self._latest.clear()
        return dropped

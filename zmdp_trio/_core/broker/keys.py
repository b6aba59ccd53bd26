"""`key=`: requests of one service with the same key share one execution, while it lasts and for a while after.

A keyed execution is a job like any other, whose client is a `KeyedClient`: what the broker sends to that goes to the
callers that joined.  Partial replies go to the first of them alone; the final reply, or the error, to all, and later to
those who ask again.  The table is bounded in time, in entries, and in bytes; what does not fit is forgotten, oldest
first, and a repeat then runs anew.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from ..._errors import Code, InvalidArgument, Overloaded
from ..._settings import Settings
from ..._wire import commands as c
from ..link import Ledger
from ..shared import Fingerprint, Origin, fingerprint, is_remembered
from ..timers import Timers
from ..weights import weight

if TYPE_CHECKING:
    from .job import Job
    from .session import Session

#: Bytes of an outcome that a caller gets though it does not read: what we would say instead is no shorter.
SHORT_OUTCOME = 256
#: What one who waits for a keyed execution counts for in the broker's memory.
CALLER_BYTES = 2**10


class Caller:
    """One of those who wait for a keyed execution; stands among its session's requests, as a job would."""

    __slots__ = ("entry", "id", "session")

    def __init__(self, session: Session, id: int, entry: KeyedClient) -> None:
        self.session = session
        self.id = id
        self.entry = entry


class KeyedClient:
    """The client of a keyed job: its callers, and what was sent to it last."""

    #: What `Link` has, for those who look whether a client reads: this one always does.
    outbox_bytes = 0
    #: What it takes: each caller's own limits count.
    limits = c.Limits(c.MAX_AMOUNT, c.MAX_AMOUNT, c.MAX_AMOUNT)

    def __init__(self, table: KeyTable, key: tuple[str, str], name: str, fingerprint: Fingerprint | None) -> None:
        #: The first caller's: what the handler sees as its peer.
        self.name = name
        self.requests: dict[int, Job] = {}
        self.callers: dict[Caller, None] = {}
        #: Who gets the partial replies: the caller that came first, unless it left or does not read.
        self.reader: Caller | None = None
        #: When each caller's time is up, negated: the first is the latest.
        self._deadlines: Timers[Caller] = Timers()
        #: Others than the first have come.
        self.joined = False
        self.job: Job | None = None
        #: Of an execution that was recovered: whose request it was.
        self.origin: Origin | None = None
        self.outcome: c.Final | c.Error | None = None
        self.size = 0
        self.expires = 0.0
        self.key = key
        self.fingerprint = fingerprint
        self._table = table

    @property
    def link(self) -> KeyedClient:
        """Where commands for this client are put."""
        return self

    @property
    def deadline(self) -> float:
        """The latest deadline of all callers."""
        return -self._deadlines.deadline

    def move_deadline(self, caller: Caller, deadline: float) -> None:
        """Let a caller wait longer, or shorter."""
        self._deadlines.set(caller, -deadline)

    def remove(self, caller: Caller) -> None:
        """Take a caller out."""
        del caller.session.requests[caller.id]
        del self.callers[caller]
        self._table.ledger.bytes -= CALLER_BYTES
        self._deadlines.cancel(caller)

    def remove_all(self) -> list[Caller]:
        """Take every caller out, and return them."""
        callers = list(self.callers)
        for caller in callers:
            self.remove(caller)
        self.job = self.reader = None
        return callers

    def put_heartbeat(self, id: int, left: float | None = None) -> None:
        """Tell every caller that its request is being worked on."""
        for caller in self.callers:
            caller.session.link.put_heartbeat(caller.id)

    def put(self, command: c.Command, size: int = 0) -> None:
        """Pass on to the callers what a client of its own would get."""
        if isinstance(command, c.Partial):
            self._put_partial(command, size)
        elif isinstance(command, c.Final | c.Error):
            self._table.settle(self, command, size)

    def _put_partial(self, partial: c.Partial, size: int) -> None:
        reader = self.reader
        if reader is not None:
            link = reader.session.link
            if size > reader.session.limits.message or link.outbox_bytes > self._table.settings.outbox:
                self._table.expel(reader)
            else:
                partial.id = reader.id
                link.put(partial, size)
                return
        job = self.job
        if job is not None and job.offer is not None:
            # Nobody reads: what was sent is as good as read.
            job.messages += 1
            job.bytes += size
            job.offer.session.link.put_credit(c.Credit(job.id, 1, size))

    def lose_reader(self) -> None:
        """Nobody reads from now on: the worker is not left waiting for credit that nobody would give."""
        self.reader = None
        job = self.job
        if job is None:
            return
        messages, size = max(1 - job.messages, 0), max(1 - job.bytes, 0)
        job.messages += messages
        job.bytes += size
        if job.offer is not None and (messages or size):
            job.offer.session.link.put_credit(c.Credit(job.id, messages, size))


class KeyTable:
    """The keyed executions that run, and the outcomes of those that ended lately."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        #: What time it is: the machine keeps it so.
        self.now = 0.0
        self._entries: OrderedDict[tuple[str, str], KeyedClient] = OrderedDict()
        #: Outcomes alone, oldest first.
        self._ended: OrderedDict[tuple[str, str], KeyedClient] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, request: c.Request) -> KeyedClient | None:
        """Return the execution that a request joins; None if it starts one.

        Raises:
            InvalidArgument: the key belongs to a request with another payload.
        """
        self._forget_old()
        entry = self._entries.get((request.service, request.key or ""))
        if entry is not None and entry.fingerprint not in (None, fingerprint(request)):
            raise InvalidArgument("this key was used with another payload")
        return entry

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: tuple[str, str]) -> KeyedClient | None:
        """Return the execution of a service with a key, if there is one."""
        self._forget_old()
        return self._entries.get(key)

    def add(self, request: c.Request, name: str) -> KeyedClient:
        """Note a new execution, for a first caller of this name."""
        assert request.key is not None
        return self.restore((request.service, request.key), name, fingerprint(request))

    def restore(self, key: tuple[str, str], name: str, fingerprint: Fingerprint | None) -> KeyedClient:
        """Note an execution of which a worker knows; without a fingerprint, repeats may say what they like."""
        entry = self._entries[key] = KeyedClient(self, key, name, fingerprint)
        return entry

    def join(self, entry: KeyedClient, session: Session, id: int, deadline: float) -> None:
        """Add a caller, who gets the outcome at once if it is there."""
        if entry.outcome is not None:
            self._tell(session, id, entry.outcome, entry.size)
            return
        caller = Caller(session, id, entry)
        if not entry.callers:
            entry.reader = caller
        entry.callers[caller] = None
        self.ledger.bytes += CALLER_BYTES
        entry.move_deadline(caller, deadline)
        session.requests[id] = caller

    def leave(self, caller: Caller) -> bool:
        """Take a caller out; tell whether it was the last one."""
        entry = caller.entry
        entry.remove(caller)
        if entry.callers:
            if entry.reader is caller:
                entry.lose_reader()
            return False
        entry.reader = None
        self.drop(entry)
        return True

    def expel(self, reader: Caller) -> None:
        """End the request of a reader that can't be sent what came; those who joined it are not affected."""
        reader.entry.remove(reader)
        reader.entry.lose_reader()
        message = "a partial reply was larger than the caller takes, or the caller does not read"
        self._tell_overloaded(reader.session, reader.id, message)

    def drop(self, entry: KeyedClient) -> None:
        """Forget an execution."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            if self._ended.pop(entry.key, None) is not None:
                self._bytes -= entry.size

    def settle(self, entry: KeyedClient, outcome: c.Final | c.Error, size: int) -> None:
        """An execution has ended: tell its callers, and remember it for those who ask again."""
        for caller in entry.remove_all():
            self._tell(caller.session, caller.id, outcome, size)
        if not is_remembered(outcome):
            self.drop(entry)
            return
        entry.outcome, entry.size = outcome, size
        entry.expires = self.now + self.settings.key_window
        self._ended[entry.key] = entry
        self._bytes += size
        self._forget_old()

    def _tell(self, session: Session, id: int, outcome: c.Final | c.Error, size: int) -> None:
        link = session.link
        if isinstance(outcome, c.Final) and size > session.limits.message:
            message = f"a reply of {size:,} bytes, the caller takes {session.limits.message:,}"
            error = c.Error(id, Code.INTERNAL.value, "", message)
            link.put(error, weight(error))
        elif size > SHORT_OUTCOME and link.outbox_bytes + size > self.settings.outbox:
            self._tell_overloaded(session, id, "the outcome was dropped: the caller does not read")
        else:
            link.put(msgspec.structs.replace(outcome, id=id), size)

    def _tell_overloaded(self, session: Session, id: int, message: str) -> None:
        error = c.Error(id, Code.RESOURCE_EXHAUSTED.value, Overloaded.reason, message)
        session.link.put(error, weight(error))

    def _forget_old(self) -> None:
        settings = self.settings
        while self._ended:
            entry = next(iter(self._ended.values()))
            full = len(self._ended) > settings.key_limit or self._bytes > settings.key_bytes
            if not full and entry.expires > self.now:
                return
            self.drop(entry)

"""What became of the requests for one service, at one worker."""

from __future__ import annotations

import attrs


@attrs.define
class Counters:
    """What became of requests.

    received = refused + replied + failed + cancelled + expired + rejected + running + cancelling, at every moment.
    """

    #: Requests that brokers sent.
    received: int = 0
    #: Turned down unseen: beyond the lease, after the drain, or for a service that is not offered.
    refused: int = 0
    #: Final replies.
    replied: int = 0
    #: Ended with an error.
    failed: int = 0
    #: Their handlers ended after their callers had left.
    cancelled: int = 0
    #: Their deadlines passed while their handlers ran.
    expired: int = 0
    #: Handed back by their handlers, for another worker.
    rejected: int = 0
    #: Handlers at work for somebody who waits.
    running: int = 0
    #: Handlers that were cancelled and have not ended.
    cancelling: int = 0

    def __add__(self, other: Counters) -> Counters:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Counters(*(mine + theirs for mine, theirs in pairs))

    @property
    def accounted(self) -> int:
        """What `received` must be."""
        numbers: tuple[int, ...] = attrs.astuple(self)
        return sum(numbers) - self.received

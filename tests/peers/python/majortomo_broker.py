"""majortomo's own broker."""

from __future__ import annotations

import threading

import zmq
from lines import end_with_input, endpoint, options, say
from majortomo.broker import Broker


class TalkativeBroker(Broker):
    def bind(self) -> None:
        super().bind()
        say(event="start", endpoint=self._socket.getsockopt_string(zmq.LAST_ENDPOINT))


threading.Thread(target=TalkativeBroker(endpoint, **options).run, daemon=True).start()
end_with_input()

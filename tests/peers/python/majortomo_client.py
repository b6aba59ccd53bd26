"""majortomo's client."""

from __future__ import annotations

from lines import body_of, endpoint, options, orders, say, texts
from majortomo import Client

with Client(endpoint, **options) as client:
    for order in orders():
        client.send(order["service"], *body_of(order))
        # It tells partial and final replies apart by whether it expects another one.
        while (part := client.recv_part()) is not None:
            say(id=order["id"], event="partial" if client._expect_reply else "final", frames=texts(part))

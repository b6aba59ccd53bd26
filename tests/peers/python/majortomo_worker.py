"""majortomo's workers, one for each service, in a thread of its own."""

from __future__ import annotations

import os
import threading
import traceback

from lines import end_with_input, endpoint, options, say, texts
from majortomo import Worker, WorkerRequestsIterator
from work import KINDS

services = options.pop("services")


def serve(service: str, kind: str) -> None:
    requests = WorkerRequestsIterator(Worker(endpoint, service, **options))
    for body in requests:
        say(event="request", service=service, frames=texts(body))
        work = KINDS[kind](body)
        while True:
            try:
                partial = next(work)
            except StopIteration as end:
                requests.send_reply_final(end.value)
                break
            requests.send_reply_partial(partial)
    say(event="disconnect", service=service)


def run(service: str, kind: str) -> None:
    try:
        while True:  # DISCONNECT ends majortomo's loop over requests
            serve(service, kind)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


for service, kind in services.items():
    threading.Thread(target=run, args=(service, kind), daemon=True).start()
end_with_input()

"""Restarts and several brokers at the same time: what each alone does not bring about."""

from __future__ import annotations

import trio
from cluster import until

from zmdp_trio import BrokerLost, RequestError, service
from zmdp_trio.testing import open_cluster, run


def test_a_worker_that_is_stopped_during_an_outage_delivers_its_last_replies() -> None:
    @service("slow")
    async def slow(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async def main() -> None:
        replies: list[float] = []
        async with open_cluster(slow) as cluster:

            async def ask(seconds: float) -> None:
                replies.append(await cluster.client.request("slow", seconds))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, 1)
                nursery.start_soon(ask, 3)
                await trio.sleep(0.5)
                cluster.kill("broker")
                nursery.start_soon(cluster.stop, "worker")
                await trio.sleep(4)
                await cluster.restart_broker()
            assert sorted(replies) == [1, 3]
            assert trio.current_time() < 6
            assert cluster.workers == []

    run(main)


def test_retry_counts_over_brokers() -> None:
    runs = []

    @service("endless")
    async def endless() -> None:
        runs.append(trio.current_time())
        await trio.sleep_forever()

    async def main() -> None:
        async with open_cluster(endless, brokers=2, workers=3) as cluster:
            outcome: list[RequestError] = []

            async def ask() -> None:
                try:
                    await cluster.client.request("endless", retry=1)
                except RequestError as error:
                    outcome.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: len(runs) == 1)
                cluster.kill(next(each for each in cluster.workers if each.statistics().running))
                await until(lambda: len(runs) == 2)
                # The one broker that has it, and then whoever has it there: the client must not begin anew elsewhere.
                cluster.kill(next(each for each in cluster.brokers if each.statistics().total.running))
            assert len(runs) == 2
            assert type(outcome[0]) is BrokerLost

    run(main)

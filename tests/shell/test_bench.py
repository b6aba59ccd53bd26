"""What `zmdp bench` measures: loads in virtual time, and the figures that come of them."""

from __future__ import annotations

import io
import itertools
import math
import random
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import trio
from cluster import Cluster, open_cluster

from zmdp_trio import (
    BrokerLost,
    Client,
    Code,
    Final,
    Service,
    ServiceError,
    ServiceNotFound,
    Settings,
    service,
)
from zmdp_trio.cli._failures import EXIT_CODES, Failure
from zmdp_trio.cli._types import Numbers, Size
from zmdp_trio.cli._values import to_json
from zmdp_trio.cli.bench._histogram import Histogram
from zmdp_trio.cli.bench._load import Level, Load, Work
from zmdp_trio.cli.bench._plan import filler, read_plan
from zmdp_trio.cli.bench._progress import status
from zmdp_trio.cli.bench._report import Record, lines, milliseconds, record
from zmdp_trio.cli.bench._run import _Bench
from zmdp_trio.cli.bench._tally import size_of
from zmdp_trio.testing import VirtualClock

#: What a histogram may be wrong by.
WITHIN = 1 / 256


def close(seconds: float) -> Any:
    return pytest.approx(seconds, rel=WITHIN, abs=1e-9)


# ---- the histogram


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_percentiles_are_right_within_half_a_bucket(scale: float) -> None:
    chance = random.Random(7)
    spans = sorted(scale * chance.lognormvariate(0, 2) for _ in range(10_000))
    histogram = Histogram(spans)
    assert histogram.count == len(spans)
    assert histogram.longest == spans[-1] == histogram.quantile(1)
    for share in (0, 0.001, 0.5, 0.9, 0.99, 0.999):
        assert histogram.quantile(share) == close(spans[max(0, math.ceil(share * len(spans)) - 1)])


def test_a_percentile_is_one_of_the_spans_and_not_beyond_them() -> None:
    histogram = Histogram([1.0] * 99 + [2.0])
    assert [histogram.quantile(share) for share in (0.5, 0.99, 0.991, 1)] == [close(1), close(1), 2.0, 2.0]
    assert Histogram([0.0, 0.0]).quantile(0.99) == 0
    with pytest.raises(ValueError, match="no spans"):
        Histogram().quantile(0.5)


def test_any_number_of_spans_takes_little_memory() -> None:
    chance = random.Random(7)
    histogram = Histogram(10 ** chance.uniform(-6, 3.5) for _ in range(50_000))
    assert len(histogram._buckets) < 4500


def test_histograms_are_added() -> None:
    spans = [[0.001, 0.2], [0.003, 0.1, 5.0], []]
    together = Histogram()
    for each in spans:
        together.add(Histogram(each))
    assert together.count == 5
    assert together.longest == 5.0
    assert together.quantile(0.5) == close(0.1)


# ---- loads, in virtual time


def nap(name: str, seconds: float) -> Service[..., Any]:
    @service(name)
    async def handler(payload: Any) -> Any:
        await trio.sleep(seconds)
        return payload

    return handler


@service("stalls")
async def stalls() -> None:
    """Answer after 10 ms, but nobody from the second to the fourth second of a test."""
    await trio.sleep(0.01)
    if 2 <= trio.current_time() < 4:
        await trio.sleep_until(4)


@service("fails")
async def fails(payload: Any) -> None:
    await trio.sleep(0.1)
    raise ServiceError(Code.RESOURCE_EXHAUSTED, "not\nnow")


@service("ticks")
async def ticks(n: int) -> AsyncIterator[Any]:
    """Yield two bytes each second."""
    for _ in range(n):
        await trio.sleep(1)
        yield b"ab"
    yield Final("end")


async def measure(
    client: Client, services: Sequence[str], level: Level, seconds: float, payload: Any = b"four", **work: Any
) -> Record:
    load = Load(client, services, Work(payload, work.pop("timeout", 60), **work), level, seconds)
    await load.run()
    return record(load, size_of(payload))


async def test_a_closed_loop_keeps_so_many_in_flight(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 0.25)) as cluster:
        figures = await measure(cluster.client, ["nap"], Level(4), 10)
    total = figures["total"]
    assert (total["requests"], total["replies"], total["unfinished"], total["errors"]) == (160, 160, 0, {})
    assert figures["seconds"] == pytest.approx(10)
    assert total["replies_per_second"] == pytest.approx(16, abs=0.4)
    assert total["sent_bytes_per_second"] == total["received_bytes_per_second"] == 4 * total["replies_per_second"]
    assert {round(each / 250, 2) for each in total["latency_ms"].values()} == {1.0}


async def test_an_open_loop_keeps_to_its_plan(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 3)) as cluster:
        figures = await measure(cluster.client, ["nap"], Level(1000, 20), 10)
    total = figures["total"]
    assert (total["requests"], total["replies"], figures["unsent"]) == (200, 200, 0)
    # Those of the last three seconds come later, and are no less counted in the latency.
    assert total["replies_per_second"] == pytest.approx(14, abs=0.2)
    assert total["latency_ms"]["max"] == close(3000)


async def test_only_an_open_loop_sees_what_a_stall_does(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(stalls) as cluster:
        await trio.sleep_until(1)
        closed = (await measure(cluster.client, ["stalls"], Level(1), 5, None))["total"]
    assert closed["latency_ms"]["p99"] == close(10)
    assert closed["latency_ms"]["max"] == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize("in_flight", [1000, 1])
async def test_in_an_open_loop_who_was_due_during_a_stall_has_waited(zmdp_clock: VirtualClock, in_flight: int) -> None:
    """Also if no caller was left to send their requests: then all come late until that is made up for."""
    async with open_cluster(stalls) as cluster:
        await trio.sleep_until(1)
        figures = await measure(cluster.client, ["stalls"], Level(in_flight, 50), 5, None)
    total = figures["total"]
    assert (total["requests"], total["replies"]) == (250, 250)
    latency = total["latency_ms"]
    # A hundred of the 250 were due in the two seconds of the stall: the k-th of them waits for 2 s less k/50 s.
    assert latency["p90"] == pytest.approx(1500 if in_flight > 1 else 1750, rel=0.02)
    assert latency["p99"] == pytest.approx(1960, rel=0.02)
    assert latency["max"] == pytest.approx(2000, rel=0.01)
    assert latency["p50"] == close(10) if in_flight > 1 else latency["p50"] > 100


async def test_what_is_due_and_not_sent_is_told(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 100)) as cluster:
        figures = await measure(cluster.client, ["nap"], Level(3, 10), 1, timeout=5)
    assert figures["total"]["errors"]["DEADLINE_EXCEEDED"]["count"] == 3
    assert figures["unsent"] == 4
    assert "4 requests were due and not sent: all 3 in flight were waiting" in lines(figures, 4)


async def test_services_are_asked_in_turn(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("quick", 0.1), nap("slow", 0.3)) as cluster:
        figures = await measure(cluster.client, ["quick", "slow"], Level(1), 7.9)
    quick, slow = figures["services"]["quick"], figures["services"]["slow"]
    assert (quick["replies"], slow["replies"]) == (20, 20)
    assert (quick["latency_ms"]["p50"], slow["latency_ms"]["p50"]) == (close(100), close(300))
    assert (figures["total"]["replies"], figures["total"]["latency_ms"]["max"]) == (40, close(300))
    headings = [line for line in lines(figures, 4) if not line.startswith(" ")]
    assert headings == ["1 in flight, 4 bytes each, 7.9 s", "quick", "slow", "all of them"]


async def test_errors_are_counted_and_end_nothing(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 0.1), fails) as cluster:
        figures = await measure(cluster.client, ["nap", "fails"], Level(1), 2)
    assert figures["services"]["nap"]["replies"] == 10
    failed = figures["services"]["fails"]
    assert (failed["replies"], failed["latency_ms"]) == (0, None)
    assert failed["errors"] == {"RESOURCE_EXHAUSTED": {"count": 10, "first": "not\nnow"}}
    assert "  errors      10 RESOURCE_EXHAUSTED, the first: not now" in lines(figures, 4)


async def test_partial_replies_are_counted_while_it_lasts(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(ticks) as cluster:
        figures = await measure(cluster.client, ["ticks"], Level(2), 10.5, 7, stream=True)
    total = figures["total"]
    assert (total["replies"], total["chunks"]) == (4, 28)
    assert total["chunks_per_second"] == pytest.approx(20 / 10.5)
    assert total["received_bytes_per_second"] == pytest.approx((20 * 2 + 2 * 4) / 10.5)
    assert total["first_chunk_ms"]["p50"] == close(1000)
    assert total["latency_ms"]["p50"] == close(7000)


async def test_the_end_does_not_wait_for_ever(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(ticks) as cluster:
        figures = await measure(cluster.client, ["ticks"], Level(2), 5.5, 10_000, stream=True, timeout=2)
        assert trio.current_time() == pytest.approx(8.5)
        assert figures["total"]["unfinished"] == 2
        assert figures["total"]["chunks_per_second"] == pytest.approx(10 / 5.5)


async def test_whoever_stops_it_has_the_figures_so_far(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 1)) as cluster:
        load = Load(cluster.client, ["nap"], Work(b"", None), Level(5), math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await trio.sleep(2.5)
            assert status(load) == "5 in flight   4 replies/s   p50 1 s   0 errors   2 s"
            load.stop()
        assert trio.current_time() == pytest.approx(2.5)
        figures = record(load, 0)
    assert figures["seconds"] == pytest.approx(2.5)
    assert (figures["total"]["replies"], figures["total"]["unfinished"]) == (10, 5)
    assert "  unfinished  5, which are not in the latency" in lines(figures, 0)


async def test_a_load_without_a_reply_has_figures(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 1)) as cluster:
        load = Load(cluster.client, ["nap"], Work(b"", None), Level(5, 10), 60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await trio.sleep(0.45)
            assert status(load) == "10 requests/s   0 replies/s   0 errors   60 s left"
            load.stop()
        figures = record(load, 0)
    assert figures["total"]["latency_ms"] is None
    assert figures["total"]["replies_per_second"] == 0
    assert msgspec.json.decode(to_json(figures))["unsent"] == 0


# ---- the whole of it, in virtual time


class Terminal(io.StringIO):
    """What is written there, somebody sees at once."""

    def isatty(self) -> bool:
        return True


async def run_bench(cluster: Cluster, *services: str, **options: Any) -> _Bench:
    plan = read_plan(OPTIONS | {"services": services, "endpoints": cluster.endpoints, "settings": Settings()} | options)
    bench = _Bench(plan)
    await bench._measure()
    return bench


async def test_each_level_has_its_figures_without_those_of_its_warm_up(
    zmdp_clock: VirtualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_cluster(nap("nap", 0.5)) as cluster:
        bench = await run_bench(cluster, "nap", in_flight=(1, 3), seconds=9.9, warm_up=4.9)
        assert trio.current_time() == pytest.approx(0.5 + 2 * (10 + 5), abs=0.1)
    assert bench.status() == 0
    assert [each["total"]["replies"] for each in bench.summary()["runs"]] == [20, 60]
    one, three, _ = capsys.readouterr().out.split("\n\n")
    assert one.startswith(
        "1 in flight, 16 bytes each, 9.9 s\nnap\n  replies     1.9/s   20 in all\n  latency     p50 5"
    )
    assert three.startswith(
        "3 in flight, 16 bytes each, 9.9 s\nnap\n  replies     5.8/s   60 in all\n  latency     p50 5"
    )


async def test_a_terminal_shows_how_it_goes(
    zmdp_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    async with open_cluster(nap("nap", 1.2)) as cluster:
        await run_bench(cluster, "nap", in_flight=(4,), seconds=3.1, warm_up=1.0)
    first, *others, last, end = terminal.getvalue().split("\r\x1b[K")
    assert (first, end) == ("", "")
    assert others[0] == "warming up   4 in flight   0 replies/s   0 errors   0 s left"[:59]
    assert "4 in flight   3 replies/s   p50 1.2 s   0 errors   2 s left" in others
    assert last == "4 in flight   3 replies/s   p50 1.2 s   0 errors   waiting for 4 replies"[:59]
    assert capsys.readouterr().out.startswith("4 in flight, ")


async def test_what_can_not_work_is_an_error_at_once(zmdp_clock: VirtualClock) -> None:
    async with open_cluster(nap("nap", 0.5)) as cluster:
        with pytest.raises(ServiceNotFound):
            await run_bench(cluster, "nap", "nobody", seconds=3600.0)
        with pytest.raises(BrokerLost):
            await run_bench(cluster, "nap", endpoints=("memory://nowhere",), seconds=3600.0)
        assert trio.current_time() < 30


async def test_if_nothing_worked_the_status_is_that_of_the_most_frequent_error(
    zmdp_clock: VirtualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = itertools.count()

    @service("tired")
    async def tired(payload: Any) -> None:
        await trio.sleep(0.1)
        number = next(calls)
        if number:
            raise ServiceError(Code.PERMISSION_DENIED if number % 3 else Code.UNAVAILABLE, "no more")

    async with open_cluster(tired) as cluster:
        bench = await run_bench(cluster, "tired", json=True)
    assert bench.status() == EXIT_CODES["PERMISSION_DENIED"][0]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("moment", "levels"), [(0.5, []), (2.0, []), (6.5, [4]), (17.5, [10, 3])])
async def test_a_signal_ends_it_and_leaves_what_was_measured(
    zmdp_clock: VirtualClock, moment: float, levels: list[int]
) -> None:
    """That is nothing in the first call and in the warm-up."""
    async with open_cluster(nap("nap", 1)) as cluster:
        options = {"in_flight": (1, 1), "seconds": 9.9, "warm_up": 1.9, "json": True, "endpoints": cluster.endpoints}
        bench = _Bench(read_plan(OPTIONS | {"services": ("nap",), "settings": Settings()} | options))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def measure() -> None:
                with bench._scope:
                    await bench._measure()

            await trio.sleep(moment)
            bench._stop()
        assert trio.current_time() == pytest.approx(moment)
    summary = bench.summary()
    assert summary["interrupted"]
    assert [each["total"]["requests"] for each in summary["runs"]] == levels


# ---- the plan


OPTIONS = {
    "services": ("echo",),
    "own_worker": False,
    "size": None,
    "payload": None,
    "raw": False,
    "stream": False,
    "in_flight": None,
    "rate": None,
    "seconds": 1.0,
    "warm_up": 0.0,
    "timeout": 10.0,
    "endpoints": ("memory://b",),
    "protocol": "zmdp/1",
    "settings": None,
    "json": False,
}


@pytest.mark.parametrize(
    ("options", "payload", "levels"),
    [
        ({}, b'"xxxxxxxxxxxxxx"', [Level(10)]),
        ({"size": 3, "in_flight": (1, 5)}, b'"x"', [Level(1), Level(5)]),
        ({"payload": "[1]", "rate": (10.0, 20.0)}, [1], [Level(1000, 10.0), Level(1000, 20.0)]),
        ({"payload": "[1]", "raw": True, "rate": (0.5,), "in_flight": (7,)}, b"[1]", [Level(7, 0.5)]),
    ],
)
def test_a_plan_is_read_from_the_options(options: dict[str, Any], payload: Any, levels: list[Level]) -> None:
    plan = read_plan(OPTIONS | options)
    assert (plan.work, plan.levels) == (Work(payload, 10.0), levels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"services": ()}, "or --own-worker"),
        ({"own_worker": True}, "or --own-worker"),
        ({"services": ("a", "b", "a")}, "named twice"),
        ({"size": 1, "payload": "1"}, "not both"),
        ({"raw": True}, "--raw is for --payload"),
        ({"payload": "x"}, "not JSON"),
        ({"rate": (1.0,), "in_flight": (1, 2)}, "one number"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(Failure, match=words):
        read_plan(OPTIONS | options)


@pytest.mark.parametrize("size", range(5))
def test_what_is_sent_is_json_too(size: int) -> None:
    sent = filler(size)
    assert len(sent) == size
    if sent:
        msgspec.json.decode(sent)


@pytest.mark.parametrize(
    ("value", "size"), [(b"abc", 3), (None, 0), ("abc", 4), ([b"abc", 1], 7), (2**70, 22), ({"a": None}, 4)]
)
def test_the_size_of_a_reply(value: Any, size: int) -> None:
    assert size_of(value) == size


def test_numbers_and_sizes_are_read() -> None:
    assert Numbers(1, 100).convert("1,10,100", None, None) == (1, 10, 100)
    assert Numbers(0.5, 100.0).convert("0.5", None, None) == (0.5,)
    assert Size().convert("4KiB", None, None) == 4096
    assert Size().convert("0", None, None) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "0.00 ms"),
        (0.456, "0.46 ms"),
        (3.456, "3.46 ms"),
        (999.4, "999 ms"),
        (1234, "1.23 s"),
        (2e6, "2,000 s"),
    ],
)
def test_milliseconds_for_people(value: float, text: str) -> None:
    assert milliseconds(value) == text

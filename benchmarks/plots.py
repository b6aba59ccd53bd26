"""Plots of results, as SVG that is the same whenever the results are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from results import Results, Spread


@attrs.frozen(kw_only=True)
class Axis:
    """What an axis shows, and in what unit."""

    label: str
    #: A figure; None for the place that a case has in the plot.
    figure: str | None = None
    log: bool = True


@attrs.frozen(kw_only=True)
class Plot:
    """One file: a curve for each subject, a point for each case that is in the plot."""

    file: str
    title: str
    #: As in `Case.plots`.
    name: str
    across: Axis
    up: Axis


IN_FLIGHT: Final = Axis(label="requests in flight")
RATE: Final = Axis(label="requests a second", figure="per_second")
CPU: Final = Axis(label="CPU per request in all processes, µs", figure="cpu_us")

PLOTS: Final = (
    Plot(file="throughput", title="Throughput against requests in flight", name="in flight", across=IN_FLIGHT, up=RATE),
    Plot(
        file="latency",
        title="Median latency against load",
        name="in flight",
        across=RATE,
        up=Axis(label="median latency, µs", figure="p50_us"),
    ),
    Plot(
        file="tail",
        title="99th percentile of latency against load",
        name="in flight",
        across=RATE,
        up=Axis(label="99th percentile of latency, µs", figure="p99_us"),
    ),
    Plot(
        file="size",
        title="Cost against size of payload, 100 in flight",
        name="size",
        across=Axis(label="bytes of payload, there and back"),
        up=CPU,
    ),
    Plot(
        file="peers",
        title="Cost against number of peers, 100 in flight",
        name="peers",
        across=Axis(label="clients, and as many workers"),
        up=CPU,
    ),
)

STYLE: Final = {
    "svg.hashsalt": "zmdp-trio",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

#: Who is plotted.  Ours stands out; all keep their colours from plot to plot.
STYLES: Final[dict[str, dict[str, Any]]] = {
    "zmdp-trio": {"color": "#c1121f", "linewidth": 2.5, "zorder": 3},
    "nats-py": {"color": "#1d3557"},
    "nats-py, uvloop": {"color": "#5a9bd4"},
    "grpc.aio": {"color": "#2a9d8f"},
    "zerorpc": {"color": "#8d6a9f"},
    "PIGATO": {"color": "#e08e45"},
    "zmq_proxy": {"color": "#8a8a8a", "linestyle": "--"},
}

WIDTH, HEIGHT = 7.2, 4.4


def missing() -> str | None:
    """Tell what brings the package that draws, if it is not here."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is missing: make .venv/bench"
    return None


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw all plots that have points for a curve, and return the files."""
    drawn = [plot for plot in PLOTS if len(points_of(plot, results)) > 1]
    if not drawn:
        return []
    import matplotlib

    matplotlib.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [draw_one(plot, results, folder) for plot in drawn]


def draw_one(plot: Plot, results: Results, folder: Path) -> Path:
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    for subject, curve in curves(plot, results):
        across, up, least, most = zip(*curve, strict=True)
        axes.plot(across, up, marker="o", markersize=4, label=subject, **STYLES[subject])
        axes.fill_between(across, least, most, alpha=0.15, color=STYLES[subject]["color"], linewidth=0)
    for axis, scale, what in ((axes.xaxis, axes.set_xscale, plot.across), (axes.yaxis, axes.set_yscale, plot.up)):
        if what.log:
            scale("log")
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_locator(ticker.NullLocator())
    if plot.across.figure is None:
        axes.set_xticks([place for place, _ in points_of(plot, results)])
    axes.set(title=plot.title, xlabel=plot.across.label, ylabel=plot.up.label)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    path = folder / f"{plot.file}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return path


def points_of(plot: Plot, results: Results) -> list[tuple[float, str]]:
    """Return the places of the cases in a plot, and their names."""
    cases = results.data["cases"].items()
    return sorted((case["plots"][plot.name], name) for name, case in cases if plot.name in case["plots"])


def curves(plot: Plot, results: Results) -> Iterator[tuple[str, list[tuple[float, float, float, float]]]]:
    """Return subjects and their points: where, how high, and from where to where that went."""
    points = points_of(plot, results)
    for subject in STYLES:
        curve = []
        for place, case in points:
            across = place if plot.across.figure is None else median(results.values(case, subject, plot.across.figure))
            up = results.values(case, subject, str(plot.up.figure))
            if across is not None and up is not None:
                curve.append((across, up.median, up.least, up.most))
        if len(curve) > 1:
            yield subject, curve


def median(spread: Spread | None) -> Any:
    return None if spread is None else spread.median

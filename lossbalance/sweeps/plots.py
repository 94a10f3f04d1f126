"""The pictures of a report: small, so that they read on a phone, and told apart by shape as well as colour."""

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, MUTED, PALETTE, PAPER
from lossbalance.sweeps.runs import show
from lossbalance.sweeps.statistics import Comparison, TradeOff

MARK = PALETTE[0]
"""The first colour of the data; too dark for a dark page, which has one of its own."""
_LOOKS: list[dict[str, Any]] = [
    {"color": color, "marker": marker} for color, marker in zip(PALETTE, "os^DvP", strict=False)
]
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.parse_math": False,  # names may hold dollars
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "grid.color": MUTED,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "lossbalance",
}
_MANY = 300  # points from which a picture in SVG draws them as pixels


def draw_trade_off(trade_off: TradeOff, comparison: Comparison) -> Figure:
    """One metric against the other: settings, the curve along the swept number, the Pareto front, the baseline."""
    with rc_context(_STYLE):
        figure, axes = _figure("What one metric costs the other")
        points = comparison.settings.drop(columns=["x", "y"], errors="ignore").join(trade_off.points, how="inner")
        for look, name, series in _series(points, comparison):
            axes.errorbar(
                series["x"], series["y"], series["y_se"], series["x_se"], label=name, elinewidth=0.8, markersize=5,
                linestyle="-" if _is_curve(series, comparison.axis) else "", linewidth=1,
                rasterized=len(series) > _MANY, **look,
            )  # fmt: skip
        front = points[points["front"]].sort_values("x")
        ring: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 10, "fillstyle": "none"}
        axes.plot(front["x"], front["y"], linestyle=":", label="Pareto front", **ring)
        if comparison.baseline in points.index:
            plain = points.loc[comparison.baseline]
            star: dict[str, Any] = {"color": INK, "marker": "*", "markersize": 12, "linestyle": ""}
            axes.plot(plain["x"], plain["y"], label=comparison.baseline_name, **star)
        axes.set(xlim=_focus(points["x"]), ylim=_focus(points["y"]))
        _orient(axes, trade_off)
        _legend(figure)
        return figure


def draw_curve(comparison: Comparison) -> Figure:
    """The metric against the swept number, with the 95 % interval of each mean and the one-standard-error choice."""
    with rc_context(_STYLE):
        axis, choice = comparison.axis, comparison.one_standard_error
        figure, axes = _figure(f"{comparison.metric} by {axis}")
        ran = comparison.settings[comparison.settings["n"] > 0]
        for look, name, series in _series(ran, comparison):
            if _is_curve(series, axis):
                x = series[axis].astype(float)
                axes.fill_between(x, series["low"], series["high"], color=look["color"], alpha=0.2, linewidth=0)
                axes.plot(x, series["mean"], label=name, markersize=4, linewidth=1, **look)
            elif len(series) == 1:
                across: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
                axes.plot(
                    [0, 1], [series["mean"].iloc[0]] * 2, label=name, linestyle="--", linewidth=1, **look, **across
                )
        if choice is not None:
            chosen = ran.loc[choice]
            ring: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 11, "fillstyle": "none", "linestyle": ""}
            axes.plot(float(chosen[axis]), chosen["mean"], label=f"one standard error: {show(chosen[axis])}", **ring)
        _scale(axes, ran[axis].dropna().astype(float))
        low, high = _focus(ran["mean"])
        reach = np.nan_to_num((ran["high"] - ran["low"]).median()) / 2
        axes.set(xlabel=axis, ylabel=comparison.metric, ylim=(low - reach, high + reach))
        _legend(figure)
        return figure


def draw_differences(comparison: Comparison, baseline: str, most: int = 20) -> Figure:
    """The paired difference of each setting from the baseline, the best on top, with its 95 % interval."""
    with rc_context(_STYLE):
        differences = comparison.differences(baseline).drop(index=baseline)
        differences = differences[differences["pairs"] > 0].head(most)[::-1]
        figure, axes = _figure(f"Difference from {comparison.baseline_name}", height=1.3 + 0.38 * len(differences))
        rows = np.arange(len(differences))
        reach = np.nan_to_num(
            [differences["difference"] - differences["low"], differences["high"] - differences["difference"]]
        )
        surely = (differences["low"] > 0) | (differences["high"] < 0)
        for clear, fill in ((True, "full"), (False, "none")):
            which = (surely == clear).to_numpy()
            axes.errorbar(
                differences["difference"][which], rows[which], xerr=reach[:, which], fmt="o", color=MARK,
                fillstyle=fill, capsize=3, markersize=6,
            )  # fmt: skip
        for row, setting in zip(rows, differences.index, strict=True):
            axes.annotate(
                _shorten(setting), (0.0, row), (2, 4), ("axes fraction", "data"), "offset points", fontsize=9.5
            )
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(
            yticks=[], ylim=(-0.6, len(rows)), xlabel=f"{comparison.metric}, minus that of {comparison.baseline_name}"
        )
        axes.spines["left"].set_visible(False)
        return figure


def svg(figure: Figure) -> str:
    """Returns the picture as SVG, the same for the same picture."""
    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", facecolor=PAPER, metadata={"Date": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Returns the picture as PNG on white."""
    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=144, facecolor=PAPER)
    return buffer.getvalue()


def _is_curve(series: pd.DataFrame, axis: str | None) -> bool:
    return axis is not None and len(series) > 1 and bool(series[axis].notna().all())


def _figure(title: str, height: float = 3.1) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_shorten(title))
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure, axes


def _series(points: pd.DataFrame, comparison: Comparison) -> Iterator[tuple[dict[str, Any], str, pd.DataFrame]]:
    """Splits settings into those that differ along the swept number alone, each with its look; many share the last."""
    names = comparison.series.reindex(points.index)
    order = list(dict.fromkeys(names))
    own = order if len(order) <= len(_LOOKS) else order[: len(_LOOKS) - 1]
    for look, name in zip(_LOOKS, own, strict=False):
        chosen = points[names == name]
        yield look, _shorten(name), chosen if comparison.axis is None else chosen.sort_values(comparison.axis)
    if len(own) < len(order):
        yield {"color": MUTED, "marker": "."}, f"{len(order) - len(own)} others", points[~names.isin(own)]


def _scale(axes: Axes, numbers: pd.Series) -> None:
    """Spreads numbers of several orders of magnitude evenly, and keeps a place for 0."""
    positive = numbers[numbers > 0]
    if (numbers >= 0).all() and len(positive) and positive.max() >= 100 * positive.min():
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
        low, high = np.log10(positive.min()), np.log10(positive.max())
        ticks = 10 ** np.arange(np.floor(low), high + 0.1, max(1, round((high - low) / 5)))
        axes.set_xticks([0, *ticks] if (numbers == 0).any() else ticks, minor=False)
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
        axes.margins(x=0.02)


def _focus(values: pd.Series) -> tuple[float, float]:
    """Returns limits that hold all values but those far off the middle half, which would press the rest together."""
    low, high = values.quantile([0.25, 0.75])
    reach = 3 * (high - low) or np.inf
    near = values[values.between(low - reach, high + reach)]
    margin = 0.06 * (near.max() - near.min()) or 0.01
    return near.min() - margin, near.max() + margin


def _orient(axes: Axes, trade_off: TradeOff) -> None:
    """Names the axes, with the better side up and to the right."""
    axes.set(xlabel=trade_off.x, ylabel=trade_off.y)
    for low, invert in zip(trade_off.lower, (axes.invert_xaxis, axes.invert_yaxis), strict=True):
        if low:
            invert()


def _legend(figure: Figure) -> None:
    """Puts the legend below, and makes room for it."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 24 else 1
    figure.set_figheight(figure.get_figheight() + 0.21 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def _shorten(name: str, most: int = 56) -> str:
    """Leaves out the groups of keys, and of a name that is still too long the middle."""
    name = re.sub(r"\S+\.(?=\w+=)", "", name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"

"""Plots that compare settings: trade-off, metric against a swept number, paired differences."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK
from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.labels import Label, place_labels
from lossbalance.sweeps.runs import show
from lossbalance.sweeps.style import (
    MARK,
    OTHERS,
    RING,
    SERIES_STYLES,
    STYLE,
    add_legend,
    make_figure,
    set_scale,
    shorten,
    use_logarithm,
)
from lossbalance.sweeps.trade_off import TradeOff

_MANY = 300  # points from which a picture in SVG draws them as pixels


def draw_trade_off(trade_off: TradeOff, comparison: Comparison) -> Figure:
    """Draws one metric against the other: settings, the curve along the swept number, the front, the baseline."""
    with rc_context(STYLE):
        figure, axes = make_figure("What one metric costs the other")
        points = comparison.settings.drop(columns=["x", "y"], errors="ignore").join(trade_off.points, how="inner")
        for style, name, series in split_series(points, comparison):
            curve = is_curve(series, comparison.axis)
            axes.errorbar(
                series["x"], series["y"], series["y_se"], series["x_se"], label=name,
                elinewidth=0.8, markersize=5, linestyle="-" if curve else "", linewidth=1,
                rasterized=len(series) > _MANY, **style,
            )  # fmt: skip
        front = points[points["front"]].sort_values("x")
        axes.plot(front["x"], front["y"], linestyle=":", label="Pareto front", **RING)
        if comparison.baseline in points.index:
            plain = points.loc[comparison.baseline]
            star: dict[str, Any] = {"color": INK, "marker": "*", "markersize": 12, "linestyle": ""}
            axes.plot(plain["x"], plain["y"], label=comparison.baseline_name, **star)
        axes.margins(0.1)
        set_scale(axes, "x", points["x"])
        set_scale(axes, "y", points["y"])
        _orient(axes, trade_off)
        add_legend(figure)
        place_labels(axes, _labels(points, comparison))
        return figure


def draw_curve(comparison: Comparison) -> Figure:
    """Draws the metric against the swept number, with the interval of each mean and the one-standard-error choice."""
    with rc_context(STYLE):
        axis, choice = str(comparison.axis), comparison.one_standard_error
        figure, axes = make_figure(f"{comparison.metric} by {axis}")
        ran = comparison.settings[comparison.settings["n"] > 0]
        for style, name, series in split_series(ran, comparison):
            if is_curve(series, axis):
                x = series[axis].astype(float)
                axes.fill_between(x, series["low"], series["high"], color=style["color"], alpha=0.2, linewidth=0)
                axes.plot(x, series["mean"], label=name, markersize=4, linewidth=1, **style)
            elif len(series) == 1:
                axes.axhline(series["mean"].iloc[0], label=name, linestyle="--", linewidth=1, color=style["color"])
        if choice is not None:
            chosen = ran.loc[choice]
            label = f"one standard error: {show(chosen[axis])}"
            axes.plot(float(chosen[axis]), chosen["mean"], label=label, linestyle="", **RING)
        scale_swept(axes, ran[axis].dropna().astype(float))
        axes.set(xlabel=axis, ylabel=comparison.metric, ylim=_limits(ran["mean"], ran["high"] - ran["low"]))
        set_scale(axes, "y", ran["mean"])
        add_legend(figure)
        best = ran[ran[axis].notna()].head(1)
        place_labels(axes, [Label(float(x), y, show(x), 1) for x, y in zip(best[axis], best["mean"], strict=True)])
        return figure


def draw_differences(comparison: Comparison, baseline: str, most: int = 20) -> Figure:
    """Draws the paired difference of each setting from the baseline, the best on top, with its 95 % interval."""
    with rc_context(STYLE):
        differences = comparison.differences(baseline).drop(index=baseline)
        differences = differences[differences["pairs"] > 0].head(most)[::-1]
        figure, axes = make_figure(f"Difference from {comparison.baseline_name}", height=1.3 + 0.38 * len(differences))
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
                shorten(setting), (0.0, row), (2, 6), ("axes fraction", "data"), "offset points", fontsize=9.5
            )
        axes.axvline(0, color=INK, linewidth=1)
        values = pd.concat([differences["difference"], pd.Series([0.0])])
        axes.set(
            yticks=[], ylim=(-0.6, len(rows)), xlim=_limits(values, differences["high"] - differences["low"]),
            xlabel=f"{comparison.metric}, minus that of {comparison.baseline_name}",
        )  # fmt: skip
        axes.spines["left"].set_visible(False)
        return figure


def is_curve(series: pd.DataFrame, axis: str | None) -> bool:
    """Whether the settings are several points along the swept number."""
    return axis is not None and len(series) > 1 and bool(series[axis].notna().all())


def split_series(points: pd.DataFrame, comparison: Comparison) -> Iterator[tuple[dict[str, Any], str, pd.DataFrame]]:
    """Splits settings into those that differ along the swept number alone, each with its style; many share the last."""
    names = comparison.series.reindex(points.index)
    order = list(dict.fromkeys(names))
    own = order if len(order) <= len(SERIES_STYLES) else order[: len(SERIES_STYLES) - 1]
    for style, name in zip(SERIES_STYLES, own, strict=False):
        chosen = points[names == name]
        yield style, shorten(name), chosen if comparison.axis is None else chosen.sort_values(comparison.axis)
    if len(own) < len(order):
        yield OTHERS, f"{len(order) - len(own)} others", points[~names.isin(own)]


def _labels(points: pd.DataFrame, comparison: Comparison) -> list[Label]:
    """Names each point by its number on the curve or by its setting; first those that the recommendation names."""
    axis, named = comparison.axis, {comparison.best, comparison.baseline, comparison.one_standard_error}
    ends = {extreme for series in _ends(points, comparison) for extreme in series}
    labels = []
    for setting, row in points.iterrows():
        number = None if axis is None or pd.isna(row[axis]) else row[axis]
        text = shorten(str(setting).removeprefix("loss="), 28) if number is None else show(number)
        rank = 0 if setting in named or setting in ends else 1 if row["front"] else 2
        labels.append(Label(row["x"], row["y"], text, rank))
    return labels


def _ends(points: pd.DataFrame, comparison: Comparison) -> Iterator[list[str]]:
    for _, _, series in split_series(points, comparison):
        if is_curve(series, comparison.axis):
            yield [series.index[0], series.index[-1]]


def scale_swept(axes: Axes, numbers: pd.Series) -> None:
    """Spreads numbers of several orders of magnitude evenly, and keeps a place for 0."""
    positive = numbers[numbers > 0]
    if (numbers >= 0).all() and len(positive) and positive.max() >= 100 * positive.min():
        use_logarithm(axes, "x", linear_to=positive.min(), linscale=0.5)
        low, high = np.log10(positive.min()), np.log10(positive.max())
        ticks = 10 ** np.arange(np.floor(low), high + 0.1, max(1, round((high - low) / 5)))
        axes.set_xticks([0, *ticks] if (numbers == 0).any() else ticks, minor=False)
        axes.margins(x=0.02)


def _limits(values: pd.Series, widths: pd.Series) -> tuple[float, float]:
    """Returns limits that hold all values, and of their intervals what a usual one needs."""
    low, high = values.min(), values.max()
    reach = np.nan_to_num(widths.dropna().median()) / 2 + 0.08 * (high - low)
    reach = reach or 0.05 * abs(high) or 0.01
    return low - reach, high + reach


def _orient(axes: Axes, trade_off: TradeOff) -> None:
    """Names the axes, with the better side up and to the right."""
    axes.set(xlabel=trade_off.x, ylabel=trade_off.y)
    for low, invert in zip(trade_off.lower, (axes.invert_xaxis, axes.invert_yaxis), strict=True):
        if low:
            invert()

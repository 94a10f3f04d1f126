"""Picture of the study of widths."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from lossbalance._utils.palette import PALETTE
from studies.width_transfer.study import NORMALIZATIONS
from studies.width_transfer.summary import transfer


def draw(results: pd.DataFrame, _: pd.DataFrame) -> Figure:
    """Draws the best strength against the width, the loss under a kept strength, and the shares of the penalty.

    Args:
        results: The rows of all cells.
        _: The summary.
    """
    table = transfer(results)
    smallest = table.index.get_level_values("width").min()
    figure = Figure(figsize=(9.6, 7.4), dpi=110, layout="constrained")
    best, loss, value, gradient = figure.subplots(2, 2).flat
    _draw_means(best, np.log10(table["best"]), scale=lambda exponent: 10.0**exponent)
    best.set(title="The best strength", ylabel=f"relative to that of width {smallest}", yscale="log")
    _draw_means(loss, table["kept_loss"], band=False)  # seeds differ by more than normalizations, but alike in all
    tuned = table["tuned_loss"].xs("sum", level="normalization").groupby("width").mean()
    loss.plot(tuned.index, tuned, color="black", linestyle=":", label="sum, strength tuned at each width")
    loss.set(title=f"Test loss, if the strength of width {smallest} is kept", ylabel="cross-entropy, mean over seeds")
    _draw_means(value, table["value_share"])
    value.set(title="The penalty's share of the value, strength kept", ylim=(0, 1))
    _draw_means(gradient, table["gradient_share"])
    gradient.set(title="Its share of the gradient, strength kept", ylim=(0, 1))
    for axes in (best, loss, value, gradient):
        _scale_widths(axes, table.index.get_level_values("width").unique())
    for axes in (value, gradient):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("mean over the steps")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    return figure


def _draw_means(
    axes: Axes, values: pd.Series, scale: Callable[[pd.Series], pd.Series] = pd.Series.copy, band: bool = True
) -> None:
    """Draws the mean over seeds against the width, with a band of one standard error."""
    known = set(values.index.get_level_values("normalization"))
    for name, colour, marker in zip(NORMALIZATIONS, PALETTE, "os^Dv", strict=False):
        if name not in known:
            continue
        mean, error = (values[name].groupby("width").agg(statistic).fillna(0.0) for statistic in ("mean", "sem"))
        axes.plot(mean.index, scale(mean), color=colour, marker=marker, markersize=5, label=name)
        if band:
            low, high = scale(mean - error), scale(mean + error)
            axes.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0)


def _scale_widths(axes: Axes, widths: pd.Index) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("width")
    axes.grid(alpha=0.3)

"""Plot of sparsity: weights or groups that are exactly zero against the strength of a penalty, beside the metric."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.plots import is_curve, scale_swept, split_series
from lossbalance.sweeps.runs import show
from lossbalance.sweeps.style import RING, STYLE, add_legend, set_scale

ZEROS_CAPTION = (
    "Weights, or groups of a group lasso, that are exactly zero at the end: mean over runs, and a band from the fewest "
    "to the most. Ringed: the strongest penalty within one standard error of the best."
)


def find_zeros(comparison: Comparison) -> str | None:
    """Returns the metric that counts the zeros of the penalty whose strength was swept; None if nothing was zero."""
    if comparison.axis is None or not comparison.axis.startswith("penalty."):
        return None
    counts = [name for name in comparison.runs.metrics if name.startswith("zeros/")]
    return next((name for name in counts if (comparison.runs.completed.metrics[name] > 0).any()), None)


def draw_zeros(comparison: Comparison) -> Figure:
    """Draws the metric and the number of zeros against the swept strength, with the one-standard-error choice."""
    with rc_context(STYLE):
        axis, choice = str(comparison.axis), comparison.one_standard_error
        figure = Figure(figsize=(4.8, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        ran = comparison.settings[comparison.settings["n"] > 0].join(_count(comparison))
        for style, name, series in split_series(ran, comparison):
            if is_curve(series, axis):
                for axes, column, ends in (upper, "mean", ("low", "high")), (lower, "zeros", ("fewest", "most")):
                    x = series[axis].astype(float)
                    axes.fill_between(x, *(series[end] for end in ends), color=style["color"], alpha=0.2, linewidth=0)
                    axes.plot(x, series[column], label=name, markersize=4, linewidth=1, **style)
        if choice is not None:
            chosen = ran.loc[choice]
            for axes, column in (upper, "mean"), (lower, "zeros"):
                label = f"one standard error: {show(chosen[axis])}, {chosen['zeros']:.3g} zeros"
                axes.plot(float(chosen[axis]), chosen[column], label=label, linestyle="", **RING)
        _finish(upper, lower, comparison, ran)
        add_legend(figure)
        return figure


def _count(comparison: Comparison) -> pd.DataFrame:
    """Returns the number of zeros by setting: the mean over runs, the fewest and the most."""
    completed = comparison.runs.completed
    counts = completed.metrics[find_zeros(comparison)].groupby(completed.info["setting"])
    return pd.DataFrame({"zeros": counts.mean(), "fewest": counts.min(), "most": counts.max()})


def _finish(upper: Axes, lower: Axes, comparison: Comparison, ran: pd.DataFrame) -> None:
    upper.set_title("Sparsity by strength")
    upper.set(ylabel=comparison.metric)
    lower.set(xlabel=comparison.axis, ylabel="exactly zero")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    scale_swept(lower, ran[comparison.axis].dropna().astype(float))
    set_scale(upper, "y", ran["mean"])
    for axes in (upper, lower):
        axes.grid(True)
        axes.set_axisbelow(True)

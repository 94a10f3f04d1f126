"""Picture of the study of budgets."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from lossbalance._utils.palette import INK, PALETTE
from studies.budget.summary import STAGED

_DRAWN = {
    "plain sum: rate": "-",
    "fixed weights: rate and weights": "-",
    f"fixed weights: rate and weights{STAGED}": "--",
    f"GradBalance, loss_sum: rate and ratios{STAGED}": "-",
    f"GradBalance, weight_sum: rate and ratios{STAGED}": "-",
}
_RANGE = (-0.035, 0.065)
_TICKS = (1, 2, 4, 8, 16, 30, 50)


def draw(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draws the error of each search against the trainings it spends, a panel for each optimizer.

    Args:
        results: The rows of all cells.
        summary: What :func:`studies.budget.summary.summarize` returned.
    """
    optimizers = list(dict.fromkeys(results["optimizer"]))
    figure = Figure(figsize=(5.2 * len(optimizers) + 0.6, 5.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(optimizers), sharey=True, squeeze=False)[0]
    for axes, optimizer in zip(panels, optimizers, strict=True):
        _draw_curves(axes, summary.loc[optimizer], optimizer)
    panels[0].set_ylabel("test error above the plain sum at its best rate")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
    tables, seeds = results["table"].nunique(), results["seed"].nunique()
    figure.suptitle(f"Test error against trainings spent: mean and standard error over {tables} tables, seeds: {seeds}")
    return figure


def _draw_curves(axes: Axes, summary: pd.DataFrame, optimizer: str) -> None:
    for (name, line), colour, marker in zip(_DRAWN.items(), PALETTE, "osD^v", strict=False):
        if name in summary.index:
            rows = summary.loc[name]
            axes.plot(rows.index, rows["mean"], line, color=colour, marker=marker, markersize=4, label=name)
            low, high = rows["mean"] - rows["se"], rows["mean"] + rows["se"]
            axes.fill_between(rows.index, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(title=optimizer, xlabel="trainings spent", xscale="log", ylim=_RANGE)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in _TICKS])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)

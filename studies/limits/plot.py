"""Picture of the study of limits."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, MUTED, PALETTE
from studies.limits.study import ALPHA, BALANCED, LIMIT, PLAIN

_BLUE, _ORANGE, _GREEN = PALETTE[:3]
_LOOKS = {
    LIMIT: (_BLUE, "o", "limit on the reconstruction (Constrained)"),
    ALPHA: (_ORANGE, "s", "weight of the reconstruction (alpha)"),
    PLAIN: (INK, "X", "plain sum"),
    BALANCED: (_GREEN, "D", "GradBalance"),
}
_SMALL = 1e-3  # a weight below this stands among the limits


def draw(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draws the accuracy against the reconstruction loss, and the loss reached under each limit against the limit.

    Args:
        results: The rows of all cells.
        summary: What :func:`studies.limits.study.summarize` returned.
    """
    figure = Figure(figsize=(10.8, 4.6), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    _draw_front(left, results, summary)
    _draw_reached(right, results[results["method"] == LIMIT])
    return figure


def _draw_front(axes: Axes, results: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Draws the mean of each setting, a line through those of a method, and each seed in pale."""
    for method, (colour, marker, label) in _LOOKS.items():
        seeds, rows = results[results["method"] == method], summary.loc[method]
        axes.plot(seeds["reconstruction"], seeds["accuracy"], ".", color=colour, alpha=0.3, markersize=5)
        axes.plot(rows["reconstruction"], rows["accuracy"], f"{marker}-", color=colour, linewidth=1.4, label=label)
        for setting, row in rows[rows.index > 0].iterrows():
            place, side = _place(method, setting)
            at = row["reconstruction"], row["accuracy"]
            axes.annotate(f"{setting:g}", at, place, textcoords="offset points", ha=side, color=colour, fontsize=8.5)
    axes.set(xlabel="reconstruction loss (test)", ylabel="right digits read (test)")
    axes.set_title("Limits and weights: up and left is better", fontsize=11)
    axes.legend(fontsize=8.5, frameon=False, loc="lower left")
    axes.grid(alpha=0.3)


def _place(method: str, setting: float) -> tuple[tuple[int, int], str]:
    """Returns where the number of a setting stands, off the lines."""
    if method == LIMIT:
        return (-6, 4), "right"
    return ((6, -13), "left") if setting < _SMALL else ((-8, -3), "right")


def _draw_reached(axes: Axes, results: pd.DataFrame) -> None:
    means = results.groupby("setting")["training"].mean()
    limits = means.index.to_numpy(dtype=float)
    axes.plot(limits, limits, color=INK, linestyle=":", linewidth=1.2, label="limit: at most this")
    axes.fill_between(limits, limits, limits.min() * 0.9, color=MUTED, alpha=0.15, linewidth=0)
    axes.plot(results["setting"], results["training"], ".", color=_BLUE, alpha=0.3, markersize=5)
    axes.plot(means, "o-", color=_BLUE, linewidth=1.4, label="reached: mean of the seeds")
    axes.set(xlabel="limit", ylabel="reconstruction loss (last epoch of training)")
    axes.set_title("Loss reached under each limit", fontsize=11)
    axes.legend(fontsize=8.5, frameon=False, loc="upper left")
    axes.grid(alpha=0.3)

"""The picture of the study of one run."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, PALETTE
from studies.one_run_answer import CONTROL, PLAIN, WORST_LIMIT, summarize

_BLUE, _ORANGE = PALETTE[:2]
_FULL = 4 * WORST_LIMIT  # from here on a colour is at its strongest


def draw_one_run(plain: pd.DataFrame, matched: pd.DataFrame, losses: pd.DataFrame) -> Figure:
    """Draws how far each scheme ends above the best fixed weights: on each table, at one scale, and by the loss.

    Args:
        plain: What :func:`studies.one_run_answer.compare` returned.
        matched: The same at a matched scale.
        losses: The same of the loss in place of the error.
    """
    order = _order(plain)
    whole = plain["excess"].unstack("table").loc[order]
    whole.columns = [str(name).replace("_", "\n") for name in whole.columns]
    panels = {
        "Test error above that of the best fixed weights of a sweep, %": whole.join(_extremes(plain)),
        "at one scale\n(loss_sum), %": _extremes(matched).reindex(order),
        "test loss in place\nof the error, %": _extremes(losses).loc[order],
    }
    widths = [table.shape[1] for table in panels.values()]
    figure = Figure(figsize=(0.74 * sum(widths) + 2.6, 0.34 * len(order) + 1.7), dpi=110, layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, 3, width_ratios=widths), panels.items(), strict=True):
        _draw(axes, table)
        axes.set_title(title, fontsize=10)
    for axes in figure.axes[1:]:
        axes.set_yticklabels([])
    return figure


def _order(plain: pd.DataFrame) -> list[str]:
    """Returns the schemes, best worst case first, and after them what they are compared with."""
    names = list(summarize(plain).index)
    references = [name for name in (PLAIN, CONTROL) if name in names]
    return [name for name in names if name not in references] + references


def _extremes(comparison: pd.DataFrame) -> pd.DataFrame:
    return summarize(comparison)[["mean", "worst"]]


def _draw(axes: Axes, table: pd.DataFrame) -> None:
    """Draws a table of numbers on colours: blue is better than the sweep, orange worse."""
    values = table.to_numpy(dtype=float)
    colours = LinearSegmentedColormap.from_list("excess", [_BLUE, "white", _ORANGE])
    axes.imshow(np.clip(values, -_FULL, _FULL), cmap=colours, vmin=-_FULL, vmax=_FULL, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            weight = "bold" if table.columns[column] in ("mean", "worst") else "normal"
            axes.text(column, row, _format(value), ha="center", va="center", fontsize=8, color=INK, weight=weight)
    axes.set_xticks(range(table.shape[1]), table.columns, fontsize=8)
    axes.set_yticks(range(len(table)), table.index, fontsize=9)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(table.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(table) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _format(value: float) -> str:
    return f"{100 * value:+.1f}" if abs(value) < 1 else f"{100 * value:+.0f}"

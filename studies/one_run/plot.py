"""Picture of the study of one run."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, PALETTE
from studies.one_run.summary import WORST_LIMIT, choose, compare, name_method

_BLUE, _ORANGE = PALETTE[:2]
_FULL = 4 * WORST_LIMIT  # from here on a colour is at its strongest
_STATISTICS = ["mean", "median", "worst"]


def draw(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draws how far each method ends above the best fixed weights on each table, in a panel for each scaling.

    Args:
        results: The rows of all cells.
        summary: What :func:`studies.one_run.summary.summarize` returned.
    """
    excess = compare(choose(results))["excess"].unstack("table")
    excess.columns = [str(name).replace("_", "\n") for name in excess.columns]
    table = excess.join(summary[_STATISTICS]).sort_values("worst")
    scalings = list(dict.fromkeys(results["scaling"]))
    counts = [len(table.xs(scaling)) for scaling in scalings]
    size = (0.62 * table.shape[1] + 2.2, 0.27 * len(table) + 0.5 * len(scalings) + 1.0)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(len(scalings), 1, sharex=True, squeeze=False, height_ratios=counts)
    for axes, scaling in zip(panels[:, 0], scalings, strict=True):
        part = table.xs(scaling, drop_level=False)
        _draw(axes, part.set_axis([name_method(("", *method[1:])) for method in part.index]), f"{scaling} targets")
    figure.suptitle("Test error above that of the best fixed weights of a sweep, in %", fontsize=11)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, title: str) -> None:
    """Draws a table of numbers on colours: blue is better than the sweep, orange worse."""
    axes.set_title(title, fontsize=10)
    values = table.to_numpy(dtype=float)
    colours = LinearSegmentedColormap.from_list("excess", [_BLUE, "white", _ORANGE])
    axes.imshow(np.clip(values, -_FULL, _FULL), cmap=colours, vmin=-_FULL, vmax=_FULL, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        weight = "bold" if table.columns[column] in _STATISTICS else "normal"
        colour = "white" if abs(value) > 0.7 * _FULL else INK
        axes.text(column, row, _format(value), ha="center", va="center", fontsize=8, color=colour, weight=weight)
    axes.set_xticks(range(table.shape[1]), table.columns, fontsize=8)
    axes.set_yticks(range(len(table)), table.index, fontsize=9)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(table.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(table) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _format(value: float) -> str:
    return f"{100 * value:+.1f}" if abs(value) < 1 else f"{100 * value:+.0f}"

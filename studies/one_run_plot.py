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


def draw_one_run(plain: pd.DataFrame, with_loss_sum: pd.DataFrame) -> Figure:
    """Draws how far each scheme ends above the best fixed weights on each table, as it is and with ``loss_sum``.

    Args:
        plain: What :func:`studies.one_run_answer.compare` returned.
        with_loss_sum: The same of the schemes with ``loss_sum``.
    """
    order = _order(plain, with_loss_sum)
    tables = [_tabulate(comparison).loc[order] for comparison in (plain, with_loss_sum)]
    size = (0.62 * tables[0].shape[1] + 1.8, 0.54 * len(order) + 1.6)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _draw(above, tables[0], "default settings")
    _draw(below, tables[1], "with loss_sum = number of terms")
    figure.suptitle("One run: test error above that of the best fixed weights of a sweep, in %", fontsize=11)
    return figure


def _order(plain: pd.DataFrame, with_loss_sum: pd.DataFrame) -> list[str]:
    """Returns the schemes by the worst case of the better form, and after them what they are compared with."""
    worst = np.minimum(summarize(plain)["worst"], summarize(with_loss_sum)["worst"]).drop([PLAIN, CONTROL])
    return [*worst.sort_values().index, PLAIN, CONTROL]


def _tabulate(comparison: pd.DataFrame) -> pd.DataFrame:
    table = comparison["excess"].unstack("table")
    table.columns = [str(name).replace("_", "\n") for name in table.columns]
    return table.join(summarize(comparison)[["mean", "worst"]])


def _draw(axes: Axes, table: pd.DataFrame, title: str) -> None:
    """Draws a table of numbers on colours: blue is better than the sweep, orange worse."""
    axes.set_title(title, fontsize=10)
    values = table.to_numpy(dtype=float)
    colours = LinearSegmentedColormap.from_list("excess", [_BLUE, "white", _ORANGE])
    axes.imshow(np.clip(values, -_FULL, _FULL), cmap=colours, vmin=-_FULL, vmax=_FULL, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        weight = "bold" if table.columns[column] in ("mean", "worst") else "normal"
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

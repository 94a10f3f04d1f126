"""Pictures of what each term did."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito (2008), https://jfly.uni-koeln.de/color: told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

_PANELS = {
    "loss": ("Loss, unweighted", "loss"),
    "weight": ("Weight", "weight"),
    "contribution": ("Contribution", "weight × loss"),
    "gradient_share": ("Gradient at the probes", "share of the norms"),
}
_DECADES = 30.0  # values further apart than this factor are drawn on a logarithmic scale


def draw_history(history: Sequence[Mapping[str, float]], time: str = "epoch") -> Figure:
    """Draws losses, weights, contributions and, where measured, gradient shares over time, one panel each.

    Args:
        history: One row for each point in time, with values such as ``loss/<term>``, as :class:`LossMonitor` logs them.
        time: The name of the time in a row, ``"epoch"`` or ``"step"``.

    Returns:
        The figure; ``figure.savefig(path)`` writes it.

    Example:
        >>> figure = draw_history([{"epoch": 0, "loss/data": 2.0, "weight/data": 1.0, "contribution/data": 2.0}])
        >>> [axes.get_title() for axes in figure.axes]
        ['Loss, unweighted', 'Weight', 'Contribution']
    """
    table = pd.DataFrame(history).set_index(time)
    panels = [quantity for quantity in _PANELS if table.columns.str.startswith(f"{quantity}/").any()]
    terms = [column.removeprefix("loss/") for column in table.columns if column.startswith("loss/")]
    figure = Figure(figsize=(3.6 * len(panels), 3.6), dpi=110, layout="constrained")
    for quantity, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False).flat, strict=True):
        _draw_panel(axes, table, quantity, terms)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    return figure


def _draw_panel(axes: Axes, table: pd.DataFrame, quantity: str, terms: Sequence[str]) -> None:
    values = table.reindex(columns=[f"{quantity}/{term}" for term in terms])
    for i, column in enumerate(values):
        style = ("-", "--", ":")[i // len(COLOURS) % 3]
        axes.plot(values.index, values[column], style, color=COLOURS[i % len(COLOURS)], label=terms[i], marker=".")
    title, unit = _PANELS[quantity]
    axes.set(title=title, ylabel=unit, xlabel=table.index.name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    lowest, highest = values.min().min(), values.max().max()
    if quantity == "gradient_share":
        axes.set_ylim(0, min(1.0, 1.1 * highest))
    elif 0 < lowest * _DECADES < highest:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)

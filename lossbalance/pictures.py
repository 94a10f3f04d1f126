"""Pictures of what each term did."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

_PANELS = {
    "loss": "Loss, unweighted",
    "weight": "Weight",
    "contribution": "Contribution = weight × loss",
    "gradient_share": "Share of the gradient at the probes",
}


def draw_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draws losses, weights, contributions and, where measured, gradient shares over time, one panel each.

    Args:
        history: One row per point in time: its ``epoch``, and values such as ``loss/<term>`` as
            :class:`LossMonitor` keeps them.

    Returns:
        The figure; ``savefig`` writes it.
    """
    table = pd.DataFrame(history)
    epochs = table.pop("epoch")
    panels = [kind for kind in _PANELS if table.columns.str.startswith(f"{kind}/").any()]
    figure = Figure(figsize=(5.0 * min(len(panels), 2), 3.4 * ((len(panels) + 1) // 2)), dpi=110, layout="constrained")
    axes = figure.subplots(-(-len(panels) // 2), min(len(panels), 2), squeeze=False).flat
    for kind, ax in zip(panels, axes, strict=False):
        _draw_panel(ax, kind, epochs, table)
    for ax in list(axes)[len(panels) :]:
        ax.remove()
    return figure


def _draw_panel(ax: Axes, kind: str, epochs: pd.Series, table: pd.DataFrame) -> None:
    columns = [column for column in table.columns if column.startswith(f"{kind}/")]
    for column, colour in zip(columns, COLOURS, strict=False):
        ax.plot(epochs, table[column], color=colour, marker="o", markersize=3, label=column.removeprefix(f"{kind}/"))
    ax.set_title(_PANELS[kind])
    ax.set_xlabel("epoch")
    ax.grid(alpha=0.3)
    ax.legend()

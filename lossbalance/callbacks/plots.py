"""Plots of losses, weights, contributions, gradient shares and cosines of a training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossbalance._utils.palette import MUTED, PALETTE
from lossbalance.callbacks.keys import key, names_of
from lossbalance.callbacks.many_terms import extremes

_PANELS = {
    "loss": ("Loss, unweighted", "loss"),
    "weight": ("Weight", "weight"),
    "contribution": ("Contribution", "weight × loss"),
    "gradient_share": ("Gradient at the probes", "share of the norms"),
    "cosine": ("Gradients at the branch", "cosine"),
}
_LEGEND = 6  # pairs of terms that a panel names
_DECADES = 30.0  # values further apart than this factor are drawn on a logarithmic scale


def draw_history(history: Sequence[Mapping[str, float]], time: str = "epoch") -> Figure:
    """Draws losses, weights, contributions and, where measured, gradient shares and cosines, one panel each.

    Of many terms those with the ten largest and the ten smallest losses are drawn, and the range of all.

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
    logged = dict.fromkeys(name for row in history for name in row)  # in order
    panels = [quantity for quantity in _PANELS if names_of(quantity, logged)]
    terms = list(extremes({term: history[-1].get(key("loss", term), math.nan) for term in names_of("loss", logged)}))
    width = 3.6 * len(panels)
    figure = Figure(figsize=(width, 3.6), dpi=110)
    for quantity, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False).flat, strict=True):
        pairs = names_of("cosine", logged)
        _draw_panel(axes, history, time, quantity, pairs if quantity == "cosine" else terms)
    # Margins in inches: a layout that is computed takes longer than the rest of the picture.
    figure.subplots_adjust(left=0.75 / width, right=1 - 0.15 / width, bottom=0.14, top=0.82, wspace=0.36)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper center", ncols=6, frameon=False)
    return figure


def send_picture(logger: Any, path: Path, figure: Figure, step: int) -> None:
    """Hands a picture to a logger of TensorBoard, Weights & Biases or MLflow; others take none."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):
        experiment.add_figure(path.stem, figure, step)
    elif hasattr(logger, "log_image"):
        logger.log_image(path.stem, [str(path)])
    elif hasattr(experiment, "log_artifact"):
        experiment.log_artifact(logger.run_id, str(path))


def _draw_panel(
    axes: Axes, history: Sequence[Mapping[str, float]], time: str, quantity: str, names: Sequence[str]
) -> None:
    times = [row[time] for row in history]
    series = [[row.get(key(quantity, name), math.nan) for row in history] for name in names]
    for i, (name, values) in enumerate(zip(names, series, strict=True)):
        style = ("-", "--", ":")[i // len(PALETTE) % 3]
        axes.plot(times, values, style, color=PALETTE[i % len(PALETTE)], label=name, marker=".")
    _draw_quantiles(axes, history, times, quantity)
    title, unit = _PANELS[quantity]
    axes.set(title=title, ylabel=unit, xlabel=time)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    known = [value for values in series for value in values if math.isfinite(value)] or [math.nan]
    lowest, highest = min(known), max(known)
    if quantity == "gradient_share":
        axes.set_ylim(0, min(1.0, 1.1 * highest) if highest > 0 else 1.0)
    elif quantity == "cosine":
        axes.set_ylim(-1, 1)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        if len(names) <= _LEGEND:
            axes.legend(frameon=False)
    elif 0 < lowest * _DECADES < highest:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def _draw_quantiles(axes: Axes, history: Sequence[Mapping[str, float]], times: Sequence[float], quantity: str) -> None:
    """Shades the range of all terms but the outer tenths, where there are many."""
    low, high = ([row.get(key("quantile", f"{quantity}/{q}"), math.nan) for row in history] for q in ("0.1", "0.9"))
    if any(map(math.isfinite, low)):
        axes.fill_between(times, low, high, color=MUTED, alpha=0.25, linewidth=0)

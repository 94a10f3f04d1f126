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
_PAIR_COLORS = ("#332288", "#882255", "#117733", "#999933", "#AA4499", "#44AA99")  # Tol's muted: none of the terms'
_LEGEND = 6  # pairs of terms that a panel names
_DECADES = 30.0  # values further apart than this factor are drawn on a logarithmic scale
_WIDTH, _HEIGHT, _COLUMNS = 3.6, 2.9, 3  # inches of a panel; panels in a row

Row = Mapping[str, float]


def draw_history(
    history: Sequence[Row], time: str = "epoch", validation: Sequence[Row] = (), title: str | None = None
) -> Figure:
    """Draws losses, weights, contributions and, where measured, gradient shares and cosines, one panel each.

    Of many terms those with the ten largest and the ten smallest losses are drawn, and the range of all.

    Args:
        history: One row for each point in time, with values such as ``loss/<term>``, as :class:`LossMonitor` logs them.
        time: The name of the time in a row, ``"epoch"`` or ``"step"``.
        validation: The plain losses of the validation at each of these times, by term: dashed lines.
        title: A line above the panels, or None.

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
    pairs = names_of("cosine", logged)
    figure, all_axes = _make_grid(len(panels), title)
    for quantity, axes in zip(panels, all_axes, strict=False):
        names, colors = (pairs, _PAIR_COLORS) if quantity == "cosine" else (terms, PALETTE)
        _draw_panel(axes, history, time, quantity, names, colors)
        if quantity == "loss" and any(validation):
            _draw_validation(axes, [row[time] for row in history], validation, terms)
        _scale(axes, quantity, len(names))
    if figure.axes:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=min(len(labels), 6), frameon=False)
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


def _make_grid(count: int, title: str | None) -> tuple[Figure, list[Axes]]:
    """Returns a figure with panels in rows of at most three, margins in inches: a computed layout takes seconds."""
    columns = 2 if count == 4 else min(max(count, 1), _COLUMNS)
    rows = max(-(-count // columns), 1)
    above = 0.65 if title else 0.35
    width, height = _WIDTH * columns, _HEIGHT * rows + above + 0.35
    figure = Figure(figsize=(width, height), dpi=110)
    if title:
        figure.suptitle(title, y=1 - 0.12 / height, va="top")
    figure.subplots_adjust(0.75 / width, 0.85 / height, 1 - 0.15 / width, 1 - above / height, wspace=0.36, hspace=0.42)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _draw_panel(
    axes: Axes, history: Sequence[Row], time: str, quantity: str, names: Sequence[str], colors: Sequence[str]
) -> None:
    times = [row[time] for row in history]
    for i, name in enumerate(names):
        values = [row.get(key(quantity, name), math.nan) for row in history]
        style = ("-", "-.", ":")[i // len(colors) % 3]  # dashed lines are the validation's
        axes.plot(times, values, style, color=colors[i % len(colors)], label=name, marker=".")
    _draw_quantiles(axes, history, times, quantity)
    title, unit = _PANELS[quantity]
    axes.set(title=title, ylabel=unit, xlabel=time)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.grid(alpha=0.3)


def _draw_validation(axes: Axes, times: Sequence[float], validation: Sequence[Row], terms: Sequence[str]) -> None:
    for i, term in enumerate(terms):
        values = [row.get(term, math.nan) for row in validation]
        axes.plot(times[: len(values)], values[: len(times)], "--", color=PALETTE[i % len(PALETTE)])
    axes.plot([], [], "--", color=MUTED, label="validation")


def _scale(axes: Axes, quantity: str, count: int) -> None:
    """Sets limits and scale of the values of a panel, of which it has ``count`` lines."""
    known = _finite_values(axes) or [math.nan]
    lowest, highest = min(known), max(known)
    if quantity == "gradient_share":
        axes.set_ylim(0, min(1.0, 1.1 * highest) if highest > 0 else 1.0)
    elif quantity == "cosine":
        axes.set_ylim(-1, 1)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        if count <= _LEGEND:
            axes.legend(frameon=False)
    elif 0 < lowest * _DECADES < highest:
        axes.set_yscale("log")


def _draw_quantiles(axes: Axes, history: Sequence[Row], times: Sequence[float], quantity: str) -> None:
    """Shades the range of all terms but the outer tenths, where there are many."""
    low, high = ([row.get(key("quantile", f"{quantity}/{q}"), math.nan) for row in history] for q in ("0.1", "0.9"))
    if any(map(math.isfinite, low)):
        axes.fill_between(times, low, high, color=MUTED, alpha=0.25, linewidth=0)


def _finite_values(axes: Axes) -> list[float]:
    lines: list[Any] = [line.get_ydata() for line in axes.get_lines()]
    return [float(value) for values in lines for value in values if math.isfinite(value)]

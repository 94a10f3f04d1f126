"""Learning curves of losses, weights and gradient shares: mean and band over runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossbalance.callbacks.keys import parse
from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.runs import Runs
from lossbalance.sweeps.style import SERIES_STYLES, STYLE, shorten, use_logarithm

QUANTITIES = {"loss": "loss, unweighted", "weight": "weight", "gradient_share": "share of the gradient"}
_MOST_SETTINGS, _MOST_RUNS, _MOST_TERMS = 4, 50, 6
_DECADES = 30.0  # values further apart than this factor are drawn on a logarithmic scale


def choose_settings(comparison: Comparison) -> list[str]:
    """Returns the settings whose courses are shown: the best, the baseline, the one-standard-error choice, the next."""
    named = [comparison.best, comparison.baseline, comparison.one_standard_error, *comparison.settings.index]
    ran = comparison.settings.index[comparison.settings["n"] > 0]
    return [name for name in dict.fromkeys(named) if name in ran][:_MOST_SETTINGS]


def read_courses(runs: Runs, settings: Sequence[str]) -> pd.DataFrame:
    """Reads ``metrics.csv`` of the completed runs of some settings.

    Returns:
        A row per setting, quantity, term and epoch: ``mean``, ``low`` and ``high`` over runs.
    """
    done = runs.completed.info
    parts = []
    for setting in settings:
        for folder in done.loc[done["setting"] == setting, "folder"].head(_MOST_RUNS):
            parts += [part.assign(setting=setting) for part in _read(Path(folder))]
    if not parts:
        return pd.DataFrame(columns=["setting", "quantity", "term", "epoch", "mean", "low", "high"])
    values = pd.concat(parts).groupby(["setting", "quantity", "term", "epoch"], sort=False)["value"]
    return pd.DataFrame({"mean": values.mean(), "low": values.min(), "high": values.max()}).reset_index()


def draw_courses(courses: pd.DataFrame, quantity: str, settings: Sequence[str]) -> Figure:
    """Draws one quantity over the epochs, a panel per term, a line per setting."""
    with rc_context(STYLE):
        chosen = courses[courses["quantity"] == quantity]
        terms = list(dict.fromkeys(chosen["term"]))[:_MOST_TERMS]
        columns = min(len(terms), 2)
        rows = -(-len(terms) // columns)
        figure = Figure(figsize=(4.8, 0.5 + 2.1 * rows + 0.21 * len(settings)), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=quantity != "loss").ravel()
        for axes, term in zip(panels, terms, strict=False):
            _draw_term(axes, chosen[chosen["term"] == term], settings)
            axes.set_title(shorten(term, 24))
        for axes in panels[len(terms) :]:
            axes.set_visible(False)
        for axes in panels[max(len(terms) - columns, 0) : len(terms)]:
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
        figure.supylabel(QUANTITIES[quantity], fontsize=10.5)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=1)
        return figure


def _draw_term(axes: Axes, course: pd.DataFrame, settings: Sequence[str]) -> None:
    axes.grid(True)
    for style, setting in zip(SERIES_STYLES, settings, strict=False):
        own = course[course["setting"] == setting].sort_values("epoch")
        axes.fill_between(own["epoch"], own["low"], own["high"], color=style["color"], alpha=0.2, linewidth=0)
        every = max(len(own) // 8, 1)
        axes.plot(
            own["epoch"], own["mean"], label=shorten(setting), linewidth=1.2, markevery=every, markersize=4, **style
        )
    low, high = course["low"].min(), course["high"].max()
    if 0 < low * _DECADES < high:
        use_logarithm(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))


def _read(folder: Path) -> list[pd.DataFrame]:
    """Returns the values of each quantity and term at the end of each epoch; nothing where the run left no table."""
    try:
        table = pd.read_csv(folder / "metrics.csv")
    except (OSError, ValueError):  # none, empty or broken
        return []
    parts = []
    for name in table.columns if "epoch" in table else ():
        quantity, term = parse(name) or ("", "")
        if quantity in QUANTITIES:
            ended = table.loc[table[name].notna(), ["epoch", name]].drop_duplicates("epoch", keep="last")
            values = pd.to_numeric(ended[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
            parts.append(pd.DataFrame({"epoch": ended["epoch"], "quantity": quantity, "term": term, "value": values}))
    return parts

"""Picture of the study of physics-informed networks."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, MUTED, PALETTE
from studies.pinn.study import AGGREGATORS, FIXED

_BLUE, _ORANGE, _GREEN = PALETTE[:3]
_SHOWN = 7  # courses with a colour of their own


def draw(results: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Draws the error against the steps of Adam, and the last error of each method.

    Args:
        results: The rows of all cells.
        errors: What :func:`studies.pinn.summary.summarize` returned.
    """
    figure = Figure(figsize=(11.5, 0.27 * len(errors) + 1.9), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _draw_courses(left, results[results["phase"] == "adam"], errors)
    _draw_ends(right, errors)
    return figure


def _draw_courses(axes: Axes, adam: pd.DataFrame, errors: pd.DataFrame) -> None:
    """Draws the geometric mean over seeds: some methods in colour, the others in grey."""
    logs = adam.assign(log=np.log10(adam["error"])).groupby(["method", "step"])["log"].mean()
    shown = _choose(errors)
    for name in errors.index:
        if name not in shown:
            axes.plot(10 ** logs[name], color=MUTED, linewidth=0.8, alpha=0.5)
    for i, name in enumerate(shown):
        axes.plot(
            10 ** logs[name], color=PALETTE[i], linewidth=1.8, marker="os^Dv*P"[i], markersize=4, label=_label(name)
        )
    axes.axhline(1, color=INK, linestyle=":", linewidth=1, label="u = 0")
    axes.set(yscale="log", xlabel="step of Adam", ylabel="relative L2 error", title="While Adam trains")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)


def _draw_ends(axes: Axes, errors: pd.DataFrame) -> None:
    rows = np.arange(len(errors))[::-1]
    for phase, marker, colour, shift in (("adam", "o", _BLUE, 0.12), ("lbfgs", "D", _ORANGE, -0.18)):
        if phase in errors:
            label = {"adam": "after Adam", "lbfgs": "after L-BFGS, too"}[phase]
            low, middle, high = (errors[f"{phase}{end}"] for end in ("_low", "", "_high"))
            axes.hlines(rows + shift, low, high, color=colour, linewidth=1.2)
            axes.plot(middle, rows + shift, marker, color=colour, markersize=5, label=label)
    axes.axvline(1, color=INK, linestyle=":", linewidth=1, label="u = 0")
    axes.set_yticks(rows, [_label(name) for name in errors.index], fontsize=8.5)
    for tick, name in zip(axes.get_yticklabels(), errors.index, strict=True):
        tick.set_color(_GREEN if name in AGGREGATORS else MUTED if name in FIXED else INK)
    axes.set(xscale="log", xlabel="relative L2 error", title="In the end (mean and extremes over seeds)")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(axis="x", alpha=0.3)


def _choose(errors: pd.DataFrame) -> list[str]:
    """Returns the methods to draw in colour: the plain sum, the best fixed weights, the best others, the worst."""
    fixed = [name for name in errors.index if name in FIXED]
    others = [name for name in errors.index if name not in FIXED]
    wanted = [next(iter(FIXED)), *fixed[:1], *others[: _SHOWN - 3], *others[-1:]]
    return [name for name in dict.fromkeys(wanted) if name in errors.index][:_SHOWN]


def _label(name: str) -> str:
    return f"{name} (the plain sum)" if name == next(iter(FIXED)) else name

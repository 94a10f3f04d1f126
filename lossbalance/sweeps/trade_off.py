"""Trade-off between two metrics: Pareto front and hypervolume."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossbalance.sweeps.runs import Runs


@dataclass(frozen=True)
class TradeOff:
    """Two metrics of each setting against each other.

    ``points`` has a row per setting with both: ``x, y``, their standard errors ``x_se, y_se``, and whether it is on the
    ``front``: no other setting is as good in one metric and better in the other. ``hypervolume`` is the part of the box
    between the worst and the best value of each metric that the front dominates.
    """

    x: str
    y: str
    lower: tuple[bool, bool]
    points: pd.DataFrame
    hypervolume: float


def trade_off(runs: Runs, x: str, y: str, lower: tuple[bool, bool]) -> TradeOff:
    """Returns the trade-off of the completed runs between the metrics ``x`` and ``y``."""
    completed = runs.completed
    values = completed.metrics[[x, y]].set_axis(["x", "y"], axis=1)
    groups = values[np.isfinite(values).all(axis=1)].groupby(completed.info["setting"])
    points = groups.mean().join((groups.std() / np.sqrt(groups.count())).add_suffix("_se"))
    goods = points[["x", "y"]].to_numpy() * [-1 if low else 1 for low in lower]
    points["front"] = pareto_front(goods)
    return TradeOff(x, y, lower, points, hypervolume(goods))


def pareto_front(goods: np.ndarray) -> np.ndarray:
    """Returns which of the points ``[n, 2]``, both coordinates to be large, no other point dominates."""
    front = np.zeros(len(goods), dtype=bool)
    reached = (-np.inf, -np.inf)  # the highest second coordinate so far, and the first coordinate where it was met
    for i in np.lexsort((-goods[:, 1], -goods[:, 0])):
        first, second = goods[i]
        if second > reached[0] or (second, first) == reached:
            front[i], reached = True, (second, first)
    return front


def hypervolume(goods: np.ndarray) -> float:
    """Returns the part of the points' bounding box that their Pareto front dominates; nan when the box is flat."""
    if len(goods) == 0:
        return np.nan
    worst, ideal = goods.min(axis=0), goods.max(axis=0)
    if (ideal <= worst).any():
        return np.nan
    corners = (goods[pareto_front(goods)] - worst) / (ideal - worst)
    corners = corners[np.argsort(-corners[:, 0])]
    steps = np.diff(corners[:, 1], prepend=0.0)
    return float((corners[:, 0] * steps).sum())


def default_trade_off(runs: Runs) -> tuple[str, str] | None:
    """Names the metrics of the first two terms on the validation data: a score where both have one, else the loss."""
    terms = next((terms for terms in runs.info["terms"] if len(terms) > 1), None)
    if terms is None:
        return None
    losses = tuple(f"val/loss/{term}" for term in terms[:2])
    scores = tuple(next((name for name in runs.metrics if name.startswith(f"val/{term}/")), None) for term in terms[:2])
    for pair in (scores, losses):
        if all(name in runs.metrics for name in pair):
            return str(pair[0]), str(pair[1])
    return None

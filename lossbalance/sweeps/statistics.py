"""What repeated runs say about settings: means, spreads, paired differences, the trade-off, and how sure that is."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lossbalance.sweeps.runs import Runs

CONFIDENCE = 0.95
_LOWER_IS_BETTER = re.compile(r"loss|error|mse|mae|nll|entropy|perplexity|residual|distance", re.IGNORECASE)
_PAIR = ["seed", "fold"]  # what two runs share to be a pair


def lower_is_better(metric: str) -> bool:
    """Whether a metric of this name is to be small, such as a loss or an error; others are to be large."""
    return _LOWER_IS_BETTER.search(metric) is not None


@dataclass(frozen=True)
class Comparison:
    """The completed runs of one task, compared by one metric.

    Args:
        runs: All runs of the task, failed ones too.
        metric: What is compared.
        lower: Whether a small value is a good one.
    """

    runs: Runs
    metric: str
    lower: bool

    @cached_property
    def values(self) -> pd.DataFrame:
        """One row per completed run that has the metric: ``setting, seed, fold, value``."""
        completed = self.runs.completed
        values = completed.info[["setting", *_PAIR]].assign(value=completed.metrics[self.metric])
        return values[np.isfinite(values["value"])]

    @cached_property
    def settings(self) -> pd.DataFrame:
        """One row per setting, the best first: ``n, failed, mean, sd, se, low, high, seconds`` and its choices.

        ``sd`` is the sample standard deviation, ``se`` the standard error ``sd / sqrt(n)``, and ``low`` to ``high``
        the interval of Student's t that holds the mean with a confidence of 95 %.
        """
        done = self.runs.completed.info.groupby("setting")
        groups = self.values.groupby("setting")["value"]
        first = self._first_runs
        table = pd.DataFrame({"n": groups.count(), "mean": groups.mean(), "sd": groups.std()}, index=first.index)
        table["n"] = table["n"].fillna(0).astype(int)
        every = self.runs.info["setting"].value_counts()
        table.insert(1, "failed", every.sub(done.size(), fill_value=0).astype(int))
        table["se"] = table["sd"] / np.sqrt(table["n"])
        half = _half_width(table["sd"], table["n"], self._overlap)
        table["low"], table["high"] = table["mean"] - half, table["mean"] + half
        table["seconds"] = done["seconds"].mean()
        choices = self.runs.choices.loc[first.to_numpy(), self.runs.distinguishing].set_axis(first.index)
        ranked = table.join(choices[choices.columns.difference(table.columns, sort=False)])
        return ranked.sort_values("mean", ascending=self.lower, na_position="last", kind="stable")

    @cached_property
    def baseline(self) -> str | None:
        """The setting that others are measured by; None if it did not run.

        It is equal weighting where schemes differ, training without penalty where penalties do, both where both do.
        """
        plain = self._plain.index[self._plain.all(axis=1)]
        return str(plain[0]) if len(plain) and self.baseline_name else None

    @cached_property
    def baseline_name(self) -> str:
        """What the baseline is called in a sentence."""
        return " and ".join(self._plain)

    @cached_property
    def best(self) -> str | None:
        """The setting with the best mean, of those that completed repeatedly, if any did, and never diverged."""
        info = self.runs.info
        diverged = set(info.loc[info["status"] == "diverged", "setting"])
        ran = self.settings[self.settings["n"] > 0]
        repeated = ran[ran["n"] > 1]
        for candidates in (repeated, ran):
            for setting in candidates.index:
                if setting not in diverged:
                    return str(setting)
        return None

    def differences(self, reference: str) -> pd.DataFrame:
        """Compares each setting with one of them over the runs that share seed and fold.

        Returns:
            By setting: ``pairs``, the mean ``difference`` from the reference, and the 95 % interval of the paired t
            test, ``low`` to ``high``. Folds share training data, so over folds the interval is widened.

        Source:
            Nadeau and Bengio (2003), Inference for the generalization error, section 5.
        """
        paired = self._paired(reference)
        half = _half_width(paired["sd"], paired["pairs"], self._overlap)
        return paired.assign(low=paired["difference"] - half, high=paired["difference"] + half)

    def surely_differs(self, setting: str, reference: str, comparisons: int = 1) -> bool:
        """Whether the interval of the difference leaves out 0, also after so many comparisons (Bonferroni)."""
        pair = self._paired(reference).loc[setting]
        half = _half_width(pair["sd"], pair["pairs"], self._overlap, comparisons)
        return bool(abs(pair["difference"]) > half)

    @cached_property
    def one_standard_error(self) -> str | None:
        """The simplest setting that is within one standard error of the best and differs in the swept number alone.

        Along ``alpha`` the simplest is the smallest, along any other number, such as a penalty's strength, the
        largest: both ends regularize most, as alpha = 1 / (1 + lambda).

        Source:
            Breiman, Friedman, Olshen and Stone (1984), section 3.4.3; ``lambda.1se`` of glmnet.
        """
        axis, along = self.axis, self.settings[self.settings["n"] > 0]
        along = along[along[axis].notna()] if axis else along[:0]
        if along.empty or not np.isfinite(along["se"].iloc[0]):
            return None
        series = self.series[along.index]
        along = along[series == series.iloc[0]]
        gap = (along["mean"] - along["mean"].iloc[0]).abs()
        near = along[gap <= along["se"].iloc[0]]
        order = near[axis].astype(float)
        return str(order.idxmin() if axis == "alpha" else order.idxmax())

    @cached_property
    def axis(self) -> str | None:
        """The number that was swept: alpha, or else the one with the most values, three at least."""
        columns = {key: self.settings[key].dropna() for key in self.runs.distinguishing if key in self.settings}
        counts = {
            key: column.nunique()
            for key, column in columns.items()
            if column.nunique() >= 3 and column.map(lambda value: isinstance(value, int | float)).all()
        }
        return "alpha" if "alpha" in counts else max(counts, key=lambda key: counts[key], default=None)

    @cached_property
    def series(self) -> pd.Series:
        """By setting, its name without the number that was swept: what makes a curve of points."""
        names = pd.Series(self.runs.label(left_out=[self.axis] if self.axis else []), index=self.runs.info["setting"])
        return names[~names.index.duplicated()]

    @cached_property
    def _plain(self) -> pd.DataFrame:
        """By setting, whether it weighs all terms alike and has no penalty, as far as that tells settings apart."""
        ran = self.settings.index[self.settings["n"] > 0]
        told = self.runs.choices.loc[self._first_runs[ran]].set_axis(ran).reindex(columns=["loss", "alpha", "penalty"])
        terms = next((terms for terms in self.runs.info["terms"] if terms), ())
        equal = told["loss"] == "equal"
        if not equal.any():
            equal = np.isclose(told["alpha"].astype(float) * len(terms), 1, rtol=1e-6)
        plain = pd.DataFrame({"equal weighting": equal, "training without penalty": told["penalty"] == "none"})
        return plain.loc[:, plain.any() & ~plain.all()]

    @cached_property
    def _first_runs(self) -> pd.Series:
        """By setting, the row of its first run."""
        readable = self.runs.info[self.runs.info["status"] != "broken"].drop_duplicates("setting")
        return pd.Series(readable.index, index=readable["setting"])

    @property
    def _overlap(self) -> float:
        """The size of a fold over that of the training data, if the runs are over folds."""
        folds = self.runs.info["folds"].dropna() if self.runs.info["fold"].nunique() > 1 else ()
        return 1 / (float(max(folds)) - 1) if len(folds) else 0.0

    def _paired(self, reference: str) -> pd.DataFrame:
        of_reference = self.values[self.values["setting"] == reference]
        both = self.values.merge(of_reference[[*_PAIR, "value"]], on=_PAIR, suffixes=("", "_reference"))
        groups = (both["value"] - both["value_reference"]).groupby(both["setting"])
        paired = pd.DataFrame({"pairs": groups.count(), "difference": groups.mean(), "sd": groups.std()})
        return paired.reindex(self.settings.index).fillna({"pairs": 0}).astype({"pairs": int})


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


def verdict(comparison: Comparison) -> str:
    """Says in one sentence what to use, and how sure that is."""
    best, settings, metric = comparison.best, comparison.settings, comparison.metric
    if best is None:
        return f"No run came to its end with a finite {metric}, so there is nothing to compare."
    row, count = settings.loc[best], int((settings["n"] > 0).sum())
    value = quantity(row["mean"], row["sd"])
    if count == 1:
        return f"Only one setting came to its end: `{best}`, with a {metric} of {value} (runs: {row['n']})."
    standing = f"the {'lowest' if comparison.lower else 'highest'} {metric} of {count} settings, {value}"
    if row["n"] < 2:
        return f"`{best}` has {standing}, but one run each cannot tell it from chance: repeat with seed=0,1,2."
    standing += f" over {row['n']} runs"
    if comparison.baseline in (None, best):
        return _judge_alone(comparison, best, standing)
    return _judge_against(comparison, best, standing, str(comparison.baseline), count)


def quantity(mean: float, sd: float) -> str:
    """Writes a mean and its standard deviation with as many digits as the deviation warrants."""
    if not np.isfinite(sd) or sd == 0:
        return f"{mean:.4g}"
    digits = 1 - int(np.floor(np.log10(sd)))
    return f"{mean:.{max(digits, 0)}f} ± {sd:.{max(digits, 0)}f}" if digits <= 6 else f"{mean:.4g} ± {sd:.2g}"


def _judge_alone(comparison: Comparison, best: str, standing: str) -> str:
    rivals = _within_noise(comparison, best)
    near = _name(rivals) if rivals else "no other setting is"
    if comparison.baseline == best:
        return f"Keep {comparison.baseline_name}: `{best}` has {standing}; {near} within noise of it."
    if len(rivals) == (comparison.settings["n"] > 0).sum() - 1:
        return f"The differences are within noise: `{best}` has {standing}, but {near} too close to tell apart."
    return f"Use `{best}`: it has {standing}; {near} within noise of it."


def _judge_against(comparison: Comparison, best: str, standing: str, baseline: str, count: int) -> str:
    pair, name = comparison.differences(baseline).loc[best], comparison.baseline_name
    if pair["pairs"] < 2:
        return f"`{best}` has {standing}, but too few of its runs share seed and fold with {name}."
    low, high = sorted(abs(pair[["low", "high"]])) if pair["low"] * pair["high"] > 0 else (pair["low"], pair["high"])
    gap = (
        f"{abs(pair['difference']):.3g} ({CONFIDENCE:.0%} interval {low:.3g} to {high:.3g}, {int(pair['pairs'])} pairs)"
    )
    if not comparison.surely_differs(best, baseline):
        return (
            f"The difference is within noise: `{best}` has {standing}, "
            f"but its distance from {name}, {gap}, may be chance: {name} will do."
        )
    rivals = [rival for rival in _within_noise(comparison, best) if rival != baseline]
    near = f"{_name(rivals) if rivals else 'no other setting is'} within noise of it"
    if comparison.surely_differs(best, baseline, comparisons=count - 1):
        return f"Use `{best}`: it has {standing}, better than {name} by {gap}; {near}."
    return (
        f"`{best}` is probably best: it has {standing}, better than {name} by {gap}, "
        f"but the best of so many owes something to luck, so confirm it with more seeds; {near}."
    )


def _within_noise(comparison: Comparison, best: str) -> list[str]:
    from_best = comparison.differences(best).drop(index=best)
    from_best = from_best[comparison.settings["n"].drop(index=best) > 0]
    alike = ~((from_best["low"] > 0) | (from_best["high"] < 0))  # too few pairs to tell count as alike
    return [str(setting) for setting in from_best.index[alike]]


def _name(settings: list[str]) -> str:
    if len(settings) > 3:
        return f"{len(settings)} others are"
    names = [f"`{setting}`" for setting in settings]
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _half_width(sd: pd.Series, n: pd.Series, overlap: float, comparisons: int = 1) -> pd.Series:
    """Half of Student's interval of a mean; ``overlap``, where folds share data, is test over training size."""
    quantile = stdtrit(np.maximum(n - 1, 1), 1 - (1 - CONFIDENCE) / 2 / comparisons)
    half = quantile * sd * np.sqrt(1 / np.maximum(n, 1) + overlap)
    return np.where(n > 1, half, np.nan) if np.ndim(n) else (half if n > 1 else np.nan)

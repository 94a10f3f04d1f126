"""Comparison of settings over repeated runs: means, spreads and paired differences."""

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
        half = half_width(table["sd"], table["n"], self.overlap)
        table["low"], table["high"] = table["mean"] - half, table["mean"] + half
        table["seconds"] = done["seconds"].mean()
        choices = self.runs.choices.loc[first.to_numpy(), self.runs.distinguishing].set_axis(first.index)
        ranked = table.join(choices[choices.columns.difference(table.columns, sort=False)])
        return ranked.sort_values("mean", ascending=self.lower, na_position="last", kind="stable")

    @cached_property
    def baseline(self) -> str | None:
        """The reference that other settings are compared with; None if it did not run.

        It is equal weighting where schemes differ, training without penalty where penalties do, both where both do.
        """
        plain = self._plain.index[self._plain.all(axis=1)]
        return str(plain[0]) if len(plain) and self.baseline_name else None

    @cached_property
    def baseline_name(self) -> str:
        """The name of the baseline in a sentence."""
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
        paired = self.paired(reference)
        half = half_width(paired["sd"], paired["pairs"], self.overlap)
        return paired.assign(low=paired["difference"] - half, high=paired["difference"] + half)

    def surely_differs(self, setting: str, reference: str, comparisons: int = 1) -> bool:
        """Whether the interval of the difference leaves out 0, also after so many comparisons (Bonferroni)."""
        pair = self.paired(reference).loc[setting]
        half = half_width(pair["sd"], pair["pairs"], self.overlap, comparisons)
        return bool(abs(pair["difference"]) > half)

    def paired(self, reference: str) -> pd.DataFrame:
        """Returns by setting the number of ``pairs`` with one of them, their mean ``difference`` and its ``sd``."""
        of_reference = self.values[self.values["setting"] == reference]
        both = self.values.merge(of_reference[[*_PAIR, "value"]], on=_PAIR, suffixes=("", "_reference"))
        groups = (both["value"] - both["value_reference"]).groupby(both["setting"])
        paired = pd.DataFrame({"pairs": groups.count(), "difference": groups.mean(), "sd": groups.std()})
        return paired.reindex(self.settings.index).fillna({"pairs": 0}).astype({"pairs": int})

    @property
    def overlap(self) -> float:
        """The size of a fold over that of the training data, if the runs are over folds."""
        folds = self.runs.info["folds"].dropna() if self.runs.info["fold"].nunique() > 1 else ()
        return 1 / (float(max(folds)) - 1) if len(folds) else 0.0

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
        """By setting, whether it weighs all terms alike and has no penalty, as far as that distinguishes settings."""
        ran = self.settings.index[self.settings["n"] > 0]
        choices = (
            self.runs.choices.loc[self._first_runs[ran]].set_axis(ran).reindex(columns=["loss", "alpha", "penalty"])
        )
        terms = next((terms for terms in self.runs.info["terms"] if terms), ())
        equal = choices["loss"] == "equal"
        if not equal.any():
            equal = np.isclose(choices["alpha"].astype(float) * len(terms), 1, rtol=1e-6)
        plain = pd.DataFrame({"equal weighting": equal, "training without penalty": choices["penalty"] == "none"})
        return plain.loc[:, plain.any() & ~plain.all()]

    @cached_property
    def _first_runs(self) -> pd.Series:
        """By setting, the row of its first run."""
        readable = self.runs.info[self.runs.info["status"] != "broken"].drop_duplicates("setting")
        return pd.Series(readable.index, index=readable["setting"])


def half_width(sd: pd.Series, n: pd.Series, overlap: float, comparisons: int = 1) -> pd.Series:
    """Half of Student's interval of a mean; ``overlap``, where folds share data, is test over training size."""
    quantile = stdtrit(np.maximum(n - 1, 1), 1 - (1 - CONFIDENCE) / 2 / comparisons)
    half = quantile * sd * np.sqrt(1 / np.maximum(n, 1) + overlap)
    return np.where(n > 1, half, np.nan) if np.ndim(n) else (half if n > 1 else np.nan)

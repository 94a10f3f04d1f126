"""What the study of one run says: how far every scheme ends above the best fixed weights, and which to take."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from studies.one_run import SWEEP

MEAN_LIMIT, WORST_LIMIT = 0.01, 0.05
"""How far above the best of a sweep a scheme may end that is to be taken without one: on average, and at the worst."""

PLAIN, CONTROL = "plain sum", "control"


def compare(results: pd.DataFrame, matched: bool = False, measure: str = "error") -> pd.DataFrame:
    """Returns how far each scheme ends above the best fixed weights, on each table.

    Args:
        results: What :func:`studies.one_run.study` returned.
        matched: Whether to compare schemes and sweep at one scale, by ``loss_sum``.
        measure: ``"error"``, which counts; or ``"loss"``.

    Returns:
        By scheme and table: ``excess``, the test error, a mean over seeds, relative to that of the fixed weights with
        the lowest validation error, less 1; and ``error_of_excess``, its standard error over seeds. The plain sum, and
        unless ``matched`` the control, the best of the sweep with ``loss_sum``, are among the schemes.
    """
    measured = results.rename(columns={f"validation_{measure}": "validation", f"test_{measure}": "test"})
    measured = measured[["scheme", "setting", "matched", "table", "seed", "validation", "test"]].fillna(np.inf)
    measured = measured.set_index(["scheme", "setting", "matched", "table", "seed"])
    best, control = _choose(measured, matched), _choose(measured, True)
    own = measured.xs(matched, level="matched")["test"]
    schemes = {name: own[name].droplevel("setting") for name in sorted(set(results["scheme"]) - {SWEEP})}
    schemes = {PLAIN: own[SWEEP].loc[0]} | ({} if matched else {CONTROL: control}) | schemes
    rows = {name: _excess(test, best) for name, test in schemes.items()}
    return pd.concat(rows, names=["scheme"])


def _choose(measured: pd.DataFrame, matched: bool) -> pd.Series:
    """Returns the test errors by table and seed, under the setting that has each table's lowest validation error."""
    tried = measured.loc[SWEEP].xs(matched, level="matched")
    settings = tried["validation"].groupby(["table", "setting"]).mean().groupby("table").idxmin()
    chosen = [tried["test"].loc[[setting], [table]].droplevel("setting") for table, setting in settings]
    return pd.concat(chosen)


def _excess(test: pd.Series, best: pd.Series) -> pd.DataFrame:
    base = best.groupby("table").mean()
    difference = (test - best).groupby("table")
    return pd.DataFrame({"excess": difference.mean() / base, "error_of_excess": difference.sem() / base})


def summarize(comparison: pd.DataFrame) -> pd.DataFrame:
    """Returns for each scheme the mean excess over tables, the largest, and the table where that is; best first.

    Args:
        comparison: What :func:`compare` returned.
    """
    table = comparison["excess"].unstack("table")
    columns = {"mean": table.mean(axis=1), "worst": table.max(axis=1), "where": table.idxmax(axis=1)}
    return pd.DataFrame(columns).sort_values("worst")


class Answer(NamedTuple):
    """Which scheme to take first."""

    scheme: str
    sentence: str


def answer(comparison: pd.DataFrame) -> Answer:
    """Chooses the scheme to take first: of those within both limits the lowest mean, or else the lowest worst excess.

    Args:
        comparison: What :func:`compare` returned.
    """
    schemes = summarize(comparison.drop([PLAIN, CONTROL], level="scheme", errors="ignore"))
    within = schemes[(schemes["mean"] <= MEAN_LIMIT) & (schemes["worst"] <= WORST_LIMIT)]
    first = within["mean"].idxmin() if len(within) else schemes.index[0]
    mean, worst, where = schemes.loc[first]
    excess = comparison["excess"].loc[first]
    said = f"Take {first} first: one run ends {_say(mean)} the best of a sweep on average over {len(excess)} tables"
    beyond = excess[excess > WORST_LIMIT].sort_values(ascending=False)
    if beyond.empty:
        return Answer(first, f"{said}, and at the worst {_say(worst)} it ({where}).")
    places = ", ".join(f"{table} ({share:+.1%})" for table, share in beyond.items())
    return Answer(first, f"{said}; not on tables such as {places}.")


def _say(share: float) -> str:
    return f"{abs(share):.1%} {'above' if share > 0 else 'below'}"

"""What the study of one run says: how far every scheme ends above the best fixed weights, and which to take."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from studies.one_run import SWEEP

MEAN_LIMIT, WORST_LIMIT = 0.01, 0.05
"""How far above the best of a sweep a scheme may end that is to be taken without one: on average, and at the worst."""

PLAIN, CONTROL = "plain sum", "control"


def compare(
    results: pd.DataFrame,
    loss_sum: bool = False,
    sweep_loss_sum: bool = False,
    measure: str = "error",
    checkpoint: str = "kept",
) -> pd.DataFrame:
    """Returns how far each scheme ends above the best fixed weights, on each table.

    Args:
        results: What :func:`studies.one_run.study` returned.
        loss_sum: Whether the schemes are those with ``loss_sum``.
        sweep_loss_sum: Whether the fixed weights are; with both, all are compared at one scale.
        measure: ``"error"``, which counts; or ``"loss"``.
        checkpoint: ``"kept"``, that with the lowest validation error of a training, or ``"last"``.

    Returns:
        By scheme and table: ``excess``, the test error, a mean over seeds, relative to that of the fixed weights with
        the lowest validation error, less 1; and ``error_of_excess``, its standard error over seeds. The plain sum and
        the control, the best of the sweep with ``loss_sum``, are among the schemes.
    """
    index = ["scheme", "setting", "matched", "table", "seed"]
    results = results[results["checkpoint"] == checkpoint]
    measured = results.rename(columns={f"validation_{measure}": "validation", f"test_{measure}": "test"})
    measured = measured[[*index, "validation", "test"]].fillna(np.inf).set_index(index)
    own = measured.xs(loss_sum, level="matched")["test"]
    schemes = {name: own[name].droplevel("setting") for name in sorted(set(results["scheme"]) - {SWEEP})}
    schemes = {PLAIN: own[SWEEP].loc[0], CONTROL: _choose(measured, True)} | schemes
    best = _choose(measured, sweep_loss_sum)
    return pd.concat({name: _excess(test, best) for name, test in schemes.items()}, names=["scheme"])


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


def answer(plain: pd.DataFrame, with_loss_sum: pd.DataFrame) -> Answer:
    """Chooses what to take first: of all within both limits the lowest mean, or else the lowest worst excess.

    Args:
        plain: What :func:`compare` returned.
        with_loss_sum: The same of the schemes with ``loss_sum``.
    """
    both = pd.concat([plain, with_loss_sum.rename(index="{} with loss_sum".format, level="scheme")])
    references = [f"{name}{form}" for name in (PLAIN, CONTROL) for form in ("", " with loss_sum")]
    schemes = summarize(both.drop(references, level="scheme", errors="ignore"))
    within = schemes[(schemes["mean"] <= MEAN_LIMIT) & (schemes["worst"] <= WORST_LIMIT)]
    first, *others = within.sort_values("mean").index if len(within) else schemes.index
    mean, worst, where = schemes.loc[first]
    excess = both["excess"].loc[first]
    said = f"Take {first} first: one run ends {_say(mean)} the best of a sweep on average over {len(excess)} tables"
    beyond = excess[excess > WORST_LIMIT].sort_values(ascending=False)
    if beyond.empty:
        held = f"; within the same limits {', '.join(others)}" if others else ""
        return Answer(first, f"{said}, and {_say(worst)} it where it does worst ({where}){held}.")
    places = ", ".join(f"{table} ({share:+.1%})" for table, share in beyond.items())
    return Answer(first, f"{said}; not on tables such as {places}.")


def _say(share: float) -> str:
    return f"{abs(share):.1%} {'above' if share > 0 else 'below'}"

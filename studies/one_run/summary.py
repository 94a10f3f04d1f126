"""Summary of the study of one run: the excess of each method's test error over that of the best fixed weights."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from studies.one_run.study import SWEEP

MEAN_LIMIT, WORST_LIMIT = 0.01, 0.05
"""How far above the best of a sweep a scheme may end that is to be taken without one: on average, and at the worst."""

PLAIN = "plain sum"
METHOD = ["scaling", "scheme", "scale"]
_LEVEL = 0.95  # of the intervals over tables


def choose(results: pd.DataFrame, checkpoint: str = "best", measure: str = "error") -> pd.DataFrame:
    """Returns each method's test error at its own best setting and learning rate.

    On each table the setting of the sweep and the learning rate are those with the lowest validation error, a mean over
    seeds. The plain sum, the first setting of the sweep, is a method of its own, too.

    Args:
        results: The rows of all cells.
        checkpoint: ``"best"``, the one with the lowest validation error of a training, or ``"last"``.
        measure: ``"error"``, which counts; or ``"loss"``.

    Returns:
        By scaling, scheme, scale, table and seed: ``test``, and ``trainings``, the number that a seed took.
    """
    rows = results[results["checkpoint"] == checkpoint].rename(
        columns={f"validation_{measure}": "validation", f"test_{measure}": "test"}
    )
    plain = rows[(rows["scheme"] == SWEEP) & (rows["setting"] == 0)].assign(scheme=PLAIN)
    rows = pd.concat([rows, plain]).fillna({"validation": np.inf, "test": np.inf})
    group = [*METHOD, "table"]
    validation = rows.groupby([*group, "setting", "rate"])["validation"].mean()
    best = validation.groupby(group).idxmin()
    chosen = pd.DataFrame(best.tolist(), columns=[*group, "setting", "rate"])
    chosen["trainings"] = validation.groupby(group).size().to_numpy()
    columns = [*group, "setting", "rate", "seed", "test"]
    return chosen.merge(rows[columns]).set_index([*group, "seed"])[["test", "trainings"]]


def compare(chosen: pd.DataFrame, baseline_scale: str = "own", same_scaling: bool = False) -> pd.DataFrame:
    """Returns how far each method ends above the best fixed weights of the sweep, on each table.

    Args:
        chosen: What :func:`choose` returned.
        baseline_scale: The scale of the sweep: ``"loss_sum"`` for a comparison at a matched scale.
        same_scaling: Whether the sweep is that on targets scaled as the method's, in place of raw ones.

    Returns:
        By scaling, scheme, scale and table: ``excess``, the test error, a mean over seeds, relative to that of the
        sweep, less 1; and ``error_of_excess``, its standard error over seeds.
    """
    tests = chosen["test"].unstack([*METHOD])
    scalings = tests.columns.get_level_values("scaling")
    first = "raw" if "raw" in scalings else scalings[0]
    excess = {}
    for method in tests:
        base = tests[method[0] if same_scaling else first, SWEEP, baseline_scale]
        difference = (tests[method] - base).groupby("table")
        mean = base.groupby("table").mean()
        excess[method] = pd.DataFrame({"excess": difference.mean() / mean, "error_of_excess": difference.sem() / mean})
    return pd.concat(excess, names=METHOD)


def aggregate(comparison: pd.DataFrame) -> pd.DataFrame:
    """Returns for each method statistics over tables, lowest mean first.

    Args:
        comparison: What :func:`compare` returned.

    Returns:
        ``mean``, ``low`` and ``high``, its 95 % interval (Student's t over tables), ``median``, ``worst``, and
        ``where`` that is.
    """
    table = comparison["excess"].unstack("table")
    mean, count = table.mean(axis=1), table.shape[1]
    half = t.ppf((1 + _LEVEL) / 2, count - 1) * table.sem(axis=1) if count > 1 else np.nan
    columns = {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "median": table.median(axis=1),
        "worst": table.max(axis=1),
        "where": table.idxmax(axis=1),
    }
    return pd.DataFrame(columns).sort_values("mean")


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Returns for each method statistics over tables of its excess over the best of the sweep.

    Args:
        results: The rows of all cells.

    Returns:
        By scaling, scheme and scale: ``trainings`` a seed took, the statistics of :func:`aggregate`; and ``mean`` and
        ``worst`` against the sweep at a matched scale (``matched_``), on targets of the same scaling (``same_``), at
        the last step (``last_``) and of the loss (``loss_``).
    """
    chosen = choose(results)
    summary = aggregate(compare(chosen))
    others = {
        "matched": compare(chosen, "loss_sum", same_scaling=True),
        "same": compare(chosen, same_scaling=True),
        "last": compare(choose(results, checkpoint="last")),
        "loss": compare(choose(results, measure="loss")),
    }
    for prefix, comparison in others.items():
        summary = summary.join(aggregate(comparison)[["mean", "worst"]].add_prefix(f"{prefix}_"))
    return summary.assign(trainings=chosen["trainings"].groupby(METHOD).max())


def tabulate(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Formats the summary."""
    named = summary.set_axis([name_method(method) for method in summary.index])
    columns = {
        "trainings": named["trainings"].astype(str),
        "mean [95 %]": named.apply(lambda row: f"{row['mean']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]", axis=1),
        "median": named["median"].map("{:+.1%}".format),
        "worst": named.apply(lambda row: f"{row['worst']:+.1%} {row['where']}", axis=1),
    }
    against = {"matched scale": "matched", "same scaling": "same", "last step": "last", "loss": "loss"}
    for title, prefix in against.items():
        pair = named[[f"{prefix}_mean", f"{prefix}_worst"]]
        columns[title] = pair.apply(lambda row: f"{row.iloc[0]:+.1%}, {row.iloc[1]:+.1%}", axis=1)
    tables, seeds = results["table"].nunique(), results["seed"].nunique()
    title = f"Test error above that of the best fixed weights of a sweep: {tables} tables, {seeds} seeds (mean, worst)"
    return {title: pd.DataFrame(columns).rename_axis("method")}


def name_method(method: Sequence[str]) -> str:
    """Returns a method in words, from scaling, scheme and scale."""
    scaling, scheme, scale = method
    name = "best of the sweep" if scheme == SWEEP else scheme
    with_scale = "" if scale == "own" else f" with {scale}"
    return f"{name}{with_scale}{', standardized' if scaling == 'standardized' else ''}"


def conclude(_: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Names the scheme to take: of all within both limits the lowest mean, or else the lowest worst excess.

    Args:
        _: The results.
        summary: What :func:`summarize` returned.
    """
    schemes = summary.drop([PLAIN, SWEEP], level="scheme").sort_values("worst")
    within = schemes[(schemes["mean"] <= MEAN_LIMIT) & (schemes["worst"] <= WORST_LIMIT)].sort_values("mean")
    best = (within if len(within) else schemes).iloc[0]
    conclusion = f"{name_method(best.name)}: one run ends {_say(best['mean'])} the best of the sweep on average"
    conclusion += f", {_say(best['worst'])} it on the worst table ({best['where']})"
    others = [name_method(method) for method in within.index[1:]]
    limits = f"at most {MEAN_LIMIT:.0%} above on average and {WORST_LIMIT:.0%} on the worst table"
    if within.empty:
        return f"{conclusion}; no scheme is {limits}."
    return f"{conclusion}; {limits}, too: {', '.join(others)}." if others else f"{conclusion}."


def _say(share: float) -> str:
    return f"{abs(share):.1%} {'above' if share > 0 else 'below'}"

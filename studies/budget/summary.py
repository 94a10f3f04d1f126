"""Summary of the study of budgets: the error that a search reaches, against the trainings it spends."""

from math import comb

import numpy as np
import pandas as pd

from studies.budget.study import BALANCED, FIXED

BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 30, 40, 50)
SEARCHES: dict[str, tuple[str, str, bool]] = {
    "plain sum: rate": (FIXED, "own", False),
    "fixed weights: rate and weights": (FIXED, "own", True),
    "GradBalance, loss_sum: rate": (BALANCED, "loss_sum", False),
    "GradBalance, loss_sum: rate and ratios": (BALANCED, "loss_sum", True),
    "GradBalance, weight_sum: rate": (BALANCED, "weight_sum", False),
    "GradBalance, weight_sum: rate and ratios": (BALANCED, "weight_sum", True),
}
"""Method, scale, and whether weights or ratios are searched beside the learning rate."""
STAGED = " (rate first)"
"""Searches that try every learning rate at equal weights or ratios first, and draw others at the best of them."""
_HIGHEST = 2.0  # errors count up to here; 1 is that of the best constant


def expect_best(validation: np.ndarray, test: np.ndarray, budget: int) -> float:
    """Returns the expected test error of the best in validation of ``budget`` trainings drawn from a pool.

    With the trainings in the order of their validation errors, the one at rank k of n is the best of b drawn without
    replacement with probability C(n - 1 - k, b - 1) / C(n, b).

    Args:
        validation: Validation errors of the pool.
        test: The test errors.
        budget: How many are drawn; all, if there are fewer.
    """
    count = len(validation)
    drawn = min(budget, count)
    ranked = test[np.argsort(validation, kind="stable")]
    chances = [comb(count - 1 - rank, drawn - 1) / comb(count, drawn) for rank in range(count - drawn + 1)]
    return float(np.dot(chances, ranked[: len(chances)]))


def expect_staged(pool: pd.DataFrame, budget: int) -> float:
    """Returns the expected test error of a search that tries the learning rates at equal weights first.

    Args:
        pool: Trainings with ``draw`` (0: equal), ``rate``, ``validation_error`` and ``test_error``.
        budget: How many are spent.
    """
    equal = pool[pool["draw"] == 0]
    if budget <= len(equal):
        return expect_best(*_errors(equal), budget)
    first = equal.loc[equal["validation_error"].idxmin()]
    drawn = pool[(pool["draw"] > 0) & (pool["rate"] == first["rate"])]
    validation, test = _errors(drawn)
    is_better = validation < first["validation_error"]
    test = np.where(is_better, test, first["test_error"])
    validation = np.minimum(validation, first["validation_error"])
    return expect_best(validation, test, budget - len(equal))


def _errors(pool: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return pool["validation_error"].to_numpy(), pool["test_error"].to_numpy()


def compute_curves(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the expected test error of each search at each budget, on each table from each seed.

    Args:
        results: The rows of all cells.

    Returns:
        Columns ``optimizer``, ``table``, ``seed``, ``search``, ``budget`` and ``excess``, the error relative to that of
        the plain sum at the best of all learning rates, less 1. A training that diverged counts with an error of 2,
        twice that of the best constant, which is also the highest. A search ends where its pool does.
    """
    results = results.fillna({"validation_error": np.inf, "test_error": _HIGHEST})
    results = results.assign(test_error=results["test_error"].clip(upper=_HIGHEST))
    rows = []
    for (optimizer, table, seed), cell in results.groupby(["optimizer", "table", "seed"]):
        reference = None
        for name, (method, scale, searches) in SEARCHES.items():
            pool = cell[(cell["method"] == method) & (cell["scale"] == scale)]
            pool = pool if searches else pool[pool["draw"] == 0]
            reference = reference or expect_best(*_errors(pool), len(pool))
            for budget in (budget for budget in BUDGETS if budget <= len(pool)):
                found = {name: expect_best(*_errors(pool), budget)}
                if searches and budget <= len(pool) / pool["rate"].nunique() + pool["rate"].nunique() - 1:
                    found[name + STAGED] = expect_staged(pool, budget)
                known = {"optimizer": optimizer, "table": table, "seed": seed, "budget": budget}
                rows += [known | {"search": search, "excess": error / reference - 1} for search, error in found.items()]
    return pd.DataFrame(rows)


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Returns statistics over tables for each optimizer, search and budget.

    Args:
        results: The rows of all cells.

    Returns:
        ``mean``, its standard error ``se`` over tables, ``median`` and ``worst``; seeds are averaged before.
    """
    curves = compute_curves(results)
    key = ["optimizer", "search", "budget"]
    by_table = curves.groupby([*key, "table"])["excess"].mean().groupby(key)
    return pd.DataFrame(
        {"mean": by_table.mean(), "se": by_table.sem(), "median": by_table.median(), "worst": by_table.max()}
    )


def tabulate(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Formats mean and standard error of each search at each budget, a table for each optimizer."""
    tables, seeds = results["table"].nunique(), results["seed"].nunique()
    cells = summary.apply(lambda row: f"{row['mean']:+.1%} ± {row['se']:.1%}", axis=1)
    order = [name for search in SEARCHES for name in (search, search + STAGED)]
    shown = {}
    for optimizer, part in cells.groupby("optimizer"):
        table = part.droplevel("optimizer").unstack("budget").fillna("")
        title = f"{optimizer}: test error against the plain sum at its best rate, {tables} tables, {seeds} seeds"
        shown[title] = table.loc[[name for name in order if name in table.index]]
    return shown


def conclude(_: pd.DataFrame, summary: pd.DataFrame) -> str:
    """States for each optimizer which search is ahead at 8 trainings, and at the end.

    Args:
        _: The results.
        summary: What :func:`summarize` returned.
    """
    said = []
    for optimizer, part in summary.groupby("optimizer"):
        table = part["mean"].droplevel("optimizer").unstack("budget")
        ends = [budget for budget in (1, 4, 8, table.columns.max()) if budget in table]
        best = [f"{table[budget].idxmin()} at {budget} ({table[budget].min():+.1%})" for budget in ends]
        said.append(f"{optimizer}: the lowest error is that of {', '.join(best)}")
    return f"{'; '.join(said)}."

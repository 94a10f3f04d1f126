"""Summary of the study of auxiliary losses: test loss of the main term relative to that of the main loss alone."""

import pandas as pd

from studies.auxiliary.cases import HARMFUL, KINDS, RELATED
from studies.auxiliary.methods import ALONE, ALPHAS, BALANCED, METHODS, PLAIN, name_alpha

BEST_ALPHA = "best alpha of the sweep"
CHOICES = {f"{ALONE} or {name}, by validation": (ALONE, name) for name in (PLAIN, f"{BALANCED}, Gate")}
"""Two trainings, of which the one with the lower validation loss is kept."""
_HARM, _WORST, _GAIN = 0.5, 2.0, 0.8  # the goals: per cent, per cent, part of the gain of the best alpha
_CASE = ["table", "kind", "rows"]


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the test loss of each method in each case relative to the main loss alone, in per cent.

    Losses are averaged over seeds. Alpha is chosen in each case by the mean validation loss over seeds, and 1, which is
    the main loss alone, is among the choices; choices between two trainings are made in each seed.

    Args:
        results: The rows of all cells.

    Returns:
        A row for each case, a column for each method.
    """
    wide = results.pivot_table(index=[*_CASE, "seed"], columns="method", values=["validation", "test"])
    validation, test = wide["validation"], wide["test"]
    for name, pair in CHOICES.items():
        test[name] = test[pair[0]].where(validation[pair[0]] <= validation[pair[1]], test[pair[1]])
    validation, test = (part.groupby(_CASE).mean() for part in (validation, test))
    sweep = [ALONE, *map(name_alpha, ALPHAS)]
    chosen = validation[sweep].idxmin(axis=1)
    test[BEST_ALPHA] = [test.loc[case, name] for case, name in chosen.items()]
    return 100 * test.div(test[ALONE], axis=0) - 100


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Computes a row for each method: mean and worst change by kind of auxiliary terms, and the part of the gain kept.

    Args:
        results: The rows of all cells.
    """
    changes = compare(results)
    by_kind = {kind: changes.xs(kind, level="kind") for kind in KINDS}
    columns = {kind: part.mean() for kind, part in by_kind.items()}
    columns |= {f"{kind}, worst": part.max() for kind, part in by_kind.items()}
    related = by_kind[RELATED].mean()
    summary = pd.DataFrame(columns | {"gain kept": related / related[BEST_ALPHA]})
    order = [BEST_ALPHA, *(name for name in METHODS if not name.startswith("alpha")), *CHOICES]
    return summary.loc[order].rename_axis("method")


def conclude(_: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Says which methods reach both goals, and which come closest.

    Args:
        _: The results.
        summary: What :func:`summarize` returned.
    """
    rows = summary.drop(index=[ALONE, BEST_ALPHA])
    is_safe = (rows[HARMFUL] <= _HARM) & (rows[f"{HARMFUL}, worst"] <= _WORST)
    is_useful = rows["gain kept"] >= _GAIN
    goals = f"at most {_HARM:g} % lost to harmful terms on average and {_WORST:g} % at worst"
    safe, both = list(rows.index[is_safe]), list(rows.index[is_safe & is_useful])
    if both:
        return f"With {goals}, and {_GAIN:.0%} of the gain of the best alpha kept: {'; '.join(both)}."
    best = rows.loc[safe, "gain kept"].idxmax() if safe else rows[f"{HARMFUL}, worst"].idxmin()
    row = rows.loc[best]
    return (
        f"No method has {goals}, and keeps {_GAIN:.0%} of the gain of the best alpha. {best} comes closest: "
        f"{row[HARMFUL]:+.1f} % on average, {row[f'{HARMFUL}, worst']:+.1f} % at worst, {row['gain kept']:.0%} kept."
    )


def tabulate(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Formats the changes in per cent, and the part of the gain that is kept."""
    columns = {name: summary[name].map("{:+.1f}".format) for name in summary if name != "gain kept"}
    table = pd.DataFrame(columns | {"gain kept": summary["gain kept"].map("{:.0%}".format)})
    seeds, cases = results["seed"].nunique(), len(results[_CASE].drop_duplicates()) // len(KINDS)
    return {f"test loss of the main term against {ALONE}, %, {cases} cases of {seeds} seeds for each kind": table}

"""Summary of the study of physics-informed networks."""

import pandas as pd

from studies.pinn.study import AGGREGATORS, FIXED

_TRIVIAL = 0.9
"""Errors above this are those of the solution u = 0, or worse."""


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Returns by method the geometric mean over seeds of the last error after Adam and after L-BFGS, and the extremes.

    Args:
        results: The rows of all cells.

    Returns:
        Columns ``adam``, ``adam_low``, ``adam_high``, and the same for ``lbfgs``; the lowest after Adam first.
    """
    last = results.sort_values("step").groupby(["method", "seed", "phase"])["error"].last()
    columns = {}
    for phase in ("adam", "lbfgs"):
        by_method = last.xs(phase, level="phase").groupby("method") if phase in results["phase"].unique() else None
        if by_method is not None:
            columns[phase] = by_method.apply(lambda errors: float(errors.prod() ** (1 / len(errors))))
            columns[f"{phase}_low"], columns[f"{phase}_high"] = by_method.min(), by_method.max()
    return pd.DataFrame(columns).sort_values("adam")


def conclude(_: pd.DataFrame, errors: pd.DataFrame) -> str:
    """Says which methods come to the best fixed weights of the sweep, and which do not leave u = 0.

    Args:
        _: The results.
        errors: What :func:`summarize` returned.
    """
    best = errors.loc[[name for name in FIXED if name in errors.index], "adam"]
    others = errors.drop(list(best.index))["adam"]
    matching = others[others <= 1.1 * best.min()]
    trivial = others[others > _TRIVIAL]
    plain = errors["adam"].get(next(iter(FIXED)))
    said = f"The best fixed weights ({best.idxmin()}) end at a relative error of {best.min():.3g}"
    said += "" if plain is None else f", the plain sum at {plain:.3g}"
    matched = ", ".join(f"{name} ({error:.3g})" for name, error in matching.items())
    said += f". With nothing tuned, {matched} match or beat them" if len(matching) else ". Nothing untuned matches them"
    stuck = ", ".join(f"{name} ({error:.3g})" for name, error in trivial.items())
    return f"{said}; to be avoided, for they end at u = 0 or worse: {stuck}." if stuck else f"{said}."


def tabulate(results: pd.DataFrame, errors: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Formats the errors after each phase, with their extremes."""
    columns = {"after Adam": "adam", "after L-BFGS": "lbfgs"}
    table = pd.DataFrame(index=errors.index.rename("method"), columns=list(columns), data="")
    for title, phase in columns.items():
        for name, row in errors.iterrows():
            if phase in _phases(errors, str(name)):
                table.loc[name, title] = f"{row[phase]:.3g} ({row[f'{phase}_low']:.2g} to {row[f'{phase}_high']:.2g})"
    seeds = results["seed"].nunique()
    return {f"Relative L2 error, geometric mean over {seeds} seeds (lowest to highest)": table}


def _phases(errors: pd.DataFrame, method: str) -> list[str]:
    return [phase for phase in ("adam", "lbfgs") if (phase in errors and method not in AGGREGATORS) or phase == "adam"]

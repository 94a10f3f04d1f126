"""What the study of physics-informed networks shows: a table, a picture, a sentence, files."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from studies.pinn import AGGREGATORS, FIXED, Settings, study
from studies.pinn_plot import draw_pinn

_TRIVIAL = 0.9
"""Errors above this are those of the solution u = 0, or worse."""


def report_pinn(
    settings: Settings, folder: Path, jobs: int, picture: Path | None = None, console: Console | None = None
) -> str:
    """Trains what is not trained yet, shows the table and the sentence, and writes files and a picture.

    Args:
        settings: What to train.
        folder: Where a stopped study goes on, and files are written.
        jobs: How many processes share the work.
        picture: Where the picture is written; None for ``pinn.png`` in the folder.
        console: Where to show progress and results.

    Returns:
        The sentence.
    """
    console = console or Console()
    results = study(settings, folder, jobs, console)
    results.to_csv(folder / "results.csv", index=False)
    errors = summarize(results)
    errors.to_csv(folder / "errors.csv")
    picture = picture or folder / "pinn.png"
    draw_pinn(results, errors).savefig(picture)
    console.print(_show(errors, settings.seeds))
    sentence = conclude(errors)
    console.print(sentence, soft_wrap=True)
    console.print(f"{picture}, {folder / 'errors.csv'}, {folder / 'results.csv'}", soft_wrap=True)
    return sentence


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Returns by method the geometric mean over seeds of the last error after Adam and after L-BFGS, and the extremes.

    Args:
        results: What :func:`studies.pinn.study` returned.

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


def conclude(errors: pd.DataFrame) -> str:
    """Says which methods come to the best fixed weights of the sweep, and which do not leave u = 0.

    Args:
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


def _show(errors: pd.DataFrame, seeds: int) -> Table:
    table = Table(
        title=f"Relative L2 error, geometric mean over {seeds} seeds (lowest to highest)", title_justify="left"
    )
    for column in ("method", "after Adam", "after L-BFGS"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in errors.iterrows():
        cells = [f"{row[p]:.3g} ({row[f'{p}_low']:.2g} to {row[f'{p}_high']:.2g})" for p in _phases(errors, str(name))]
        table.add_row(str(name), *cells)
    return table


def _phases(errors: pd.DataFrame, method: str) -> list[str]:
    return [phase for phase in ("adam", "lbfgs") if (phase in errors and method not in AGGREGATORS) or phase == "adam"]

"""Tables of a report: all numbers for ``results.csv``, cells for the page."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from lossbalance._utils.files import write_text
from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.runs import Runs
from lossbalance.sweeps.verdict import quantity

Cell = tuple[object, object]
"""A text, and the number that it is sorted by."""
_ENDS = ("se", "low", "high")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet executes


def tabulate_results(comparison: Comparison) -> pd.DataFrame:
    """Returns all numbers of each setting, a row each, the best first: what ``results.csv`` holds."""
    done = comparison.runs.completed
    metrics = done.metrics.groupby(done.info["setting"])
    parts = [
        comparison.settings.drop(columns=["mean", "sd"]).rename(
            columns={end: f"{comparison.metric} {end}" for end in _ENDS}
        ),
        metrics.mean().add_suffix(" mean"),
        metrics.std().add_suffix(" sd"),
        done.weights.groupby(done.info["setting"]).mean().add_prefix("weight "),
    ]
    if comparison.baseline is not None:
        differences = comparison.differences(comparison.baseline).drop(columns="sd")
        parts.insert(1, differences.add_prefix("vs baseline: "))
    return comparison.settings[[]].join(parts)


def tabulate_cells(results: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Returns the table of the page: cells of a text and the number to sort by."""
    others = [name for name in comparison.runs.metrics if name != comparison.metric]
    columns = {
        "setting": _cells(results.index, results.index),
        comparison.metric: _quantities(results, comparison.metric),
    }
    if comparison.baseline is not None:
        ends = results[["vs baseline: difference", "vs baseline: low", "vs baseline: high"]].to_numpy()
        texts = [f"{gap:+.3g} ({low:+.3g} to {high:+.3g})" for gap, low, high in ends]
        silent = ~np.isfinite(ends).all(axis=1) | (results.index == comparison.baseline)
        columns[f"minus {comparison.baseline_name} (95 %)"] = _cells(np.where(silent, "", texts), ends[:, 0])
    columns |= {
        "runs": _cells(results["n"], results["n"]),
        "not completed": _cells(results["failed"], results["failed"]),
    }
    columns |= {name: _quantities(results, name) for name in others}
    for name in [*(f"weight {term}" for term in comparison.runs.weights), "seconds"]:
        columns[name] = _cells([f"{value:.3g}" for value in results[name]], results[name])
    return pd.DataFrame(columns)


def _quantities(results: pd.DataFrame, metric: str) -> list[Cell]:
    means, spreads = results[f"{metric} mean"], results[f"{metric} sd"]
    return _cells([quantity(mean, sd) for mean, sd in zip(means, spreads, strict=True)], means)


def _cells(texts: Iterable[object], numbers: Iterable[object]) -> list[Cell]:
    return [("" if text == "nan" else text, number) for text, number in zip(texts, numbers, strict=True)]


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes numbers as numbers, and as text what a spreadsheet would take for a formula."""
    texts = {name: table[name].map(_as_text) for name in table if not is_numeric_dtype(table[name])}
    table = table.assign(**texts).rename(index=_as_text, columns=_as_text)
    write_text(path, table.to_csv(float_format="%.10g", index_label=_as_text(table.index.name)))


def _as_text(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def tabulate_runs(runs: Runs) -> pd.DataFrame:
    """Returns what is known of each run, a row each: what ``runs.csv`` holds."""
    info = runs.info.drop(columns=["written", "terms"]).set_index("folder")
    frames = [runs.choices[runs.distinguishing].add_prefix("choice "), runs.metrics, runs.weights.add_prefix("weight ")]
    return info.join([frame.set_axis(info.index) for frame in frames])

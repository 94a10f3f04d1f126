"""Summary of a run as tables on the terminal."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from lossbalance.callbacks.many_terms import extremes

_COLUMNS = {
    "loss": "loss",
    "weight": "weight",
    "contribution": "contribution",
    "value_share": "value",
    "gradient_share": "gradient",
}
_TITLE = "The last epoch of training; value, gradient: share of value, share of gradient"
_PAIRS = 10  # at most


def show(record: dict[str, Any]) -> None:
    """Prints the terms of the last epoch, and the test metrics.

    Args:
        record: The summary of a run.
    """
    console = Console()
    if record["last_epoch"]:
        console.print(f"[i]{_TITLE}[/i]", highlight=False, soft_wrap=True)
        table = Table(Column("term", overflow="fold"))
        rows = record["last_epoch"]
        sparse = ["zeros"] if any("zeros" in values for values in rows.values()) else []
        for column in [*_COLUMNS.values(), *sparse]:
            table.add_column(column, justify="right", no_wrap=True)
        shown = list(extremes({name: values["loss"] for name, values in rows.items()}))
        for name in shown:
            values = rows[name]
            cells = [*(_cell(column, values[column]) for column in _COLUMNS), *(_zeros(values) for _ in sparse)]
            table.add_row(escape(name), *cells)
        _print(console, table, len(shown), len(rows), "losses")
    if record.get("conflicts"):
        _show_conflicts(console, record["conflicts"])
    for diagnosis in record.get("diagnoses", []):
        console.print(f"! {diagnosis}", highlight=False, soft_wrap=True, markup=False)
    tested = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    if tested:
        show_test(tested, record["tested"])


def show_test(metrics: Mapping[str, float], tested: str) -> None:
    """Prints the metrics of a test.

    Args:
        metrics: The metrics by name.
        tested: The network that was tested, such as ``the last epoch``.
    """
    console = Console()
    console.print(f"[i]The test of {escape(tested)}[/i]", highlight=False, soft_wrap=True)
    table = Table(Column("test", overflow="fold"), "value")
    whole = {name for name in metrics if name.count("/") < 2}  # not of one term
    kept = whole.union(extremes({name: value for name, value in metrics.items() if name not in whole}))
    shown = [name for name in metrics if name in kept]
    for name in shown:
        table.add_row(escape(name.removeprefix("test/")), f"{metrics[name]:.4g}")
    _print(console, table, len(shown), len(metrics), "values")


def _print(console: Console, table: Table, shown: int, count: int, what: str) -> None:
    """Prints a table, and how many rows it lacks."""
    console.print(table)
    if shown < count:
        console.print(f"The largest and smallest {what} of {count}: summary.json has all.", highlight=False)


def _show_conflicts(console: Console, conflicts: Mapping[str, Mapping[str, float]]) -> None:
    """Prints the pairs of terms, in ascending order of cosine."""
    table = Table(Column("gradients at the branch", overflow="fold"), "cosine", "steps in conflict")
    for pair, found in sorted(conflicts.items(), key=lambda item: item[1]["cosine"])[:_PAIRS]:
        table.add_row(escape(pair), f"{found['cosine']:.2f}", f"{found['conflict']:.0%}")
    console.print(table)


def _zeros(values: Mapping[str, float]) -> str:
    """Formats the number of weights or groups of a penalty that are exactly zero."""
    if math.isnan(values.get("zeros", math.nan)):
        return "-"
    return f"{values['zeros']:.0f} of {values['size']:.0f}"


def _cell(column: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1%}" if column.endswith("share") else f"{value:.4g}"

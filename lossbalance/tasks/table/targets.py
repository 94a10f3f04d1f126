"""Infers the kind of each target: number, binary or classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lossbalance._utils.checks import check_word
from lossbalance.tasks.table.features import as_numbers, is_text

KINDS = ("number", "binary", "classes")
_MOST_CLASSES = 10  # whole numbers with no more different values than that are classes


@dataclass(frozen=True)
class Target:
    """A column that is to be predicted.

    Args:
        name: The name of the column, and of its term.
        kind: ``number``, ``binary`` or ``classes``.
        values: One for each row, nan where the label is missing: a number as it stands, or the number of a class.
        classes: The classes in order; none of a number.
    """

    name: str
    kind: str
    values: np.ndarray
    classes: tuple[str, ...] = ()


def find_targets(table: pd.DataFrame, kinds: Mapping[str, str]) -> list[Target]:
    """Returns the targets of the columns.

    Texts are classes, two of them are binary. Numbers are numbers, unless there are two different ones (binary) or they
    are whole and few (classes).

    Args:
        table: The columns of the targets.
        kinds: The kinds that are not to be found, by name.

    Raises:
        ValueError: If a kind is unknown or does not fit, or a target has no label or always the same.
    """
    for name, kind in kinds.items():
        check_word("task.kinds", name, list(table))
        check_word(f"task.kinds.{name}", kind, KINDS)
    return [_find(table[name], kinds.get(str(name))) for name in table]


def _find(column: pd.Series, kind: str | None) -> Target:
    name, labels = str(column.name), column.dropna()
    different = labels.nunique()
    if different < 2:
        got = "no label at all" if not different else f"{labels.iloc[0]} in all {len(labels)} rows that have a label"
        raise ValueError(f"`task.targets` must be columns that differ from row to row, got {name!r}: {got}.")
    kind = kind or _guess(column, different)
    if kind == "number":
        if is_text(column):
            raise ValueError(f"`task.kinds.{name}` must be binary or classes for a column of text, got 'number'.")
        return Target(name, kind, as_numbers(column))
    if kind == "binary" and different != 2:
        raise ValueError(f"`task.kinds.{name}` must be number or classes for {different} values, got 'binary'.")
    codes, classes = pd.factorize(column, sort=True)
    return Target(name, kind, np.where(codes < 0, np.nan, codes), tuple(map(str, classes)))


def _guess(column: pd.Series, different: int) -> str:
    if different == 2:
        return "binary"
    if is_text(column):
        return "classes"
    values = as_numbers(column)
    values = values[~np.isnan(values)]
    whole = bool((values == np.round(values)).all())
    return "classes" if whole and different <= _MOST_CLASSES else "number"

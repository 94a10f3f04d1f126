"""Infers the kind of each target: number, binary or classes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lossbalance._utils.checks import check_choice, did_you_mean
from lossbalance.tasks.table.values import as_numbers, check_clean, is_text, numbers_of, plain

KINDS = ("number", "binary", "classes")
_MOST_CLASSES = 10  # whole numbers with no more different values than that are classes
_MOST_TEXTS = 20  # likewise for text, or a tenth of the rows
_SCALES = (1e-18, 1e18)  # single precision holds the squares


@dataclass(frozen=True)
class Target:
    """A column that is predicted.

    Args:
        name: The name of the column, and of its term.
        kind: ``number``, ``binary`` or ``classes``.
        classes: The classes in order; empty for a number.
        mean: Of a number, over the training rows.
        scale: The standard deviation of a number over the training rows.
        frequency: That of the most frequent class in the training rows.
    """

    name: str
    kind: str
    classes: tuple[Any, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    frequency: float = 0.0

    @property
    def outputs(self) -> int:
        """Output size of the head."""
        return len(self.classes) if self.kind == "classes" else 1

    def labels(self, column: pd.Series) -> np.ndarray:
        """Returns a column as labels ``[rows]``: numbers in their own unit, or numbers of classes; nan where missing.

        Raises:
            ValueError: If a value is no number, or an unknown class.
        """
        if self.kind == "number":
            return numbers_of(column, "number")
        numbers = {each: float(number) for number, each in enumerate(self.classes)}
        known = column.dropna().map(plain)
        for value in known.unique():
            if value not in numbers:
                raise ValueError(
                    f"`task.path` must have the classes {list(self.classes)} in column {self.name!r}, as in training, "
                    f"got {value!r}{did_you_mean(value, map(str, self.classes))}."
                )
        return known.map(numbers).reindex(column.index).to_numpy(dtype=float)

    def state(self) -> dict[str, Any]:
        """Returns the target as plain values, for a checkpoint."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Target":
        """Returns the target of a checkpoint."""
        return cls(**{**state, "classes": tuple(state["classes"])})


def find_targets(table: pd.DataFrame, kinds: Mapping[str, str], training: np.ndarray) -> list[Target]:
    """Returns the targets of the columns.

    Texts are classes, two of them are binary. Numbers are numbers, unless there are two different ones (binary) or they
    are whole and few (classes).

    Args:
        table: The columns of the targets, with the numbers of their rows in the file as index.
        kinds: Kinds that are given instead of inferred, by name.
        training: The positions of the training rows.

    Raises:
        ValueError: If a kind is unknown or does not fit, or a target is constant, without labels, or neither of numbers
            nor of classes.
    """
    for name, kind in kinds.items():
        check_choice("task.kinds", name, list(table))
        check_choice(f"task.kinds.{name}", kind, KINDS)
    return [_describe(table[name], kinds.get(str(name)), training) for name in table]


def _describe(column: pd.Series, kind: str | None, training: np.ndarray) -> Target:
    """Returns the target of a column with the statistics of its training rows."""
    name, labels = str(column.name), column.dropna()
    different = labels.nunique()
    if different < 2:
        got = "no label at all" if not different else f"{labels.iloc[0]} in all {len(labels)} rows that have a label"
        raise ValueError(f"`task.targets` must be columns that differ from row to row, got {name!r}: {got}.")
    kind = kind or _infer_kind(column, different)
    if kind == "number":
        if is_text(column):
            check_clean("task.targets", column)
            raise ValueError(f"`task.kinds.{name}` must be binary or classes for a column of text, got 'number'.")
        known = as_numbers(column)[training]
        return _number(name, known[~np.isnan(known)])
    if kind == "binary" and different != 2:
        raise ValueError(f"`task.kinds.{name}` must be number or classes for {different} values, got 'binary'.")
    codes, classes = pd.factorize(column, sort=True)
    known = codes[training][codes[training] >= 0]
    frequency = float(np.bincount(known).max() / len(known)) if len(known) else 1.0
    return Target(name, kind, tuple(map(plain, classes)), frequency=frequency)


def _number(name: str, known: np.ndarray) -> Target:
    mean, scale = (float(known.mean()), float(known.std())) if len(known) else (0.0, 1.0)
    if scale and not _SCALES[0] < scale < _SCALES[1]:
        raise ValueError(
            f"`task.targets` must be numbers with a standard deviation from {_SCALES[0]:g} to {_SCALES[1]:g}, "
            f"got {name!r} with {scale:.3g}: use another unit."
        )
    return Target(name, "number", mean=mean, scale=scale or 1.0)


def _infer_kind(column: pd.Series, different: int) -> str:
    check_clean("task.targets", column)
    if different == 2:
        return "binary"
    if is_text(column):
        most = max(_MOST_TEXTS, len(column) // 10)
        if different > most:
            raise ValueError(
                f"`task.targets` must be numbers or classes, got {column.name!r} with {different} different texts in "
                f"{len(column)} rows, such as {column.dropna().iloc[0]!r} in row {int(column.dropna().index[0]) + 1}: "
                f"'task.kinds={{{column.name}: classes}}' makes classes of them."
            )
        return "classes"
    values = as_numbers(column)
    values = values[~np.isnan(values)]
    whole = bool((values == np.round(values)).all())
    return "classes" if whole and different <= _MOST_CLASSES else "number"

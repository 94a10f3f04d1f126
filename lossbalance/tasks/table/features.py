"""Encoding of columns as features, fitted on the training rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lossbalance.tasks.table.values import as_numbers, as_texts, is_date, is_text, numbers_of

log = logging.getLogger(__name__)
MOST_CATEGORIES = 1000  # of one text column: one-hot features


@dataclass(frozen=True)
class ColumnEncoding:
    """The features of one column.

    Args:
        name: The column.
        kind: ``number``, ``date`` or ``text``.
        shift: Subtracted from a number, or from the days since 1970 of a date.
        scale: What it is divided by then; 0 for a column that is constant over the training rows.
        missing: Whether a further feature marks missing numbers.
        categories: The texts, one feature each; the empty one is the missing text.
    """

    name: str
    kind: str
    shift: float = 0.0
    scale: float = 0.0
    missing: bool = False
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.categories) + (self.scale > 0) + self.missing

    def unknown(self, column: pd.Series) -> list[str]:
        """Returns the texts of a column that no training row has."""
        return sorted({*as_texts(column), ""} - {*self.categories, ""}) if self.kind == "text" else []

    def encode(self, column: pd.Series) -> list[np.ndarray]:
        """Returns the features of a column, ``[rows]`` each.

        Raises:
            ValueError: If a value is not of the column's kind; the message has its row.
        """
        if self.kind == "text":
            texts = as_texts(column)
            return [(texts == category).astype(float) for category in self.categories]
        values = numbers_of(column, self.kind)
        missing = np.isnan(values)
        features = [np.where(missing, 0.0, (values - self.shift) / self.scale)] if self.scale else []
        return [*features, missing.astype(float)] if self.missing else features


class Encoder:
    """Encodes the columns of a table as features.

    - Numbers and dates are standardized by mean and standard deviation of the training rows; a missing one is their
      mean, and a further feature says that it is missing.
    - Columns of two numbers, and booleans, become 0 and 1.
    - Text is one-hot encoded, a missing value as a category of its own. A category that no training row has is all
      zeros. Text with nearly as many categories as rows, such as names, is left out, with a notice.
    - Columns that are constant over the training rows are left out.

    Args:
        columns: The encoding of each column.
    """

    def __init__(self, columns: Sequence[ColumnEncoding]) -> None:
        self.columns = tuple(columns)
        self.width = sum(column.width for column in self.columns)

    @classmethod
    def fit(cls, table: pd.DataFrame, training: np.ndarray) -> "Encoder":
        """Returns the encoder of a table.

        Args:
            table: The columns.
            training: The numbers of the training rows.

        Raises:
            ValueError: If no feature is left.
        """
        fitted, crowded = [], []
        for name in table:
            counts = _crowded(table[name])
            if counts:
                crowded.append(f"{name!r} with {counts[0]} different texts in {counts[1]} rows")
            else:
                fitted.append(_fit_column(table[name], training))
        if not any(column.width for column in fitted):
            reason = f"got {list(table)}: each is the same in all training rows"
            raise ValueError("`task.features` must name columns that tell the rows apart, " + (
                f"got {crowded[0]}: leave it out by 'task.ignore=[{next(iter(table))}]', or make numbers of it."
                if crowded else f"{reason}."
            ))  # fmt: skip
        for each in crowded:
            log.warning("Text column left out: %s, as names or identifiers have.", each)
        return cls(fitted)

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """Returns the features ``[rows, features]`` of a table that has the columns."""
        features = [feature for column in self.columns for feature in column.encode(table[column.name])]
        return np.stack(features, axis=1).astype(np.float32)

    def state(self) -> list[dict[str, Any]]:
        """Returns the encodings as plain values, for a checkpoint."""
        return [{**asdict(column), "categories": list(column.categories)} for column in self.columns]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> "Encoder":
        """Returns the encoder of a checkpoint."""
        return cls([ColumnEncoding(**{**each, "categories": tuple(each["categories"])}) for each in state])


def _fit_column(column: pd.Series, training: np.ndarray) -> ColumnEncoding:
    name = str(column.name)
    if is_text(column):
        known = np.unique(as_texts(column)[training]).tolist()
        return ColumnEncoding(name, "text", categories=tuple(known) if len(known) > 1 else ())
    kind = "date" if is_date(column) else "number"
    values = as_numbers(column)[training]
    missing = np.isnan(values)
    shift, scale = _scale(values[~missing])
    return ColumnEncoding(name, kind, shift, scale, bool(missing.any() and not missing.all()))


def _scale(known: np.ndarray) -> tuple[float, float]:
    """Returns what to subtract, and what to divide by then; 0 and 0 for a constant."""
    if not known.size or known.min() == known.max():
        return 0.0, 0.0
    low, high = known.min(), known.max()
    if np.isin(known, [low, high]).all():  # rare ones stay small, as one-hot features do
        return float(low), float(high - low)
    return float(known.mean()), float(known.std())


def _crowded(column: pd.Series) -> tuple[int, int] | None:
    """Returns the numbers of different texts and of rows where a text column has too many; None where it has not."""
    if not is_text(column):
        return None
    texts = as_texts(column)
    count, most = len(np.unique(texts)), max(20, min(MOST_CATEGORIES, len(texts) // 2))
    return (count, len(texts)) if count > most else None

"""Encoding of columns as features."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from pandas.api import types
from torch import Tensor

MOST_CATEGORIES = 1000  # of one text column: one-hot features


def encode(table: pd.DataFrame, training: Tensor) -> np.ndarray:
    """Returns the features ``[rows, features]`` of a table.

    - Numbers and dates are standardized by mean and standard deviation of the training rows; a missing one is their
      mean, and a further feature says that it is missing.
    - Columns of two numbers, and booleans, become 0 and 1.
    - Text is one-hot encoded, a missing value as a category of its own. A category that no training row has is all
      zeros.
    - Columns that are constant over the training rows are left out.

    Args:
        table: The columns.
        training: The numbers of the training rows.

    Raises:
        ValueError: If a text column has too many categories, or no feature is left.
    """
    rows = training.numpy()
    features = [feature for name in table for feature in _encode_column(table[name], rows)]
    if not features:
        raise ValueError(
            f"`task.features` must name columns that tell the rows apart, got {list(table)}: each is the same in all "
            "training rows."
        )
    return np.stack(features, axis=1).astype(np.float32)


def _encode_column(column: pd.Series, training: np.ndarray) -> Iterator[np.ndarray]:
    if is_text(column):
        yield from _encode_text(column, training)
        return
    values = as_numbers(column)
    missing = np.isnan(values)
    known = values[training][~missing[training]]
    if known.size and known.min() < known.max():
        shift, scale = _scale(known)
        yield np.where(missing, 0.0, (values - shift) / scale)
    if missing[training].any() and not missing[training].all():
        yield missing.astype(float)


def _scale(known: np.ndarray) -> tuple[float, float]:
    """Returns what to subtract, and what to divide by then."""
    low, high = known.min(), known.max()
    if np.isin(known, [low, high]).all():  # rare ones stay small, as one-hot features do
        return low, high - low
    return known.mean(), known.std()


def _encode_text(column: pd.Series, training: np.ndarray) -> Iterator[np.ndarray]:
    texts = column.astype("string").fillna("")
    count, most = texts.nunique(), max(20, min(MOST_CATEGORIES, len(texts) // 2))
    if count > most:
        raise ValueError(
            f"`task.features` must be numbers or text of few categories, got {column.name!r} with {count} different "
            f"texts in {len(texts)} rows: leave it out by 'task.ignore=[{column.name}]', or make numbers of it."
        )
    values = texts.to_numpy()
    known = np.unique(values[training])
    if len(known) > 1:
        for category in known:
            yield (values == category).astype(float)


def is_text(column: pd.Series) -> bool:
    """Whether a column holds text, not numbers, dates or booleans."""
    return not (types.is_numeric_dtype(column) or types.is_bool_dtype(column) or types.is_datetime64_any_dtype(column))


def as_numbers(column: pd.Series) -> np.ndarray:
    """Returns a column as numbers, nan where they are missing or infinite; dates as days."""
    if types.is_datetime64_any_dtype(column):
        days = (column - column.min()) / pd.Timedelta(days=1)
        return days.to_numpy(dtype=float, na_value=np.nan)
    values = column.to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)

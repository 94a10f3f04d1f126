"""Numbers out of columns: what the network sees of a table."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from pandas.api import types
from torch import Tensor

MOST_WORDS = 1000  # different words of one column that become columns of their own


def encode(table: pd.DataFrame, training: Tensor) -> np.ndarray:
    """Returns the features ``[rows, features]`` of a table.

    - Numbers and dates are standardized by mean and standard deviation of the training rows; a missing one is their
      mean, and a further feature says that it is missing.
    - Columns of two numbers, and of yes and no, become 0 and 1.
    - Each word of a column of words becomes a feature that is 1 where it stands, also the missing word. A word that no
      training row has is none.
    - What is the same in all training rows is left out.

    Args:
        table: The columns.
        training: The numbers of the training rows.

    Raises:
        ValueError: If a column has too many words, or nothing is left.
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
    if is_words(column):
        yield from _encode_words(column, training)
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
    if np.isin(known, [low, high]).all():  # rare ones stay small, as words do
        return low, high - low
    return known.mean(), known.std()


def _encode_words(column: pd.Series, training: np.ndarray) -> Iterator[np.ndarray]:
    words = column.astype("string").fillna("")
    count, most = words.nunique(), max(20, min(MOST_WORDS, len(words) // 2))
    if count > most:
        raise ValueError(
            f"`task.features` must be numbers or columns of few words, got {column.name!r} with {count} different ones "
            f"in {len(words)} rows: leave it out by 'task.ignore=[{column.name}]', or make numbers of it."
        )
    values = words.to_numpy()
    known = np.unique(values[training])
    if len(known) > 1:
        for word in known:
            yield (values == word).astype(float)


def is_words(column: pd.Series) -> bool:
    """Whether a column holds words, not numbers, dates, or yes and no."""
    return not (types.is_numeric_dtype(column) or types.is_bool_dtype(column) or types.is_datetime64_any_dtype(column))


def as_numbers(column: pd.Series) -> np.ndarray:
    """Returns a column as numbers, nan where they are missing or infinite; dates as days."""
    if types.is_datetime64_any_dtype(column):
        days = (column - column.min()) / pd.Timedelta(days=1)
        return days.to_numpy(dtype=float, na_value=np.nan)
    values = column.to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)

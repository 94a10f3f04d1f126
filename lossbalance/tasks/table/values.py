"""Values of a column: numbers, dates and texts."""

import numpy as np
import pandas as pd
from pandas.api import types

_EPOCH = pd.Timestamp("1970-01-01")
_THOUSANDS = r"[+-]?\d{1,3}(?:[,.' ]\d{3})+(?:\.\d+)?"
_WITH_UNIT = r"^[+-]?\d+(?:[.,]\d+)?\s*([^\d\s.,]{1,6})$"
_FEW = 10  # different values of a column of classes


def is_text(column: pd.Series) -> bool:
    """Whether a column holds text, not numbers, dates or booleans."""
    return not (types.is_numeric_dtype(column) or types.is_bool_dtype(column) or is_date(column))


def is_date(column: pd.Series) -> bool:
    """Whether a column holds dates."""
    return bool(types.is_datetime64_any_dtype(column))


def as_texts(column: pd.Series) -> np.ndarray:
    """Returns a column as texts; a missing one is empty, and 3.0 is "3"."""
    if types.is_float_dtype(column):
        column = column.map(plain, na_action="ignore")
    return np.where(column.isna(), "", column.astype(object).map(str)).astype(object)


def as_numbers(column: pd.Series) -> np.ndarray:
    """Returns a column as numbers, nan where they are missing or infinite; dates as days since 1970."""
    if is_date(column):
        if getattr(column.dtype, "tz", None) is not None:
            column = column.dt.tz_convert(None)
        return ((column - _EPOCH) / pd.Timedelta(days=1)).to_numpy(dtype=float, na_value=np.nan)
    values = column.to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def numbers_of(column: pd.Series, kind: str) -> np.ndarray:
    """Returns a column as numbers once all its values are of the kind that it had in training.

    Raises:
        ValueError: If one is not; the message has its row.
    """
    if kind == "date" and not is_date(column) and column.notna().any():
        raise ValueError(
            f"`task.path` must have dates in column {column.name!r}, as in training, got {_first(column)}."
        )
    if is_text(column):
        numbers = pd.to_numeric(column, errors="coerce")
        wrong = column[numbers.isna() & column.notna()]
        if len(wrong):
            raise ValueError(
                f"`task.path` must have numbers in column {column.name!r}, as in training, got {_first(wrong)}."
            )
        column = numbers
    elif kind == "number" and is_date(column):
        raise ValueError(f"`task.path` must have numbers in column {column.name!r}, as in training, got dates.")
    return as_numbers(column)


def check_clean(key: str, column: pd.Series) -> None:
    """Refuses a column of numbers that some texts stand among, which would make it one of text.

    Args:
        key: The setting that names the column, such as ``task.targets``.
        column: The column, with the numbers of its rows in the file as index.

    Raises:
        ValueError: If there is such a text; the message has its row.
    """
    if not is_text(column) or not column.notna().any():
        return
    texts = column.dropna().astype(str).str.strip()
    numbers = pd.to_numeric(texts, errors="coerce")
    other = texts[numbers.isna()]
    grouped = other.str.fullmatch(_THOUSANDS)
    refused = f"`{key}` must be columns of numbers or of text, got {column.name!r}"
    if grouped.any() and len(other[~grouped]) <= len(texts) // 2 and not _is_dirty(texts, numbers, other[~grouped]):
        first = other[grouped]
        mark = next(mark for mark in ",.' " if mark in first.iloc[0])
        raise ValueError(
            f"{refused} of numbers with thousands separators, {_first(first)}: say so by \"task.thousands='{mark}'\"."
        )
    if _is_dirty(texts, numbers, other[~grouped]):
        raise ValueError(f"{refused} of numbers with {_first(other[~grouped])}: correct that cell, or leave it empty.")
    units = texts.str.extract(_WITH_UNIT, expand=False)
    if units.notna().all() and units.nunique() == 1 and texts.nunique() > _FEW:
        raise ValueError(f"{refused} of numbers with a unit, {_first(texts)}: leave out the unit.")


def _is_dirty(texts: pd.Series, numbers: pd.Series, other: pd.Series) -> bool:
    """Whether some texts stand in a column of numbers: few beside many different numbers, or a single one."""
    if other.empty or numbers.notna().sum() == 0:
        return False
    few = len(other) < len(texts) / 2 or other.nunique() <= 3
    return bool(few and numbers.nunique() > _FEW) or (len(other) == 1 and len(texts) >= 2 * _FEW)


def plain(value: object) -> object:
    """Returns a value as one of Python's: a whole number as an integer, anything but numbers and booleans as text."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.integer | np.floating):
        number = float(value)
        return int(value) if number.is_integer() else number
    return str(value)


def _first(column: pd.Series) -> str:
    """Returns the first value and its row, counted below the header."""
    known = column.dropna()
    return f"{known.iloc[0]!r} in row {int(known.index[0]) + 1}"

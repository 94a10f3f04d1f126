"""Reading of CSV and Parquet files."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from lossbalance._utils.checks import did_you_mean
from lossbalance.tasks.table.values import is_text

_ISO = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?"
_DAYS = ("%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")
_FORMATS = [f"{day}{time}" for day in _DAYS for time in ("", " %H:%M", " %H:%M:%S")]
_PARQUET = (".parquet", ".pq")
_MISSING = ["?"]  # beside what pandas takes for a missing value, such as an empty cell or NA


def read_table(path: str, thousands: str | None = None) -> pd.DataFrame:
    """Returns the table of a CSV file, perhaps compressed, or of a Parquet file.

    Commas, semicolons, tabs and bars are distinguished by the first line. A column of a CSV file whose texts are all
    dates of one format, such as 2024-02-29, 2024-02-29 08:15, 2024/2/29, 29.02.2024 or 29 Feb 2024, becomes one of
    dates; 02/03/2024 only where another row says which of the two is the month.

    Args:
        path: The file.
        thousands: The thousands separator of numbers in a CSV file.

    Raises:
        TypeError: If ``path`` is not text.
        ValueError: If there is no such file, it cannot be read, has no rows, or a column twice.
        ImportError: If Parquet needs a package that is missing.
    """
    if not isinstance(path, str):
        raise TypeError(f"`task.path` must be a CSV or Parquet file, got {path!r}.")
    if thousands is not None and thousands not in (",", ".", "'", " ", "_"):
        raise ValueError(f"`task.thousands` must be one of [',', '.', \"'\", ' ', '_'], got {thousands!r}.")
    file, refused = Path(path), f"`task.path` must be a CSV or Parquet file, got {path!r}"
    if not file.is_file():
        folder = file.parent
        near = did_you_mean(file.name, os.listdir(folder) if folder.is_dir() else [])
        raise ValueError(f"{refused}: no such file in {folder.resolve()}{near}.")
    try:
        table = pd.read_parquet(file) if file.suffix in _PARQUET else _read_csv(file, thousands)
    except ImportError as error:
        raise ImportError(f"`task.path` is {path!r}, and Parquet is read by pyarrow: pip install pyarrow.") from error
    except Exception as error:  # a file of another kind can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{refused}, which cannot be read: {reason}") from error
    if table.empty:
        raise ValueError(f"`task.path` must have rows below its header, got {path!r} with none.")
    return table.rename(columns=str)


def _read_csv(file: Path, thousands: str | None) -> pd.DataFrame:
    head = pd.read_csv(file, sep="\x1f", nrows=0, engine="python")
    first = str(head.columns[0])
    separator = max(",;\t|", key=first.count)
    names = pd.read_csv(file, sep=separator, header=None, nrows=1, dtype=str).iloc[0].dropna()
    if names.duplicated().any():
        raise ValueError(f"the column {names[names.duplicated()].iloc[0]!r} is there twice")
    options: dict[str, Any] = {"sep": separator, "na_values": _MISSING, "low_memory": False, "thousands": thousands}
    return pd.read_csv(file, **options).apply(_read_dates)


def _read_dates(column: pd.Series) -> pd.Series:
    texts = column.dropna()
    if texts.empty or not is_text(column):
        return column
    texts = texts.astype(str).str.strip()
    if texts.str.fullmatch(_ISO).all():
        dates = pd.to_datetime(column, format="ISO8601", errors="coerce")
        return dates if dates.notna().sum() == len(texts) else column  # there is no 2024-02-30
    fitting = [form for form in _FORMATS if _fits(texts.iloc[:1], form) and _fits(texts, form)]
    return pd.to_datetime(column, format=fitting[0], errors="coerce") if len(fitting) == 1 else column


def _fits(texts: pd.Series, form: str) -> bool:
    return bool(pd.to_datetime(texts, format=form, errors="coerce").notna().all())

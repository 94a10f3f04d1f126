"""Reading of CSV and Parquet files."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from lossbalance._utils.checks import did_you_mean
from lossbalance.tasks.table.features import is_text

_DATE = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?"
_PARQUET = (".parquet", ".pq")
_MISSING = ["?"]  # beside what pandas takes for a missing value, such as an empty cell or NA


def read_table(path: str) -> pd.DataFrame:
    """Returns the table of a CSV file, perhaps compressed, or of a Parquet file.

    Commas, semicolons, tabs and bars are distinguished by the first line. A column of a CSV file whose texts are all
    dates, as in 2024-02-29 or 2024-02-29 08:15, becomes one of dates.

    Raises:
        ValueError: If there is no such file, it cannot be read, or it has no rows.
        ImportError: If Parquet needs a package that is missing.
    """
    file, refused = Path(path), f"`task.path` must be a CSV or Parquet file, got {path!r}"
    if not file.is_file():
        folder = file.parent
        near = did_you_mean(file.name, os.listdir(folder) if folder.is_dir() else [])
        raise ValueError(f"{refused}: no such file in {folder.resolve()}{near}.")
    try:
        table = pd.read_parquet(file) if file.suffix in _PARQUET else _read_csv(file)
    except ImportError as error:
        raise ImportError(f"`task.path` is {path!r}, and Parquet is read by pyarrow: pip install pyarrow.") from error
    except Exception as error:  # a file of another kind can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{refused}, which cannot be read: {reason}") from error
    if table.empty:
        raise ValueError(f"`task.path` must have rows below its header, got {path!r} with none.")
    return table.rename(columns=str)


def _read_csv(file: Path) -> pd.DataFrame:
    head = pd.read_csv(file, sep="\x1f", nrows=0, engine="python")
    first = str(head.columns[0])
    separator = max(",;\t|", key=first.count)
    options: dict[str, Any] = {"sep": separator, "na_values": _MISSING, "low_memory": False}
    return pd.read_csv(file, **options).apply(_read_dates)


def _read_dates(column: pd.Series) -> pd.Series:
    texts = column.dropna()
    if texts.empty or not is_text(column) or not texts.astype(str).str.fullmatch(_DATE).all():
        return column
    dates = pd.to_datetime(column, format="ISO8601", errors="coerce")
    return dates if dates.notna().sum() == len(texts) else column  # there is no 2024-02-30

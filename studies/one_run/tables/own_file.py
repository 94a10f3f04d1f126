"""A user's own table: a CSV or Parquet file, read as by ``task=table``."""

from pathlib import Path

import numpy as np

from lossbalance.tasks.table.columns import choose_features, choose_targets
from lossbalance.tasks.table.features import Encoder
from lossbalance.tasks.table.read import read_table
from lossbalance.tasks.table.targets import Target as Column
from lossbalance.tasks.table.targets import find_targets
from studies.one_run.tables.table import Kind, Table, Target

_KINDS: dict[str, Kind] = {"number": "number", "binary": "yes_no", "classes": "class"}


def read_own_file(path: Path, targets: str) -> Table:
    """Reads a table from a file, without the rows that have no label at all.

    Args:
        path: The file.
        targets: Names of the columns to predict, separated by commas; all others are inputs.

    Raises:
        ValueError: If the file cannot be read, a column is unknown, or a target is always the same.
    """
    frame = read_table(str(path))
    names = choose_targets(frame, [name.strip() for name in targets.split(",")])
    features = choose_features(frame, names, None, ())
    frame = frame.dropna(subset=names, how="all")
    every = np.arange(len(frame))
    inputs = Encoder.fit(frame[features], every).encode(frame)
    found = find_targets(frame[names], {}, every)
    return Table(inputs.astype(float), tuple(_convert(column, column.labels(frame[column.name])) for column in found))


def _convert(column: Column, labels: np.ndarray) -> Target:
    return Target(column.name, _KINDS[column.kind], labels.astype(float)[:, None])

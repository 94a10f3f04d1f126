"""A user's own table: a CSV or Parquet file, read as by ``task=table``."""

from pathlib import Path

import numpy as np
import torch

from lossbalance.tasks.table.columns import choose_features, choose_targets
from lossbalance.tasks.table.features import encode
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
    inputs = encode(frame[features], torch.arange(len(frame)))
    return Table(inputs.astype(float), tuple(_convert(column) for column in find_targets(frame[names], {})))


def _convert(column: Column) -> Target:
    return Target(column.name, _KINDS[column.kind], np.asarray(column.values, float)[:, None])

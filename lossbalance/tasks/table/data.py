"""Data module of a table: splits rows and encodes columns."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lossbalance._utils.checks import check_flag, check_integer
from lossbalance.tasks.batches import Batches
from lossbalance.tasks.table.columns import check_columns, check_kinds, choose_features, choose_targets, warn_of_leaks
from lossbalance.tasks.table.features import Encoder
from lossbalance.tasks.table.heads import make_head
from lossbalance.tasks.table.read import read_table
from lossbalance.tasks.table.schema import TableSchema
from lossbalance.tasks.table.targets import Target, find_targets
from lossbalance.tasks.table.values import check_clean

FEWEST_ROWS = 20


class Rows(NamedTuple):
    """A batch of rows."""

    features: Tensor
    """``[batch, features]``"""
    labels: Tensor
    """``[batch, targets]``: standardized numbers, or the numbers of classes; nan where they are missing."""
    counts: list[int]
    """How many labels each target has: known without asking the device."""


class RowSet(Dataset[Rows]):
    """Rows that are taken by whole batches of indices."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __getitem__(self, indices: Any) -> Rows:
        labels = self.labels[indices]
        return Rows(self.features[indices], labels, (~labels.isnan()).sum(0).tolist())

    def __len__(self) -> int:
        return len(self.features)


class TableData(pl.LightningDataModule):
    """Reads a table and splits its rows.

    A fifth of the rows is for the test; of the rest, one fold in ``folds`` is for validation. The test rows are the
    same in every fold. Rows without any label are left out.

    Args:
        path: A CSV or Parquet file.
        targets: The columns that are predicted.
        features: The columns that they are predicted from; None for all others.
        ignore: Columns that are left out of these.
        kinds: ``number``, ``binary`` or ``classes`` for targets whose kind is not to be inferred.
        thousands: The thousands separator of numbers in a CSV file.
        standardize: Whether training minimizes the squared error of standardized numbers, or of numbers in their own
            unit. Validation and test are in their own unit in any case.
        batch_size: Rows in a training step.
        seed: Draws the split and the order of the batches.
        folds: Into how many parts the rows not for the test are split.
        fold: Which of them is for validation, counted from 0.
        schema: The columns, scales and classes of a checkpoint; then all rows are for the test.

    Attributes:
        schema: The columns, scales and classes.
        units: The loss of each target in its own unit, per unit of the training loss.
        description: How many rows and features there are, and the kinds of the targets.

    Raises:
        TypeError: If a number is not whole, or ``targets`` not a list.
        ValueError: If the file cannot be read, a column is missing, a target among the features or constant, no feature
            is left, a value of a number is text, or there are too few rows.
    """

    def __init__(
        self,
        path: str,
        targets: Iterable[str],
        features: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        kinds: Mapping[str, str] | None = None,
        thousands: str | None = None,
        standardize: bool = True,
        batch_size: int = 128,
        seed: int = 0,
        folds: int = 4,
        fold: int = 0,
        schema: TableSchema | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0)
        self.folds = check_integer("folds", folds, 2)
        self.fold = check_integer("fold", fold, 0, self.folds - 1)
        check_flag("task.standardize", standardize)
        table = read_table(path, thousands)
        names = choose_targets(table, targets)
        if schema is None:
            table, self.schema = self._fit(table, names, choose_features(table, names, features, ignore), kinds)
        else:
            check_columns(table, [*schema.columns, *names])
            table, self.schema = table.dropna(subset=names, how="all"), schema
            self.parts = dict.fromkeys(("train", "val", "test"), torch.arange(len(table)))
        self.heads = {target.name: make_head(target, standardize) for target in self.schema.targets}
        self.units = {name: head.unit for name, head in self.heads.items()}
        encoded, labels = self.schema.encode(table), self.schema.labels(table)
        self.sets = {part: RowSet(encoded[rows], labels[rows]) for part, rows in self.parts.items()}
        self.description = self._describe()

    def _fit(
        self, table: pd.DataFrame, targets: list[str], features: list[str], kinds: Mapping[str, str] | None
    ) -> tuple[pd.DataFrame, TableSchema]:
        """Splits the rows that have a label, and fits the schema to those of the training."""
        for name in features:
            check_clean("task.features", table[name])
        table = table.dropna(subset=targets, how="all")
        self.parts = split(len(table), self.seed, self.folds, self.fold)
        training = self.parts["train"].numpy()
        found = find_targets(table[targets], check_kinds(kinds), training)
        self._check_labels(table, found)
        schema = TableSchema(Encoder.fit(table[features], training), tuple(found), len(table))
        warn_of_leaks(table[features], table, found)
        return table, schema

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order drawn anew in each epoch."""
        return self._loader("train", Batches(len(self.sets["train"]), self.batch_size, self.seed))

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation rows."""
        return self._loader("val", Batches(len(self.sets["val"]), 4096))

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test rows."""
        return self._loader("test", Batches(len(self.sets["test"]), 4096))

    def _loader(self, part: str, batches: Batches) -> DataLoader[Any]:
        return DataLoader(self.sets[part], sampler=batches, batch_size=None)

    def _describe(self) -> str:
        sizes = ", ".join(f"{len(rows)} {part}" for part, rows in self.parts.items())
        kinds = ", ".join(f"{target.name} ({target.kind})" for target in self.schema.targets)
        encoder = self.schema.encoder
        return f"{sizes} rows; {len(encoder.columns)} columns make {encoder.width} features; targets: {kinds}."

    def _check_labels(self, table: pd.DataFrame, targets: Iterable[Target]) -> None:
        for target in targets:
            values = target.labels(table[target.name])
            for part, rows in self.parts.items():
                labels = values[rows.numpy()]
                labels = labels[~np.isnan(labels)]
                different = len(np.unique(labels))
                if different < 2:
                    raise ValueError(
                        f"`task.targets` must be columns with different labels in each part, got {target.name!r} with "
                        f"{len(labels)} labels, {different} different, among the {len(rows)} rows for {part}: more "
                        "rows, fewer `folds`, or another `seed`."
                    )


def split(rows: int, seed: int, folds: int, fold: int) -> dict[str, Tensor]:
    """Returns the numbers of the rows for ``train``, ``val`` and ``test``.

    Raises:
        ValueError: If there are too few rows.
    """
    if rows < FEWEST_ROWS:
        raise ValueError(f"`task.path` must have at least {FEWEST_ROWS} rows with a label, got {rows}.")
    check_integer("folds", folds, 2, rows - rows // 5)  # each has a row
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    test, rest = order[: rows // 5], order[rows // 5 :]
    parts = rest.tensor_split(folds)
    train = torch.cat([part for number, part in enumerate(parts) if number != fold])
    return {"train": train, "val": parts[fold], "test": test}

"""Schema of a table: encoding of the features, and targets with their units and classes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lossbalance.tasks.table.features import Encoder
from lossbalance.tasks.table.targets import Target

_TOLERANCE = 1e-6  # relative, of means and scales
_FAR = 5.0  # standard deviations


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table as a network was trained on them.

    Args:
        encoder: The encoding of the features.
        targets: The targets.
        rows: Number of rows with a label.
    """

    encoder: Encoder
    targets: tuple[Target, ...]
    rows: int

    @property
    def columns(self) -> list[str]:
        """The names of the columns that the features are made of."""
        return [column.name for column in self.encoder.columns if column.width]

    def encode(self, table: pd.DataFrame) -> Tensor:
        """Returns the features ``[rows, features]``."""
        return torch.as_tensor(self.encoder.encode(table))

    def labels(self, table: pd.DataFrame) -> Tensor:
        """Returns the labels ``[rows, targets]``: standardized numbers or numbers of classes, nan where missing."""
        columns = [(target.labels(table[target.name]) - target.mean) / target.scale for target in self.targets]
        return torch.stack([torch.as_tensor(column, dtype=torch.float32) for column in columns], dim=1)

    def state(self) -> dict[str, Any]:
        """Returns the schema as plain values, for a checkpoint."""
        return {
            "features": self.encoder.state(),
            "targets": [target.state() for target in self.targets],
            "rows": self.rows,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "TableSchema":
        """Returns the schema of a checkpoint."""
        targets = tuple(Target.from_state(each) for each in state["targets"])
        return cls(Encoder.from_state(state["features"]), targets, state["rows"])


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns the differences between two schemas as plain values, named."""
    rows = [f"{there['rows']} rows with a label there, {here['rows']} here"] if there["rows"] != here["rows"] else []
    targets, features = (_compare(kind, there[f"{kind}s"], here[f"{kind}s"]) for kind in ("target", "feature"))
    return [*rows, *targets, *features]


def other_units(schema: TableSchema, labels: Tensor) -> Iterator[str]:
    """Yields a warning for each target whose labels have another magnitude than those of the training.

    Args:
        schema: That of the training.
        labels: Standardized by its scales, ``[rows, targets]``.
    """
    for target, column in zip(schema.targets, labels.unbind(1), strict=True):
        known = column[~column.isnan()].double()
        if target.kind == "number" and len(known) > 1 and (known.mean().abs() > _FAR or known.std() > _FAR):
            mean = known.mean().item() * target.scale + target.mean
            yield (
                f"Target {target.name!r} has mean {mean:.4g}, in training {target.mean:.4g} with standard deviation "
                f"{target.scale:.4g}: is it in the same unit?"
            )


def _compare(kind: str, there: Any, here: Any) -> Iterator[str]:
    theirs, ours = ({each["name"]: each for each in side} for side in (there, here))
    for name in theirs.keys() ^ ours.keys():
        yield f"{kind} {name!r} is only {'there' if name in theirs else 'here'}"
    for name in (name for name in theirs if name in ours):
        for key, value in theirs[name].items():
            if not _alike(value, ours[name].get(key)):
                yield f"{kind} {name!r} has {key} {_shown(value)} there, {_shown(ours[name].get(key))} here"
                break


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _TOLERANCE * max(abs(one), abs(other))
    return one == other


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

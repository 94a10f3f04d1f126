"""Predictions of a trained table network, in the units and classes of its targets."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lossbalance._utils.checks import check_choice
from lossbalance.tasks.base import FINGERPRINT
from lossbalance.tasks.table.columns import check_columns
from lossbalance.tasks.table.schema import TableSchema
from lossbalance.tasks.table.targets import Target

_NET = "lossbalance.tasks.table.TableNet"


class TablePredictor:
    """Predicts the targets of new rows.

    Args:
        net: The network, from features to a list of outputs, one for each target.
        schema: The columns, scales and classes that it was trained on.

    Example:
        >>> predictor = load("outputs/table/2026-01-31_12-00-00")  # doctest: +SKIP
        >>> predictor.predict(pd.read_csv("new.csv"))  # doctest: +SKIP
    """

    def __init__(self, net: nn.Module, schema: TableSchema) -> None:
        self.net, self.schema = net.eval().requires_grad_(False), schema

    def predict(self, table: pd.DataFrame, probabilities: bool = False) -> pd.DataFrame:
        """Returns a column for each target, with the rows and the index of the table.

        Numbers are in the unit of the target; of classes the most likely one is predicted.

        Args:
            table: The columns that the network was trained on; others are ignored.
            probabilities: Whether to add a column ``<target>=<class>`` for each class.

        Raises:
            ValueError: If a column is missing, or has a value that is not of its kind.
        """
        check_columns(table, self.schema.columns)
        with torch.no_grad():
            outputs = self.net(self.schema.encode(table.reset_index(drop=True)))
        columns: dict[str, Any] = {}
        for target, output in zip(self.schema.targets, outputs, strict=True):
            columns |= _decode(target, output.double(), probabilities)
        return pd.DataFrame(columns, index=table.index)

    def unknown_categories(self, table: pd.DataFrame) -> dict[str, list[str]]:
        """Returns, by column, the texts that no training row has: they are encoded as none of the known ones."""
        found = {
            column.name: column.unknown(table[column.name]) for column in self.schema.encoder.columns if column.width
        }
        return {name: texts for name, texts in found.items() if texts}


def load(run: str | Path, checkpoint: str = "best", trust: bool = False) -> TablePredictor:
    """Loads the network of a ``task=table`` run with its columns, scales and classes.

    Args:
        run: The directory of the run, or a checkpoint in it.
        checkpoint: ``best`` or ``last``, of a directory.
        trust: Whether to build a network of a class that is not from this library.

    Raises:
        ValueError: If there is no such checkpoint, or it is not of ``task=table``.
    """
    path = Path(run)
    if path.is_dir():
        path = path / "checkpoints" / f"{check_choice('checkpoint', checkpoint, ['best', 'last'])}.ckpt"
    settings = path.parent.parent / "config.yaml"
    for file in (path, settings):
        if not file.is_file():
            raise ValueError(
                f"`run` must be the directory of a run or a checkpoint in it, got {str(run)!r}: no {file}."
            )
    saved = torch.load(path, weights_only=True, map_location="cpu")
    if not saved.get(FINGERPRINT):
        raise ValueError(f"`run` must be of task=table, with scales in its checkpoint, got {str(run)!r} without.")
    schema = TableSchema.from_state(saved[FINGERPRINT])
    net = OmegaConf.load(settings).task.module.net
    if net._target_ != _NET and not trust:
        raise ValueError(
            f"`run` must have a network of {_NET}, got {net._target_!r}: trust=True builds it all the same."
        )
    made = instantiate(net)(schema.encoder.width, [target.outputs for target in schema.targets])
    state: dict[str, Tensor] = saved["state_dict"]
    made.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
    return TablePredictor(made, schema)


def _decode(target: Target, output: Tensor, probabilities: bool) -> dict[str, Any]:
    """Returns the column of a target, and those of its probabilities."""
    if target.kind == "number":
        return {target.name: (output.squeeze(1) * target.scale + target.mean).numpy()}
    likely = class_probabilities(target, output).numpy()
    classes = np.array(target.classes, dtype=object)
    columns = {target.name: classes[likely.argmax(1)]}
    if probabilities:
        columns |= {f"{target.name}={each}": likely[:, number] for number, each in enumerate(target.classes)}
    return columns


def class_probabilities(target: Target, output: Tensor) -> Tensor:
    """Returns the probabilities ``[rows, classes]`` of outputs ``[rows, outputs]``."""
    if target.kind == "binary":
        second = torch.sigmoid(output)
        return torch.cat([1 - second, second], dim=1)
    return output.softmax(1)

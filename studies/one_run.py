"""Which weighting scheme, in one run and with nothing tuned, ends as well as the best fixed weights of a sweep?

One small network is trained on tables with several targets, from several seeds: under every scheme with its default
settings, under the plain sum, and under a sweep of fixed weights. All copies of a seed start alike and see the same
batches. Of each training the checkpoint with the lowest validation error is kept, as is done in practice; the last one
is looked at, too. The best of the sweep is chosen by the validation error, over all seeds; what counts is the test
error.

A control stays in every comparison: fixed weights whose scale grows as the losses fall, which acts as a learning rate
does. So the sweep and every scheme are also trained with ``loss_sum``, by which all have the same scale.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from lossbalance._utils.checks import check_integer, check_positive, did_you_mean
from studies.cells import train_cells
from studies.multitask import Heads, MultiTaskNet, Parameters, forward
from studies.one_run_schemes import SCHEMES, VARIANTS, Maker
from studies.stacked_schemes import StackedWeights, draw_batches, train
from studies.tables import SEEN, TABLES, Table, is_there, read_table

SWEEP = "sweep"
MISSING_TABLE = "some come with `pip install -e '.[tables]'`, some lie in the folder of `--data`"
CHECKPOINTS = ("kept", "last")
_DIRECTIONS = 8  # random ones, for more than two terms
_CELL = ["table", "seed"]


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        tables: Names of :data:`studies.tables.TABLES`.
        seeds: How many; each draws a split, initial weights and batches.
        variants: Whether :data:`VARIANTS` are trained in place of :data:`SCHEMES`.
        steps: Steps of a training.
        checkpoints: How often, in equal distances, the error is measured; the last step is one of them.
        batch: Rows in a step.
        width: Units in each of the two hidden layers.
        lr: The learning rate of Adam.
        data: The folder of tables that scikit-learn does not bring.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range, or a table unknown.
    """

    tables: tuple[str, ...] = SEEN
    seeds: int = 5
    variants: bool = False
    steps: int = 2000
    checkpoints: int = 20
    batch: int = 64
    width: int = 32
    lr: float = 1e-3
    data: Path = Path("../shared/data")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tables) - set(TABLES))
        if unknown or not self.tables:
            known = [*TABLES, "seen", "kept_back"]  # the last two are words of the command line
            hint = did_you_mean(unknown[0], known) if unknown else ""
            raise ValueError(f"`tables` must be some of {known}, got {unknown or []}{hint}.")
        for name in ("seeds", "steps", "batch", "width"):
            check_integer(name, getattr(self, name), 1)
        check_integer("checkpoints", self.checkpoints, 1, self.steps)
        check_positive("lr", self.lr)

    def present(self) -> "Settings":
        """Returns the same settings without the tables that are not there.

        Raises:
            ValueError: If none is.
        """
        present = tuple(name for name in self.tables if is_there(name, self.data))
        if not present:
            raise ValueError(f"`tables` must be there, got {list(self.tables)}, none of which is: {MISSING_TABLE}.")
        return replace(self, tables=present)


class Split(NamedTuple):
    """A table as tensors, with the rows of each part."""

    inputs: Tensor
    labels: Tensor
    training: Tensor
    validation: Tensor
    test: Tensor


def study(settings: Settings, folder: Path, jobs: int, console: Console | None = None) -> pd.DataFrame:
    """Trains what is not trained yet, and returns everything.

    Args:
        settings: What to train.
        folder: Where each finished part is kept, so that a study that was stopped goes on.
        jobs: How many processes share the work.
        console: Where to show progress.

    Returns:
        Two rows for each network, the ``checkpoint`` that was kept and the last: table, seed, scheme, setting of the
        sweep, whether its scale is matched, and for validation and test the error and the loss, both means over targets
        of what it is relative to the best constant.

    Raises:
        ValueError: If the folder holds a study with other settings.
    """
    cells = list(product(settings.tables, range(settings.seeds)))
    return train_cells(train_cell, settings, _CELL, cells, folder, jobs, console)


def train_cell(settings: Settings, name: str, seed: int) -> pd.DataFrame:
    """Trains all copies of one network on a table; returns a row for each."""
    torch.set_num_threads(1)
    table = read_table(name, settings.data)
    heads, data = Heads(table.targets), split(table, seed)
    constant = heads.constant(data.labels[data.training])
    schemes = VARIANTS if settings.variants else SCHEMES
    plan, weights = _plan(schemes, heads, data, constant, zlib.crc32(name.encode()))
    torch.manual_seed(seed)
    net = MultiTaskNet(data.inputs.shape[1], settings.width, sum(heads.outputs))
    batches = draw_batches(data.training, settings.batch, settings.steps, seed)
    checkpoints = {settings.steps * i // settings.checkpoints for i in range(1, settings.checkpoints + 1)}
    courses = train(net, heads, data.inputs, data.labels, weights, batches, settings.lr, checkpoints)
    measured = keep_best(_measure(heads, data, constant, parameters) for parameters in courses)
    rows = [plan.assign(checkpoint=name, **columns) for name, columns in zip(CHECKPOINTS, measured, strict=True)]
    return pd.concat(rows).assign(table=name, seed=seed)


def keep_best(measured: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, np.ndarray]]:
    """Yields what was measured where the validation error of each copy was lowest, and what was measured last.

    Args:
        measured: At each checkpoint, by name, a value for each copy, ``[copies]``.
    """
    kept = last = next(measured)
    for last in measured:
        is_lower = last["validation_error"] < kept["validation_error"].nan_to_num(torch.inf)
        kept = {name: torch.where(is_lower, last[name], column) for name, column in kept.items()}
    yield from ({name: column.numpy() for name, column in columns.items()} for columns in (kept, last))


def _measure(heads: Heads, data: Split, constant: Tensor, parameters: Parameters) -> dict[str, Tensor]:
    """Returns error and loss of each copy, ``[copies]`` each, in validation and test."""
    measured = {}
    for part, rows in (("validation", data.validation), ("test", data.test)):
        outputs, labels = forward(parameters, data.inputs[rows]), data.labels[rows]
        base = constant.expand(1, len(rows), -1)
        for measure, compute in (("error", heads.errors), ("loss", heads.losses)):
            measured[f"{part}_{measure}"] = (compute(outputs, labels) / compute(base, labels)).mean(1)
    return measured


def split(table: Table, seed: int) -> Split:
    """Returns three fifths of the rows for training, one for validation and one for test; inputs standardized."""
    rows = torch.randperm(len(table.inputs), generator=torch.Generator().manual_seed(seed))
    training, validation, test = rows.tensor_split([len(rows) * 3 // 5, len(rows) * 4 // 5])
    inputs = torch.as_tensor(table.inputs)
    deviation, mean = torch.std_mean(inputs[training], dim=0)
    inputs = (inputs - mean) / torch.where(deviation > 0, deviation, 1.0)
    labels = torch.as_tensor(np.concatenate([target.values for target in table.targets], axis=1))
    return Split(inputs.float(), labels.float(), training, validation, test)


def sweep(constants: Tensor, seed: int) -> Tensor:
    """Returns fixed weights to try, ``[settings, terms]``; the first are the plain sum.

    Two terms are weighed on a log grid, four decades wide, around one over their losses under the best constant, which
    are the variances of numbers. More terms are weighed by powers of these, and along random directions from there.

    Args:
        constants: The losses under the best constant, ``[terms]``.
        seed: Of the directions.
    """
    count = len(constants)
    if count == 2:
        shift = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([1.0, -1.0])
        tried = torch.cat([torch.ones(1, 2), 10**shift / constants])
    else:
        powers = torch.tensor([0.0, 0.5, 0.75, 1.0, 1.25, 1.5])[:, None]
        sizes = torch.tensor([0.5, 1.0]).repeat(_DIRECTIONS // 2)[:, None]
        directions = sizes * torch.randn(_DIRECTIONS, count, generator=torch.Generator().manual_seed(seed))
        tried = torch.cat([constants**-powers, directions.exp() / constants])
    return tried * (count / (tried @ constants))[:, None]


def _plan(
    schemes: dict[str, Maker], heads: Heads, data: Split, constant: Tensor, seed: int
) -> tuple[pd.DataFrame, StackedWeights]:
    """Returns what each copy is, and the weights of all copies."""
    labels = data.labels[data.training]
    fixed = sweep(heads.losses(constant.expand(1, len(labels), -1), labels)[0], seed)
    copies = [(SWEEP, i, matched) for matched, i in product((False, True), range(len(fixed)))]
    names = sorted(schemes, key=lambda name: schemes[name](heads.terms).uses_gradients)
    copies += [(name, 0, matched) for name, matched in product(names, (False, True))]
    plan = pd.DataFrame(copies, columns=["scheme", "setting", "matched"])
    made = [schemes[name](heads.terms) for name in names for _ in range(2)]
    return plan, StackedWeights(fixed.repeat(2, 1), made, plan["matched"].tolist())

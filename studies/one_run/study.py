"""Weighting schemes in one run against the best fixed weights of a sweep, on tables with several targets.

One small network is trained on tables with several targets, from several seeds: under every scheme with its default
settings, under the plain sum, and under a sweep of fixed weights; all of them at every learning rate of a grid. All
copies of a seed start alike and see the same batches. Of each training the checkpoint with the lowest validation error
is kept, as is done in practice; the last one is measured, too. The best of the sweep, and the learning rate of each
method, are chosen by the validation error, over all seeds; what counts is the test error.

A control stays in every comparison: fixed weights whose scale grows as the losses fall, which acts as a learning rate
does. So the sweep and every scheme are also trained with ``loss_sum``, by which all have the same scale.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lossbalance._utils.checks import check_choice, check_integer, check_positive
from studies.one_run.multitask import Heads, MultiTaskNet, Parameters, forward
from studies.one_run.optimizers import OPTIMIZERS
from studies.one_run.schemes import choose_schemes
from studies.one_run.stacked_schemes import StackedGradBalance, StackedWeights, draw_batches, train
from studies.one_run.tables import Table, expand_names, is_present, read_table
from studies.one_run.tables.own_file import read_own_file

SWEEP, BALANCED = "sweep", "GradBalance"
MISSING_TABLE = "some come with `pip install -e '.[tables]'`, some are files in the folder of `--data`"
CHECKPOINTS = ("best", "last")
SCALINGS = ("raw", "standardized")
CELL = ("scaling", "table", "seed")
_DIRECTIONS = 8  # random ones, for more than two terms


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        tables: Names of tables, or ``development`` or ``held_out`` for all of these.
        table: Your own table instead: a CSV or Parquet file, with its columns to predict in targets.
        targets: Names of these columns, separated by commas.
        seeds: Splits, initial weights and batches of each table.
        scalings: Targets that are numbers: ``raw``, in their own units, or ``standardized``, to mean 0 and deviation 1.
        optimizer: One of ``adam``, ``adamw_cosine``, ``sgd``, ``sgd_cosine``, ``sgd_clipped``.
        rates: Learning rates; ``0`` for the grid of the optimizer, four in half decades.
        schemes: Names of schemes, or ``all`` of them, or ``variants`` for some settings other than the default ones.
            ``GradBalance`` is among them in any case.
        steps: Steps of a training.
        checkpoints: Measurements of the error in a training, in equal distances; the last step is one of them.
        batch: Rows in a step.
        width: Units in each of the two hidden layers.
        rows: Rows used of a larger table.
        data: Folder of tables that no package brings.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range, or a name unknown.
    """

    tables: tuple[str, ...] = ("development",)
    table: Path | None = None
    targets: str = ""
    seeds: int = 5
    scalings: tuple[str, ...] = ("raw",)
    optimizer: str = "adam"
    rates: tuple[float, ...] = (1e-3,)
    schemes: tuple[str, ...] = ("all",)
    steps: int = 2000
    checkpoints: int = 20
    batch: int = 64
    width: int = 32
    rows: int = 20_000
    data: Path | None = None

    def __post_init__(self) -> None:
        expand_names(self.tables)
        if self.table is not None:
            read_own_file(self.table, self.targets)  # before anything is trained
        for scaling in self.scalings:
            check_choice("scalings", scaling, SCALINGS)
        choose_schemes(self.schemes)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for rate in self.grid:
            check_positive("rates", rate)
        for name in ("seeds", "steps", "batch", "width", "rows"):
            check_integer(name, getattr(self, name), 1)
        check_integer("checkpoints", self.checkpoints, 1, self.steps)

    @property
    def grid(self) -> tuple[float, ...]:
        """The learning rates to train at."""
        return OPTIMIZERS[self.optimizer] if self.rates == (0,) else self.rates


class Split(NamedTuple):
    """A table as tensors, with the rows of each part."""

    inputs: Tensor
    labels: Tensor
    training: Tensor
    validation: Tensor
    test: Tensor


def list_cells(settings: Settings) -> list[tuple[str, str, int]]:
    """Returns the cells of the tables that can be read.

    Raises:
        ValueError: If none can.
    """
    names = find_present(settings.tables, settings.data) if settings.table is None else [settings.table.stem]
    trained = product(range(settings.seeds), settings.scalings, names)
    return [(scaling, name, seed) for seed, scaling, name in trained]


def find_present(tables: Iterable[str], data: Path | None) -> list[str]:
    """Returns the names of the tables that can be read.

    Args:
        tables: Names of tables or of groups of them.
        data: Folder of tables that no package brings.

    Raises:
        ValueError: If there is none.
    """
    names = expand_names(tables)
    present = [name for name in names if is_present(name, data)]
    if not present:
        raise ValueError(f"`tables` must be present, got {list(names)}, none of which is: {MISSING_TABLE}.")
    return present


def train_cell(settings: Settings, scaling: str, name: str, seed: int) -> pd.DataFrame:
    """Trains all copies of one network on a table; returns two rows for each.

    Returns:
        The ``best`` checkpoint and the ``last``: scheme, setting of the sweep, scale of the weights, learning rate, and
        for validation and test the error and the loss, both means over targets of the value relative to that of the
        best constant.
    """
    torch.set_num_threads(1)
    table = (
        read_table(name, settings.data) if settings.table is None else read_own_file(settings.table, settings.targets)
    )
    heads, data = Heads(table.targets), split(table, seed, settings.rows, scaling == "standardized")
    constant = heads.constant(data.labels[data.training])
    plan, weights = _plan(settings, heads, data, constant, zlib.crc32(name.encode()))
    rates = torch.tensor(plan["rate"].to_numpy(), dtype=torch.float32)
    measured = keep_best(train_copies(settings, heads, data, weights, settings.optimizer, rates, seed))
    rows = [plan.assign(checkpoint=kind, **columns) for kind, columns in zip(CHECKPOINTS, measured, strict=True)]
    return pd.concat(rows).assign(scaling=scaling, table=name, seed=seed)


def _read(settings: Settings, name: str) -> Table:
    if settings.table is not None:
        return read_own_file(settings.table, settings.targets)
    return read_table(name, settings.data)


class Budget(Protocol):
    """Steps and size of a training."""

    @property
    def steps(self) -> int:
        """Steps of a training."""

    @property
    def checkpoints(self) -> int:
        """Measurements of the error."""

    @property
    def batch(self) -> int:
        """Rows in a step."""

    @property
    def width(self) -> int:
        """Units in each of the two hidden layers."""


def train_copies(
    budget: Budget, heads: Heads, data: Split, weights: StackedWeights, optimizer: str, rates: Tensor, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Trains a network under each of the weights; yields the measurements of each checkpoint, ``[copies]`` each."""
    torch.manual_seed(seed)
    net = MultiTaskNet(data.inputs.shape[1], budget.width, sum(heads.outputs))
    batches = draw_batches(data.training, budget.batch, budget.steps, seed)
    checkpoints = {budget.steps * i // budget.checkpoints for i in range(1, budget.checkpoints + 1)}
    constant = heads.constant(data.labels[data.training])
    for parameters in train(net, heads, data.inputs, data.labels, weights, batches, optimizer, rates, checkpoints):
        yield _measure(heads, data, constant, parameters)


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


def split(table: Table, seed: int, most: int | None = None, standardizes: bool = False) -> Split:
    """Returns three fifths of the rows for training, one for validation and one for test; inputs standardized.

    Args:
        table: The table.
        seed: Of the order of the rows.
        most: How many rows are used of a larger table.
        standardizes: Whether targets that are numbers are standardized over the training rows, too.
    """
    rows = torch.randperm(len(table.inputs), generator=torch.Generator().manual_seed(seed))[:most]
    training, validation, test = rows.tensor_split([len(rows) * 3 // 5, len(rows) * 4 // 5])
    inputs = torch.as_tensor(table.inputs)
    deviation, mean = torch.std_mean(inputs[training], dim=0)
    inputs = (inputs - mean) / torch.where(deviation > 0, deviation, 1.0)
    labels = torch.as_tensor(np.concatenate([target.values for target in table.targets], axis=1))
    if standardizes:
        labels = _standardize(table, labels, training)
    return Split(inputs.float(), labels.float(), training, validation, test)


def _standardize(table: Table, labels: Tensor, training: Tensor) -> Tensor:
    """Returns the labels with numbers at mean 0 and deviation 1 over the training rows."""
    kinds = [target.kind == "number" for target in table.targets for _ in range(target.values.shape[1])]
    mean = labels[training].nanmean(0)
    deviation = (labels[training] - mean).square().nanmean(0).sqrt()
    scaled = (labels - mean) / torch.where(deviation > 0, deviation, 1.0)
    return torch.where(torch.tensor(kinds), scaled, labels)


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
    settings: Settings, heads: Heads, data: Split, constant: Tensor, seed: int
) -> tuple[pd.DataFrame, StackedWeights]:
    """Returns the description of each copy, and the weights of all copies."""
    schemes, terms = choose_schemes(settings.schemes), heads.terms
    labels = data.labels[data.training]
    fixed = sweep(heads.losses(constant.expand(1, len(labels), -1), labels)[0], seed)
    names = sorted(schemes.keys() - {BALANCED}, key=lambda name: (schemes[name](terms).uses_gradients, name))
    kinds = [
        product([SWEEP], range(len(fixed)), ("own", "loss_sum")),
        product(names, [0], ("own", "loss_sum")),
        product([BALANCED], [0], ("own", "loss_sum", "weight_sum")),
    ]
    swept, weighed, balanced = ([(*copy, rate) for copy in kind for rate in settings.grid] for kind in map(list, kinds))
    plan = pd.DataFrame([*swept, *weighed, *balanced], columns=["scheme", "setting", "scale", "rate"])
    made = [schemes[name](terms) for name, *_ in weighed]
    equal_ratios = StackedGradBalance(torch.ones(len(balanced), len(terms)))
    rows = fixed[[setting for _, setting, *_ in swept]]
    return plan, StackedWeights(rows, made, plan["scale"].tolist(), equal_ratios)

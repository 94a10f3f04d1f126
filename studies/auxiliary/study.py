"""Auxiliary losses: test loss of the main term under related, unrelated and harmful auxiliary terms.

A small network is trained on a table's main target together with three auxiliary ones, from several seeds, on few and
on more rows: with the main loss alone, the plain sum, a sweep of alpha, GradBalance, and aggregators that protect the
main term. All copies of a seed start alike and see the same batches. Of each training the checkpoint with the lowest
validation loss of the main term is kept, as is done in practice.
"""

from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from lossbalance._utils.checks import check_choice, check_integer, check_positive
from studies.auxiliary.cases import KINDS, TABLES, Case, make_case
from studies.auxiliary.methods import METHODS, StackedMethods
from studies.auxiliary.training import Batches, train
from studies.one_run.multitask import Heads, MultiTaskNet, Parameters, forward
from studies.one_run.stacked_schemes import draw_batches
from studies.one_run.tables import is_present

CELL = ["table", "kind", "rows", "seed"]


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        tables: Names of tables; those that are not there are left out.
        rows: Training rows.
        seeds: How many; each draws a split, initial weights and batches.
        steps: Steps of a training.
        interval: Steps between two checkpoints.
        batch: Rows in a step.
        width: Units in each of the two hidden layers.
        lr: The learning rate of Adam.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range, or a table unknown.
    """

    tables: tuple[str, ...] = tuple(TABLES)
    rows: tuple[int, ...] = (100, 1000)
    seeds: int = 5
    steps: int = 300
    interval: int = 20
    batch: int = 32
    width: int = 32
    lr: float = 2e-3

    def __post_init__(self) -> None:
        for table in self.tables:
            check_choice("tables", table, TABLES)
        for rows in self.rows:
            check_integer("rows", rows, 10)
        for name in ("seeds", "steps", "batch", "width"):
            check_integer(name, getattr(self, name), 1)
        check_integer("interval", self.interval, 1, self.steps)
        check_positive("lr", self.lr)


def list_cells(settings: Settings) -> list[tuple[str, str, int, int]]:
    """Returns the cells: every table with every kind of auxiliary terms and number of rows, from every seed.

    Raises:
        ValueError: If no table is there.
    """
    tables = [table for table in settings.tables if is_present(table, None)]
    if not tables:
        raise ValueError(
            f"`tables` must be there, got {list(settings.tables)}, none of which is: `pip install -e '.[tables]'`."
        )
    return list(product(tables, KINDS, settings.rows, range(settings.seeds)))


def train_cell(settings: Settings, table: str, kind: str, rows: int, seed: int) -> pd.DataFrame:
    """Trains a copy of a network by every method; returns a row for each.

    Returns:
        The cell, the method, and the main term's validation and test loss at the checkpoint that was kept.
    """
    torch.set_num_threads(1)
    case = make_case(table, kind, rows, seed)
    heads = Heads(case.targets)
    torch.manual_seed(seed)
    net = MultiTaskNet(case.inputs.shape[1], settings.width, sum(heads.outputs))
    drawn = (draw_batches(part, settings.batch, settings.steps, seed) for part in (case.training, case.validation))
    courses = train(net, case, StackedMethods(METHODS), Batches(*drawn), settings.lr, settings.interval)
    kept = pd.DataFrame({"validation": float("inf"), "test": float("inf")}, index=list(METHODS))
    for parameters in courses:
        measured = _measure(heads, case, parameters)
        is_lower = measured["validation"] < kept["validation"]
        kept = kept.where(~is_lower, measured)
    cell = dict(zip(CELL, (table, kind, rows, seed), strict=True))
    return kept.rename_axis("method").reset_index().assign(**cell)


def _measure(heads: Heads, case: Case, parameters: Parameters) -> pd.DataFrame:
    """Returns the main term's loss of each copy in validation and test."""
    losses = {
        part: heads.losses(forward(parameters, case.inputs[rows]), case.labels[rows])[:, 0]
        for part, rows in (("validation", case.validation), ("test", case.test))
    }
    return pd.DataFrame({part: values.numpy() for part, values in losses.items()}, index=list(METHODS))

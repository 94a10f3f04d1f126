"""Error against trainings spent: a search over weights, over the learning rate alone, and over a scheme's ratios.

The network and the tables are those of the study of one run, on standardized targets. From one pool of trainings per
table, seed and optimizer, every search is drawn: over the learning rate and all weights; over the learning rate of the
plain sum; over that of :class:`~lossbalance.weighting.GradBalance`; and over its ratios too. Weights and ratios have
the same prior, a log-normal one around 1. A search takes the training with the lowest validation error; what counts is
its test error.
"""

import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lossbalance._utils.checks import check_choice, check_integer, check_positive
from studies.one_run import study as one_run
from studies.one_run.multitask import Heads
from studies.one_run.optimizers import OPTIMIZERS
from studies.one_run.stacked_schemes import StackedGradBalance, StackedWeights
from studies.one_run.tables import expand_names, read_table

FIXED, BALANCED = "fixed weights", "GradBalance"
CELL = ("seed", "optimizer", "table")


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        tables: Names of tables, or ``development`` or ``held_out`` for all of these.
        seeds: Splits, initial weights and batches of each table.
        optimizers: Some of ``adam``, ``adamw_cosine``, ``sgd``, ``sgd_cosine``, ``sgd_clipped``.
        draws: Random weights, and random ratios, at each learning rate; as many again after the first with equal ones.
        spread: Standard deviation of the logarithm of a weight or ratio.
        scaling: Targets that are numbers: ``raw``, in their own units, or ``standardized``.
        steps: Steps of a training.
        checkpoints: Measurements of the error in a training, in equal distances.
        batch: Rows in a step.
        width: Units in each of the two hidden layers.
        rows: Rows used of a larger table.
        data: Folder of tables that no package brings.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range, or a name unknown.
    """

    tables: tuple[str, ...] = ("development",)
    seeds: int = 2
    optimizers: tuple[str, ...] = ("adam", "sgd", "adamw_cosine")
    draws: int = 12
    spread: float = 1.0
    scaling: str = "standardized"
    steps: int = 1000
    checkpoints: int = 10
    batch: int = 32
    width: int = 32
    rows: int = 5000
    data: Path | None = None

    def __post_init__(self) -> None:
        expand_names(self.tables)
        for optimizer in self.optimizers:
            check_choice("optimizers", optimizer, OPTIMIZERS)
        check_choice("scaling", self.scaling, one_run.SCALINGS)
        for name in ("seeds", "draws", "steps", "batch", "width", "rows"):
            check_integer(name, getattr(self, name), 1)
        check_integer("checkpoints", self.checkpoints, 1, self.steps)
        check_positive("spread", self.spread)


def list_cells(settings: Settings) -> list[tuple[int, str, str]]:
    """Returns the cells of the tables that can be read.

    Raises:
        ValueError: If none can.
    """
    names = one_run.find_present(settings.tables, settings.data)
    return list(product(range(settings.seeds), settings.optimizers, names))


def train_cell(settings: Settings, seed: int, optimizer: str, name: str) -> pd.DataFrame:
    """Trains all copies of one network on a table; returns a row for each.

    Returns:
        Method, draw (0: equal weights or ratios), scale of the weights, learning rate, and the validation and test
        error of the checkpoint with the lowest validation error.
    """
    torch.set_num_threads(1)
    table = read_table(name, settings.data)
    data = one_run.split(table, seed, settings.rows, settings.scaling == "standardized")
    heads = Heads(table.targets)
    plan, weights = make_plan(settings, OPTIMIZERS[optimizer], heads, zlib.crc32(name.encode()))
    rates = torch.tensor(plan["rate"].to_numpy(), dtype=torch.float32)
    best, _ = one_run.keep_best(one_run.train_copies(settings, heads, data, weights, optimizer, rates, seed))
    columns = {kind: best[kind] for kind in ("validation_error", "test_error")}
    return plan.assign(**columns, seed=seed, optimizer=optimizer, table=name)


def make_plan(
    settings: Settings, rates: tuple[float, ...], heads: Heads, seed: int
) -> tuple[pd.DataFrame, StackedWeights]:
    """Returns the description of each copy, and the weights of all copies."""
    drawn = draw_log_normal(settings.draws, len(heads.terms), settings.spread, seed)
    every, few = range(settings.draws + 1), range(settings.draws // 3 + 1)
    fixed = [*product([FIXED], every, ["own"], rates), *product([FIXED], few, ["loss_sum"], rates)]
    balanced = [
        *product([BALANCED], every, ["loss_sum"], rates),
        *product([BALANCED], every, ["weight_sum"], rates),
        *product([BALANCED], [0], ["own"], rates),
    ]
    plan = pd.DataFrame([*fixed, *balanced], columns=["method", "draw", "scale", "rate"])
    ratios = StackedGradBalance(drawn[[draw for _, draw, *_ in balanced]])
    return plan, StackedWeights(drawn[[draw for _, draw, *_ in fixed]], [], plan["scale"].tolist(), ratios)


def draw_log_normal(draws: int, terms: int, spread: float, seed: int) -> Tensor:
    """Returns rows that are all 1, and then log-normal, ``[draws + 1, terms]``; each row adds up to the terms."""
    logs = spread * torch.randn(draws, terms, generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([torch.zeros(1, terms), logs]).exp()
    return rows * (terms / rows.sum(1, keepdim=True))

"""Weighting schemes and conflict aggregators on a physics-informed network.

The Helmholtz equation of ``task=pinn`` is solved by one network under each method, from the same initial weights and on
the same points: Adam with a learning rate that falls along a cosine, and from where that ends L-BFGS on a fixed set of
points. Terms are measured and combined at all parameters. What counts is the error relative to the known solution; it
is 1 for the trivial solution u = 0.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance._utils.checks import check_integer, check_positive
from lossbalance.conflict import IMTLG, MGDA, AlignedMTL, ConFIG, PCGrad
from lossbalance.tasks.pinn import Helmholtz, TanhNet
from lossbalance.tasks.pinn.data import draw_boundary
from lossbalance.weighting import (
    NTK,
    Equal,
    Fixed,
    GradBalance,
    GradNorm,
    InverseLoss,
    LRAnnealing,
    ReLoBRaLo,
    Uncertainty,
)

TERMS = ["residual", "boundary"]
FIXED = {f"fixed {weight:g}": weight for weight in (1.0, 10.0, 100.0, 1e3)}
"""Fixed weights of the boundary, beside a residual that weighs 1; the first is the plain sum."""


def _fixed(weight: float) -> WeightedLoss:
    return WeightedLoss(Fixed(TERMS, {"residual": 1.0, "boundary": weight}))


SCHEMES: dict[str, Callable[[], WeightedLoss]] = {
    **{name: partial(_fixed, weight) for name, weight in FIXED.items()},
    "LRAnnealing": lambda: WeightedLoss(LRAnnealing(TERMS)),
    "LRAnnealing norm": lambda: WeightedLoss(LRAnnealing(TERMS, statistic="norm")),
    "NTK": lambda: WeightedLoss(NTK(TERMS)),
    "GradNorm": lambda: WeightedLoss(GradNorm(TERMS)),
    "GradBalance": lambda: WeightedLoss(GradBalance(TERMS)),
    "InverseLoss": lambda: WeightedLoss(InverseLoss(TERMS)),
    "Uncertainty": lambda: WeightedLoss(Uncertainty(TERMS)),
    "ReLoBRaLo": lambda: WeightedLoss(ReLoBRaLo(TERMS)),
}
"""Methods that weigh the terms."""

AGGREGATORS: dict[str, Callable[[], WeightedLoss]] = {
    "ConFIG": lambda: WeightedLoss(Equal(TERMS), conflict=ConFIG()),
    "MGDA": lambda: WeightedLoss(Equal(TERMS), conflict=MGDA()),
    "MGDA unit": lambda: WeightedLoss(Equal(TERMS), conflict=MGDA(normalize=True)),
    "IMTLG": lambda: WeightedLoss(Equal(TERMS), conflict=IMTLG()),
    "AlignedMTL": lambda: WeightedLoss(Equal(TERMS), conflict=AlignedMTL()),
    "PCGrad": lambda: WeightedLoss(Equal(TERMS), conflict=PCGrad()),
}
"""Methods that combine the gradients; what they follow is the gradient of no function, so L-BFGS is not for them."""

METHODS = SCHEMES | AGGREGATORS
CELL = ["method", "seed"]
_SIDE = 101  # of the grid of points at which the error is measured
_BETWEEN = 20  # iterations of L-BFGS for which the weights hold still
_FIXED_POINTS = 1000  # inside and on the boundary, for L-BFGS


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        seeds: How many; each draws initial weights and points.
        steps: Steps of Adam.
        iterations: Iterations of L-BFGS after that.
        batch: Points inside, and on the boundary, in a step of Adam.
        lr: The learning rate of the first step of Adam.
        measurements: How often the error is measured in each phase.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range.
    """

    seeds: int = 3
    steps: int = 20_000
    iterations: int = 500
    batch: int = 128
    lr: float = 5e-3
    measurements: int = 20

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch", "measurements"):
            check_integer(name, getattr(self, name), 1)
        check_integer("iterations", self.iterations, 0)
        check_positive("lr", self.lr)


def list_cells(settings: Settings) -> list[tuple[str, int]]:
    """Returns the cells: every method from each seed."""
    return [(method, seed) for seed, method in product(range(settings.seeds), METHODS)]


def train_cell(settings: Settings, method: str, seed: int) -> pd.DataFrame:
    """Trains one network by one method.

    Returns:
        A row for each measurement: phase (``adam`` or ``lbfgs``), step, relative error, the losses by name, the weight
        of the boundary over that of the residual, and the seconds so far.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    training = Training(METHODS[method]())
    start = time.perf_counter()
    rows = []
    phases = [training.by_adam(settings, seed)]
    if method in SCHEMES:
        phases.append(training.by_lbfgs(settings, seed))
    for phase in phases:
        rows += [measured | {"seconds": time.perf_counter() - start} for measured in phase]
    return pd.DataFrame(rows).assign(method=method, seed=seed)


class Training:
    """One network and what weighs its terms.

    Args:
        criterion: Weighs the terms, or combines their gradients.
    """

    def __init__(self, criterion: WeightedLoss) -> None:
        self.criterion, self.net, self.equation = criterion, TanhNet(), Helmholtz()
        if criterion.conflict is None:
            self.views: dict[str, Any] = {term: criterion.probe_parameters(term, self.net) for term in TERMS}
        else:
            self.views = criterion.branch_parameters(self.net)
        axis = torch.linspace(-1, 1, _SIDE)
        self.grid = torch.cartesian_prod(axis, axis)
        self.solution = self.equation.solution(self.grid)

    def total(self, inside: Tensor, boundary: Tensor) -> Tensor:
        """Returns the weighted total at some points."""
        residual = self.equation.residual(self.views["residual"], inside)
        return self.criterion(
            {"residual": residual, "boundary": self.equation.boundary(self.views["boundary"], boundary)}
        )

    def by_adam(self, settings: Settings, seed: int) -> Iterator[dict[str, Any]]:
        """Trains by Adam on points drawn anew in each step; yields the measurements."""
        generator = torch.Generator().manual_seed(seed)
        groups = [{"params": list(self.net.parameters())}, *self.criterion.parameter_groups()]
        optimizer = torch.optim.Adam(groups, lr=settings.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        every = max(settings.steps // settings.measurements, 1)
        for step in range(1, settings.steps + 1):
            optimizer.zero_grad()
            self.total(*_draw(settings.batch, generator)).backward()
            optimizer.step()
            schedule.step()
            if step % every == 0 or step == settings.steps:
                yield self._measure("adam", step)

    def by_lbfgs(self, settings: Settings, seed: int) -> Iterator[dict[str, Any]]:
        """Trains on by L-BFGS on fixed points, under weights that hold still for some iterations at a time."""
        points = _draw(_FIXED_POINTS, torch.Generator().manual_seed(seed))
        rule = {"max_iter": _BETWEEN, "history_size": 50, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS(self.net.parameters(), **rule)  # type: ignore[arg-type]
        self.criterion.attach(optimizer, self.net)

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = self.total(*points)
            total.backward()
            return total

        for done in range(_BETWEEN, settings.iterations + 1, _BETWEEN):
            optimizer.step(closure)
            yield self._measure("lbfgs", done)

    def _measure(self, phase: str, step: int) -> dict[str, Any]:
        with torch.no_grad():
            error = (self.net(self.grid) - self.solution).norm() / self.solution.norm()
        last = self.criterion.last
        losses = {term: loss.item() for term, loss in last.losses.items()}
        ratio = (last.weights["boundary"] / last.weights["residual"]).item()
        return {"phase": phase, "step": step, "error": error.item(), **losses, "ratio": ratio}


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 2, generator=generator) * 2 - 1, draw_boundary(count, generator)

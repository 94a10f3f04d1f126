"""Effect of the initial log-variances of ``Uncertainty`` on regressions whose targets have different units.

Two heads of one network predict two targets in their raw units, centred. What counts is the test error of each
relative to the target's variance, averaged over the targets: 0 is perfect, 1 is the target's mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Uncertainty, Weighting

_BATCH, _WIDTH = 64, 64
_METHODS: dict[str, Callable[[list[str]], Weighting]] = {
    "plain sum": Equal,
    "Uncertainty, s = 0": partial(Uncertainty, initial_log_variance=0.0),
    "Uncertainty, auto": Uncertainty,
}


@dataclass(frozen=True)
class Regression:
    """A table of features ``[samples, features]``, standardized, and of targets ``[samples, terms]`` in raw units."""

    name: str
    terms: list[str]
    features: Tensor
    targets: Tensor


def benchmark_uncertainty(
    seeds: Sequence[int] = range(5),
    steps: int = 500,
    lr: float = 0.01,
    bikes: Path | None = None,
    console: Console | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Trains on the plain sum and by uncertainty, started at 0 and at the optimum of the first losses.

    Args:
        seeds: One training of each kind per seed, which also draws the quarter of the samples that test.
        steps: Steps of Adam.
        lr: Its learning rate, for the network and the log-variances alike.
        bikes: ``hour.csv`` of the bike-sharing data, if at hand.
        console: Where to show the tables.

    Returns:
        The normalized test errors ``[seeds, terms]``, by the name of the data and the method.
    """
    console = console or Console()
    errors: dict[str, dict[str, Tensor]] = {}
    for data in [read_diabetes(), *([read_bikes(bikes)] if bikes else [])]:
        errors[data.name] = {method: torch.zeros(len(seeds), len(data.terms)) for method in _METHODS}
        for i, seed in enumerate(track(seeds, data.name, console=console, transient=True)):
            for method, scheme in _METHODS.items():
                errors[data.name][method][i] = _train(data, WeightedLoss(scheme(data.terms)), seed, steps, lr)
        console.print(_table(data, errors[data.name], f"{steps} steps of Adam at {lr:g}, {len(seeds)} seeds"))
    return errors


def read_diabetes() -> Regression:
    """Returns scikit-learn's diabetes data: the progression of the disease, and the log of the triglycerides."""
    data = load_diabetes(as_frame=True, scaled=False)
    targets = pd.DataFrame({"progression": data.target, "triglycerides": data.data["s5"]})
    return _regression("diabetes", data.data.drop(columns="s5"), targets)


def read_bikes(path: Path) -> Regression:
    """Returns the bike-sharing data: rides per hour of casual and of registered users, from calendar and weather."""
    table = pd.read_csv(path)
    categories = ["season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit"]
    weather = table[["temp", "atemp", "hum", "windspeed"]]
    features = pd.concat([pd.get_dummies(table[categories].astype(str)), weather], axis=1)
    return _regression("bike sharing", features, table[["casual", "registered"]])


def _regression(name: str, features: pd.DataFrame, targets: pd.DataFrame) -> Regression:
    features, targets = (features - features.mean()) / features.std(), targets - targets.mean()
    x, y = (torch.tensor(table.to_numpy(np.float32)) for table in (features, targets))
    return Regression(name, list(targets), x, y)


def _train(data: Regression, criterion: WeightedLoss, seed: int, steps: int, lr: float) -> Tensor:
    """Returns the normalized test error of each target ``[terms]``."""
    torch.manual_seed(seed)
    test, train = torch.randperm(len(data.targets)).tensor_split([len(data.targets) // 4])
    layers = [nn.Linear(data.features.shape[1], _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(_WIDTH, len(data.terms)))
    optimizer = torch.optim.Adam([{"params": network.parameters()}, *criterion.parameter_groups()], lr=lr)

    def squared_errors(samples: Tensor) -> Tensor:
        return (network(data.features[samples]) - data.targets[samples]).square().mean(dim=0)

    for _ in range(steps):
        losses = squared_errors(train[torch.randint(len(train), (_BATCH,))])
        optimizer.zero_grad()
        criterion(dict(zip(data.terms, losses, strict=True))).backward()
        optimizer.step()
    with torch.no_grad():
        return squared_errors(test) / data.targets[test].var(dim=0)


def _table(data: Regression, errors: dict[str, Tensor], caption: str) -> Table:
    table = Table(title=f"Normalized test error on {data.name}", caption=caption)
    table.add_column("", no_wrap=True)
    for term, scale in zip(data.terms, data.targets.std(dim=0), strict=True):
        table.add_column(f"{term}\n(± {scale:.3g})", justify="right")
    table.add_column("mean of both,\n± over seeds", justify="right")
    for method, rows in errors.items():
        means = rows.mean(dim=1)
        cells = [f"{error:.3f}" for error in rows.mean(dim=0)]
        table.add_row(method, *cells, f"{means.mean():.3f} ± {means.std():.3f}")
    return table

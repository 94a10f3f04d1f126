"""Normalizations of a penalty as the network grows wider: how far the best strength moves.

One family of networks is trained on few real digits, at every width, under every normalization, at a grid of strengths
and from several seeds. What counts is how far the best strength moves with the width, and what it costs to keep the one
that was best for the narrowest network.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from lossbalance._utils.checks import check_integer, check_number
from lossbalance.penalties import L2
from studies.width_transfer.stack import StackedL2, evaluate, train

NORMALIZATIONS = ("sum", "mean", "tensor_mean", "fan", "share")
"""Those of :class:`L2`, and ``share``, by which the penalty's gradient is held at a share of the data's."""

_GUESS = 3e-3  # a strength for "sum" that is about right; grids are laid around it
_DECADES = np.arange(-4, 9) / 3  # wide enough for the mean, which is divided by the number of weights
_SHARES = np.geomspace(0.1, 1.25, len(_DECADES))  # from 1 on, the penalty wins
CELL = ["normalization", "width", "seed"]


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        widths: Units in each of the two hidden layers, ascending.
        seeds: How many; each draws the pictures and the initial weights.
        pictures: How many of scikit-learn's 1797 digits are for training; half of the rest chooses the strength, half
            tests.
        steps: Steps of a training.
        lr: The learning rate of its first step.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range, or the widths are not ascending.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    seeds: int = 5
    pictures: int = 200
    steps: int = 400
    lr: float = 0.1

    def __post_init__(self) -> None:
        for width in self.widths:
            check_integer("widths", width, 1)
        if not self.widths or list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"`widths` must be one or more in ascending order, got {list(self.widths)}.")
        check_integer("seeds", self.seeds, 1)
        check_integer("pictures", self.pictures, 20, 1700)
        check_integer("steps", self.steps, 1)
        check_number("lr", self.lr, "a positive, finite number", lambda number: 0 < number < math.inf)


class Digits(NamedTuple):
    """Pictures ``[pictures, 64]``, with pixels from 0 to 1, and labels ``[pictures]``, of one part of the data."""

    images: Tensor
    labels: Tensor


def list_cells(settings: Settings) -> list[tuple[str, int, int]]:
    """Returns the cells: every normalization at each width from each seed, the widest first."""
    widths = sorted(settings.widths, reverse=True)
    return [(name, width, seed) for width, name, seed in product(widths, NORMALIZATIONS, range(settings.seeds))]


def train_cell(settings: Settings, normalization: str, width: int, seed: int) -> pd.DataFrame:
    """Trains one network at every strength.

    Returns:
        A row for each: strength, validation loss, test loss and accuracy, and the penalty's share of the value and of
        the gradient, both means over the steps.
    """
    torch.set_num_threads(1)
    training, validation, test = read_digits(settings.pictures, seed)
    torch.manual_seed(seed)
    net = make_net(width)
    strengths = torch.as_tensor(grid(normalization, settings.widths[0]), dtype=torch.float32)
    trained = train(net, StackedL2(net, normalization, strengths), *training, settings.steps, settings.lr)
    test_loss, test_accuracy = evaluate(net, trained.parameters, *test)
    columns = {
        "strength": strengths,
        "validation_loss": evaluate(net, trained.parameters, *validation)[0],
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "value_share": trained.value_share,
        "gradient_share": trained.gradient_share,
    }
    known = dict(zip(CELL, (normalization, width, seed), strict=True))
    return pd.DataFrame(known | {name: column.tolist() for name, column in columns.items()})


def grid(normalization: str, width: int) -> np.ndarray:
    """Returns the strengths to try, for all widths: around the one that weighs a network of ``width`` as a sum does."""
    if normalization == "share":
        return _SHARES
    net = make_net(width)
    groups = L2(1.0, normalization).groups(net)
    scales = [(group.factors[0], weight.numel()) for group in groups for weight in group.weights]
    mean_scale = sum(scale * count for scale, count in scales) / sum(count for _, count in scales)
    return _GUESS / mean_scale * 10.0**_DECADES


def make_net(width: int) -> nn.Module:
    """Returns the family's network of one width."""
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )  # fmt: skip


def read_digits(pictures: int, seed: int) -> tuple[Digits, Digits, Digits]:
    """Returns disjoint digits for training, validation and test, stratified."""
    images, labels = load_digits(return_X_y=True)
    training, rest = train_test_split(np.arange(len(labels)), train_size=pictures, stratify=labels, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=seed)
    images, labels = torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(labels)
    first, second, third = (Digits(images[part], labels[part]) for part in (training, validation, test))
    return first, second, third

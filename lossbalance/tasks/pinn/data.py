"""Points inside the square and on its boundary."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from lossbalance._utils.checks import check_integer
from lossbalance.tasks.batches import Batches

_GRID = {"val": 51, "test": 101}  # points along a side


class CollocationPoints(pl.LightningDataModule):
    """Points drawn at random for training, and a grid for validation and test.

    Batches are mappings: ``inside`` and ``boundary``, ``[batch, 2]`` each.

    Args:
        size: Points inside, and as many on the boundary, in an epoch.
        batch_size: Of these in a training step.
        seed: Draws the points and the order of the batches.

    Raises:
        TypeError: If a number is not whole.
        ValueError: If one is out of range.
    """

    def __init__(self, size: int = 12800, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__()
        self.size = check_integer("size", size, 1)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0)

    def setup(self, stage: str) -> None:
        """Draws the points."""
        generator = torch.Generator().manual_seed(self.seed)
        inside = torch.rand(self.size, 2, generator=generator) * 2 - 1
        self.sets = {"train": _stack(inside, draw_boundary(self.size, generator))}
        for part, side in _GRID.items():
            axis = torch.linspace(-1, 1, side)
            grid = torch.cartesian_prod(axis, axis)
            edge = grid[(grid.abs() == 1).any(dim=1)]
            self.sets[part] = _stack(grid, edge.repeat(len(grid) // len(edge) + 1, 1)[: len(grid)])

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order drawn anew in each epoch."""
        return self._loader("train", Batches(self.size, self.batch_size, self.seed))

    def val_dataloader(self) -> DataLoader[Any]:
        """The grid, at once."""
        return self._loader("val", Batches(_GRID["val"] ** 2, _GRID["val"] ** 2))

    def test_dataloader(self) -> DataLoader[Any]:
        """The finer grid, at once."""
        return self._loader("test", Batches(_GRID["test"] ** 2, _GRID["test"] ** 2))

    def _loader(self, part: str, batches: Batches) -> DataLoader[Any]:
        return DataLoader(self.sets[part], sampler=batches, batch_size=None)


def draw_boundary(count: int, generator: torch.Generator) -> Tensor:
    """Returns points ``[count, 2]`` on the boundary of the square, as many on each side but for chance."""
    points = torch.rand(count, 2, generator=generator) * 2 - 1
    side = torch.randint(4, (count,), generator=generator)
    ends = torch.tensor([-1.0, 1.0])[side % 2]
    fixed = torch.nn.functional.one_hot(side // 2, 2).bool()
    return torch.where(fixed, ends.unsqueeze(1), points)


def _stack(inside: Tensor, boundary: Tensor) -> StackDataset[Any]:
    return StackDataset(inside=inside, boundary=boundary)  # type: ignore[arg-type]  # a tensor will do

"""Sampler of whole batches, reproducible when a training is resumed."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Batches(Sampler[Tensor]):
    """Indices of whole batches; where there is a seed, in an order drawn from it and the epoch.

    The order depends on nothing else: a resumed training sees the same batches.

    Args:
        size: Number of samples.
        batch_size: Samples in a batch; the last batch may have fewer.
        seed: Draws the order; None leaves the samples in theirs.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None = None) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = torch.arange(self.size)
        else:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator)
        yield from order.split(self.batch_size)

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

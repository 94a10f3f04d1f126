"""Running means of many numbers at once: weighted by batch size, with compensated sums."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RunningMeans(Metric):
    r"""The mean of each of N numbers over the samples that had it.

    A batch of :math:`b_t` samples brings a row :math:`x_t`, of which each entry is a mean over the batch:

    .. math:: m_i = \frac{\sum_t b_t x_{ti}}{\sum_t b_t}

    over the batches t in which :math:`x_{ti}` is finite. So a smaller last batch counts for less, and a number that a
    batch lacks, nan, does not count. States add up over batches and ranks. An update never waits for the device.

    Some devices have no float64, and a sum of a hundred thousand rows in float32 loses digits. So each sum is kept as
    two numbers in float32, the rounded sum and the sum of the rounding errors (Knuth's TwoSum, The Art of
    Computer Programming, volume 2, section 4.2.2).

    Args:
        num_values: N.
        **kwargs: What every torchmetrics class takes.

    Shape:
        ``update`` takes rows ``[batches, num_values]`` and the sizes of the batches ``[batches]``; ``compute`` returns
        ``[num_values]``, nan for what no batch had.

    Example:
        >>> means = RunningMeans(2)
        >>> means.update(torch.tensor([[1.0, 5.0], [2.0, torch.nan]]), batch_sizes=torch.tensor([30, 10]))
        >>> means.compute().tolist()
        [1.25, 5.0]
    """

    full_state_update = False
    totals: Tensor
    rests: Tensor

    def __init__(self, num_values: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("totals", "rests"):  # of the weighted values, and of the sizes
            self.add_state(state, torch.zeros(2, num_values), dist_reduce_fx="sum", persistent=True)
        self.reset()

    @property
    def num_values(self) -> int:
        """N."""
        return self.totals.shape[1]

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        # nan are means of nothing; torchmetrics would warn
        self.update(self.totals.new_zeros(0, self.num_values), self.totals.new_zeros(0))

    def update(self, rows: Tensor, batch_sizes: Tensor) -> None:
        """Adds the rows of some batches."""
        sizes = rows.isfinite() * batch_sizes.to(self.totals, non_blocking=True).unsqueeze(1)
        values = rows.nan_to_num(0.0, 0.0, 0.0) * sizes
        self._add(torch.stack([values.sum(dim=0), sizes.sum(dim=0)]).to(self.totals))

    def compute(self) -> Tensor:
        """Returns the means so far."""
        sums, sizes = self.totals + self.rests
        return sums / sizes

    def absorb(self, other: "RunningMeans") -> None:
        """Adds all that ``other`` has seen on this rank."""
        self._add(other.totals)
        self.rests = self.rests + other.rests

    def select(self, order: list[int]) -> None:
        """Keeps the means at these indices, in this order."""
        self.totals, self.rests = (
            torch.stack([state[:, index] for index in order], dim=1) for state in (self.totals, self.rests)
        )

    def _add(self, sums: Tensor) -> None:
        totals = self.totals + sums
        taken = totals - self.totals  # the part of the sums that the totals have absorbed
        self.rests = self.rests + ((self.totals - (totals - taken)) + (sums - taken))
        self.totals = totals

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.totals, self.rests = self.totals.to(self.device), self.rests.to(self.device)

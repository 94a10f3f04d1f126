"""The means of many numbers at once."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RunningMeans(Metric):
    r"""The mean of each of N numbers over the samples that had it.

    A batch of :math:`b_t` samples brings a row :math:`x_t`, of which each entry is a mean over the batch:

    .. math:: m_i = \frac{\sum_t b_t x_{ti}}{\sum_t b_t}

    over the batches t in which :math:`x_{ti}` is finite. So a smaller last batch counts for less, and what a batch
    lacks, written as nan, does not count. States add up over batches and ranks. An update never waits for the device.

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
    sums: Tensor
    sizes: Tensor

    def __init__(self, num_values: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("sums", "sizes"):
            nothing = torch.zeros(num_values, dtype=torch.float64)
            self.add_state(state, nothing, dist_reduce_fx="sum", persistent=True)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.update(torch.zeros(0, len(self.sums)), torch.zeros(0))  # nan are means of nothing; torchmetrics would warn

    def update(self, rows: Tensor, batch_sizes: Tensor) -> None:
        """Adds the rows of some batches."""
        sizes = rows.isfinite() * batch_sizes.to(self.sizes).unsqueeze(1)
        self.sums += (rows.nan_to_num(0.0, 0.0, 0.0) * sizes).sum(dim=0)
        self.sizes += sizes.sum(dim=0)

    def compute(self) -> Tensor:
        """Returns the means so far."""
        return self.sums / self.sizes

    def absorb(self, other: "RunningMeans") -> None:
        """Adds all that ``other`` has seen on this rank."""
        self.sums += other.sums
        self.sizes += other.sizes

"""Norms measured in the last step and not yet observed."""

import torch
from torch import Tensor

from lossbalance._utils.distributed import Ranks
from lossbalance._utils.precision import widest


class PendingNorms:
    """Rows ``[terms]`` of the last step: losses, norms and, where asked for, the largest and the mean magnitudes.

    All is written in place, so that a CUDA graph finds it where it was. Plain tensors, for DistributedDataParallel
    gives every rank the buffers of rank 0.

    Args:
        count: The number of terms.
        device: Where they are.
        ranks: The ranks that they are reduced over.
    """

    def __init__(self, count: int, device: torch.device, ranks: Ranks) -> None:
        self.ranks = ranks
        self.rows = torch.zeros(2, count, dtype=torch.float32, device=device)
        """``[2 or 4, terms]``; 0 where nothing was measured."""
        self._rank_local = torch.zeros((), dtype=torch.bool, device=device)  # whether they differ between ranks
        self._reobserve: Tensor | None = None  # observed: whether to observe them again; None if not observed

    def resize(self, magnitudes: bool, like: Tensor) -> None:
        """Allocates the rows that the scheme uses, in the dtype of the losses."""
        count = 4 if magnitudes else 2
        if len(self.rows) != count or self.rows.dtype != like.dtype:
            rows = torch.zeros(count, self.rows.size(1), dtype=like.dtype, device=like.device)
            rows[: len(self.rows)] = self.rows[:count]
            self.rows = rows

    def commit(self, rows: Tensor, non_finite: Tensor) -> None:
        """Stores the measurements of this rank, unless a loss of the step was not finite."""
        self._reobserve = None
        self._write(rows, non_finite)
        if self.ranks.size > 1:
            self._rank_local.logical_or_(~non_finite)

    def all_reduce(self, non_finite: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rows reduced over ranks, and whether a loss of any rank is not finite.

        Args:
            non_finite: Whether a loss of the step at hand is not finite on this rank, ``[]``.
        """
        rows, non_finite = average_over_ranks(self._unobserved(), self._rank_local, non_finite, self.ranks)
        if self.ranks.size > 1:
            self._write(rows, non_finite)
            self._rank_local.logical_and_(non_finite)
        return rows, non_finite

    def mark_observed(self, non_finite: Tensor) -> None:
        """Marks the rows as observed by a step, unless a loss of that step is not finite."""
        self._reobserve = non_finite if self._reobserve is None else self._reobserve & non_finite

    def discard(self, non_finite: Tensor) -> None:
        """Discards the rows, unless a loss of the step is not finite: the step has observed others."""
        self._write(torch.zeros_like(self.rows), non_finite)

    def state(self) -> Tensor:
        """Returns ``[4, terms]`` to be saved, of one size throughout a training, in the dtype of the losses.

        A rank that saves alone stands for all ranks.
        """
        rows = torch.zeros(4, self.rows.size(1), dtype=self.rows.dtype, device=self.rows.device)
        rows[: len(self.rows)] = self._unobserved()
        rows[1].mul_(torch.where(self._rank_local, (self.ranks.replicas / self.ranks.size) ** 0.5, 1.0))
        return rows

    def load(self, rows: Tensor) -> None:
        """Restores what :meth:`state` returned."""
        device = self._rank_local.device
        dtype = min(rows.dtype, widest(device), key=lambda dtype: dtype.itemsize)
        self.rows, self._reobserve = rows.to(device, dtype, copy=True), None
        self._rank_local.zero_()

    def to(self, device: torch.device) -> None:
        """Moves the rows; those that have no values, on the meta device, become zeros."""
        meta = self.rows.is_meta
        self.rows = torch.zeros_like(self.rows, device=device) if meta else self.rows.to(device)
        self._rank_local = torch.zeros_like(self._rank_local, device=device) if meta else self._rank_local.to(device)
        self._reobserve = None if self._reobserve is None or meta else self._reobserve.to(device)

    def _unobserved(self) -> Tensor:
        return self.rows if self._reobserve is None else self.rows.masked_fill(~self._reobserve, 0.0)

    def _write(self, rows: Tensor, non_finite: Tensor) -> None:
        torch.where(non_finite, self.rows, rows.to(self.rows.dtype), out=self.rows)


def average_over_ranks(rows: Tensor, fresh: Tensor, non_finite: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Averages rows over ranks, by one collective; returns them as they are on a single process.

    The gradient of a mean over R ranks is one R-th of each rank's gradient, side by side; so the square of its norm is
    the sum of the ranks' squares over R squared. Magnitudes are averaged, as losses are. Where T ranks hold the same
    gradient, by tensor parallelism, it is in the sum T times, and the mean is one over R / T.

    Args:
        rows: Losses, norms and perhaps magnitudes, ``[rows, terms]``.
        fresh: Whether the entry of a term is this rank's own, ``[terms]`` or ``[]``; else all ranks have it already.
        non_finite: Whether a loss of the step is not finite on this rank, ``[]``.
        ranks: The ranks.

    Returns:
        The rows, as they were where no rank has a fresh entry, and whether a loss on any rank is not finite.
    """
    if ranks.size == 1:
        return rows, non_finite
    fresh = fresh & rows.isfinite().all(dim=0)
    sent = torch.where(fresh, rows, 0.0)
    sent[1].square_()
    sums = ranks.sum(torch.cat([sent.flatten(), fresh.to(rows.dtype), non_finite.to(rows.dtype).unsqueeze(0)]))
    received, counts = sums[: rows.numel()].view_as(rows), sums[rows.numel() : -1]
    means = received / counts.clamp(min=1)
    means[1] = received[1].sqrt() * (ranks.replicas**0.5 / ranks.size)
    return torch.where(counts > 0, means, rows), sums[-1] > 0

"""What was measured of the last step, until the next one observes it."""

import torch
from torch import Tensor

from lossbalance._utils.distributed import sum_over_ranks, world_size


class PendingNorms:
    """Rows ``[terms]`` of the last step: losses, norms and, where asked for, the largest and the mean magnitudes.

    All is written in place, so that a CUDA graph finds it where it was. Plain tensors, for DistributedDataParallel
    gives every rank the buffers of rank 0.

    Args:
        count: The number of terms.
        device: Where they are.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.rows = torch.zeros(2, count, device=device)
        """``[2 or 4, terms]``; 0 where nothing was measured."""
        self._own = torch.zeros((), dtype=torch.bool, device=device)  # whether other ranks have other ones
        self._again: Tensor | None = None  # observed already: whether to observe them again; None if not observed

    def fit(self, magnitudes: bool, like: Tensor) -> None:
        """Makes room for what the scheme uses, in the type of the losses."""
        count = 4 if magnitudes else 2
        if len(self.rows) != count or self.rows.dtype != like.dtype:
            rows = torch.zeros(count, self.rows.size(1), dtype=like.dtype, device=like.device)
            rows[: len(self.rows)] = self.rows[:count]
            self.rows = rows

    def commit(self, rows: Tensor, non_finite: Tensor) -> None:
        """Keeps what this rank has measured of a step, unless a loss of the step was not finite."""
        self._again = None
        self._write(rows, non_finite)
        if world_size() > 1:
            self._own.logical_or_(~non_finite)

    def all_reduce(self, non_finite: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rows as all ranks together have measured them, and whether a loss of any rank is not finite.

        Args:
            non_finite: Whether a loss of the step at hand is not finite on this rank, ``[]``.
        """
        rows, non_finite = average_over_ranks(self._unobserved(), self._own, non_finite)
        if world_size() > 1:
            self._write(rows, non_finite)
            self._own.logical_and_(non_finite)
        return rows, non_finite

    def use_up(self, non_finite: Tensor) -> None:
        """Notes that a step has observed the rows, unless a loss of that step is not finite."""
        self._again = non_finite if self._again is None else self._again & non_finite

    def skip(self, non_finite: Tensor) -> None:
        """Forgets the rows, for the step at hand has observed others, unless a loss of that step is not finite."""
        self._write(torch.zeros_like(self.rows), non_finite)

    def state(self) -> Tensor:
        """Returns the rows, for a state to be saved; a rank that saves alone takes its own for everybody's."""
        rows = self._unobserved().clone()
        rows[1].mul_(torch.where(self._own, world_size() ** -0.5, 1.0))
        return rows

    def load(self, rows: Tensor) -> None:
        """Takes up what :meth:`state` returned."""
        self.rows, self._again = rows.to(self._own.device, copy=True), None
        self._own.zero_()

    def to(self, device: torch.device) -> None:
        """Moves the rows; those that have no values, on the meta device, become zeros."""
        meta = self.rows.is_meta
        self.rows = torch.zeros_like(self.rows, device=device) if meta else self.rows.to(device)
        self._own = torch.zeros_like(self._own, device=device) if meta else self._own.to(device)
        self._again = None if self._again is None or meta else self._again.to(device)

    def _unobserved(self) -> Tensor:
        return self.rows if self._again is None else self.rows.masked_fill(~self._again, 0.0)

    def _write(self, rows: Tensor, non_finite: Tensor) -> None:
        torch.where(non_finite, self.rows, rows.to(self.rows.dtype), out=self.rows)


def average_over_ranks(rows: Tensor, fresh: Tensor, non_finite: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what all ranks together know, by one collective; without other ranks, what this one does.

    The gradient of a mean over R ranks is one R-th of each rank's gradient, side by side; so the square of its norm is
    the sum of the ranks' squares over R squared. Magnitudes are averaged, as losses are.

    Args:
        rows: Losses, norms and perhaps magnitudes, ``[rows, terms]``.
        fresh: Whether the entry of a term is this rank's own, ``[terms]`` or ``[]``; else all ranks have it already.
        non_finite: Whether a loss of the step is not finite on this rank, ``[]``.

    Returns:
        The rows, as they were where no rank has a fresh entry, and whether a loss on any rank is not finite.
    """
    if world_size() == 1:
        return rows, non_finite
    fresh = fresh & rows.isfinite().all(dim=0)
    sent = torch.where(fresh, rows, 0.0)
    sent[1].square_()
    sums = sum_over_ranks(torch.cat([sent.flatten(), fresh.to(rows.dtype), non_finite.to(rows.dtype).unsqueeze(0)]))
    received, ranks = sums[: rows.numel()].view_as(rows), sums[rows.numel() : -1]
    means = received / ranks.clamp(min=1)
    means[1] = received[1].sqrt() / world_size()
    return torch.where(ranks > 0, means, rows), sums[-1] > 0

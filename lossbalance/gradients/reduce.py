"""What the ranks have measured, brought together."""

import torch
from torch import Tensor

from lossbalance._utils.distributed import sum_over_ranks, world_size


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

"""Equal weighting: the plain sum of the losses."""

import torch
from torch import Tensor

from lossbalance.weighting.base import Weighting, weighted_sum


class Equal(Weighting):
    r"""Adds the losses up: :math:`T = \sum_i L_i`.

    The baseline that every other scheme has to beat.

    Args:
        terms: Names of the losses, in the order of the row.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Example:
        >>> total, weights = Equal(["aux", "main"])(torch.tensor([2.0, 4.0]))
        >>> total.item(), weights.tolist()
        (6.0, [1.0, 1.0])
    """

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs every loss by 1."""
        return weighted_sum(losses, torch.ones_like(losses), present)

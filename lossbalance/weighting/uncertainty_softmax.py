"""Uncertainty weights in closed form, with nothing to learn."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting


class UncertaintySoftmax(PositiveWeighting):
    r"""Weighs each loss by a softmax of the inverse losses.

    The weight that :class:`Uncertainty` would learn is in the end a multiple of :math:`1 / L_i`. Here it is computed
    at each step and softened by a temperature :math:`T`,

    .. math:: w_i = \frac{e^{1 / (T L_i)}}{\sum_j e^{1 / (T L_j)}},

    from the losses of the step at hand, averaged over ranks and taken as constants. The weights add up to 1.

    **T has a unit**, one over that of a loss: multiply all losses by 1000, and the same T gives nearly equal weights.
    So it has to be tuned anew for every task. The scale-free form takes the logarithm of the inverse instead,

    .. math:: w_i = \frac{L_i^{-1/T}}{\sum_j L_j^{-1/T}},

    where T is a plain number: at 1 all weighted losses are equal (the paper's UW-O), towards infinity all weights are.

    A term that a step lacks keeps its last loss in the sums, and has weight 0 itself. In ``eval()`` the weights are
    those of the last training step; before training all are equal.

    Args:
        terms: Names of the losses, in the order of the row.
        temperature: :math:`T`, above 0: in the unit of one over a loss, or without a unit if ``scale_free``.
        scale_free: Whether T has no unit.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``temperature`` is not a number.
        ValueError: If ``temperature`` is not positive and finite. In training, if a loss is not above 0;
            :class:`PositiveWeighting` says when.

    Source:
        Kirchdorfer et al. (2024), https://arxiv.org/abs/2408.07985, UW-SO and UW-O; the scale-free form is ours.

    Example:
        >>> scheme = UncertaintySoftmax(["small", "large"], scale_free=True)
        >>> total, weights = scheme(torch.tensor([1.0, 4.0]))
        >>> weights  # so that each weighted loss is 0.8
        tensor([0.8000, 0.2000])
    """

    latest: Tensor

    def __init__(self, terms: Iterable[str], temperature: float = 1.0, scale_free: bool = False) -> None:
        super().__init__(terms)
        kind = "a positive, finite number"
        self.temperature = check_number("temperature", temperature, kind, lambda number: 0 < number < math.inf)
        self.scale_free = scale_free
        unseen = torch.finfo(torch.float32).max  # a loss without end: the smallest weight
        self.register_buffer("latest", torch.full((len(self.terms),), unseen))

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the softmax of its inverse."""
        inverse = -self.latest.log() if self.scale_free else 1 / self.latest
        logits = (inverse / self.temperature).clamp(max=torch.finfo(inverse.dtype).max)  # ln w, up to a constant
        return weighted_sum(losses, torch.softmax(logits, dim=0), present)

    def observe(self, observation: Observation) -> None:
        """Takes up the losses of the step."""
        losses, seen = observation.losses, observation.seen
        self.latest.copy_(torch.where(seen, losses, self.latest))
        super().observe(observation)

"""Weights from how much each loss still moves."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting


class CoV(PositiveWeighting):
    r"""Weighs each loss by the coefficient of variation of its ratio to the mean so far.

    With :math:`\mu_L` the mean of a loss over the steps before, :math:`\ell = L / \mu_L` its ratio, and mean and
    standard deviation of the ratio over all steps so far,

    .. math:: w_i = \frac{c_i}{\sum_j c_j}, \qquad c_i = \frac{\sigma_{\ell_i}}{\mu_{\ell_i}}.

    A loss that has stopped moving is taken for solved and loses its weight. The weights add up to 1. In the first step
    of a term its weight is 1 / K, as in the authors' code. That code weighs a step by the statistics up to the step
    before; here they include the step itself, as in the equation.

    Statistics are per term, over the steps that have it, and of losses averaged over ranks.

    Args:
        terms: Names of the losses, in the order of the row.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        ValueError: In training, if a loss is not above 0; :class:`PositiveWeighting` says when. Until then such a loss
            counts as not seen.

    Source:
        Groenendijk, Karaoglu, Gevers and Mensink (2021), "Multi-Loss Weighting with Coefficient of Variations",
        equations 3 to 6, the means by Welford's algorithm, https://arxiv.org/abs/2009.01717

    Example:
        >>> scheme = CoV(["moves", "stands"])
        >>> for losses in ([1.0, 3.0], [2.0, 3.0]):
        ...     total, weights = scheme(torch.tensor(losses))
        >>> weights.tolist()
        [1.0, 0.0]
    """

    steps: Tensor
    mean_loss: Tensor
    mean_ratio: Tensor
    squares: Tensor

    def __init__(self, terms: Iterable[str]) -> None:
        super().__init__(terms)
        self.register_buffer("steps", torch.zeros(len(self.terms)))  # how often each term was seen
        self.register_buffer("mean_loss", torch.zeros(len(self.terms)))
        self.register_buffer("mean_ratio", torch.zeros(len(self.terms)))
        self.register_buffer("squares", torch.zeros(len(self.terms)))  # sum of squared distances from the mean ratio

    def observe(self, observation: Observation) -> None:
        """Moves the statistics of the terms that were seen."""
        seen = observation.seen & (observation.losses > 0)
        losses = torch.where(seen, observation.losses.to(self.steps.dtype), self.mean_loss)
        ratio = torch.where(self.steps > 0, losses / self.mean_loss, 1.0)  # l
        self.steps.add_(seen)
        gain = (seen / self.steps).nan_to_num(0.0)
        distance = ratio - self.mean_ratio
        self.mean_ratio.addcmul_(distance, gain)
        self.squares.addcmul_(distance * (ratio - self.mean_ratio), seen)
        self.mean_loss.lerp_(losses, gain)
        super().observe(observation)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its coefficient of variation."""
        variation = (self.squares / self.steps).sqrt() / self.mean_ratio  # c
        variation = torch.where(self.steps > 1, variation, torch.nan)
        variation = torch.where(self.steps > 1, variation, variation.nanmean())  # of a term seen once: the mean
        weights = (variation / variation.sum()).nan_to_num(1 / len(self.terms))
        return weighted_sum(losses, weights, present)

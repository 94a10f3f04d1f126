"""Coefficient-of-variation weighting (CoV-Weighting)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance.weighting.averages import TINY
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
    means: Tensor
    squares: Tensor

    def __init__(self, terms: Iterable[str]) -> None:
        super().__init__(terms)
        self.register_buffer("steps", torch.full((len(self.terms),), TINY))  # how often each term was seen
        self.register_buffer("means", torch.stack([torch.zeros(len(self.terms)), torch.ones(len(self.terms))]))  # L, l
        self.register_buffer("squares", torch.zeros(len(self.terms)))  # sum of squared distances from the mean ratio

    def observe(self, observation: Observation) -> None:
        """Moves the statistics of the terms that were seen."""
        seen = self.find_positive(observation)
        losses = observation.losses.to(self.means.dtype)
        ratio = (losses / self.means[0]).nan_to_num(1.0, posinf=1.0)  # l; 1 in the first step
        latest = torch.where(seen, torch.stack([losses, ratio]), self.means)
        self.steps.add_(seen)
        before = latest - self.means
        self.means.lerp_(latest, self.steps.reciprocal())
        self.squares.addcmul_(before[1], latest[1] - self.means[1])

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its coefficient of variation."""
        variation = (self.squares / self.steps).sqrt() / self.means[1]  # c; 0 for a term seen once
        known = self.steps > 1
        part = variation / known * (known.sum() / variation.sum())  # of the mean; nan for a term seen once
        return weighted_sum(losses, (part / len(self.terms)).nan_to_num(1 / len(self.terms)), present)

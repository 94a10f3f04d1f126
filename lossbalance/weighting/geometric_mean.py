"""Geometric loss strategy (GLS): the geometric mean of the losses."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting


class GeometricMean(PositiveWeighting):
    r"""Minimizes the geometric mean of the losses.

    .. math:: T = \Big(\prod_i L_i\Big)^{1/K}, \qquad w_i = \frac{\partial T}{\partial L_i} = \frac{T}{K L_i}.

    All weighted losses are equal, whatever their units. The weights are computed from the losses of the step, averaged
    over ranks; so the totals of the ranks have the geometric mean of the averaged losses for their mean.

    A term that a step lacks keeps its last loss in the product, as a constant. In ``eval()`` the weights are those of
    the last training step; before training all are 1 / K.

    Args:
        terms: Names of the losses, in the order of the row.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        ValueError: In training, if a loss is not above 0; :class:`PositiveWeighting` says when. Until then such a loss
            counts as not seen.

    Source:
        Chennupati, Sistu, Yogamani and Rawashdeh (2019), "MultiNet++: Multi-Stream Feature Aggregation and Geometric
        Loss Strategy for Multi-Task Learning", section 3.2, https://arxiv.org/abs/1904.08492

    Example:
        >>> total, weights = GeometricMean(["data", "physics"])(torch.tensor([2.0, 8.0]))
        >>> total, weights
        (tensor(4.), tensor([1.0000, 0.2500]))
    """

    latest: Tensor

    def __init__(self, terms: Iterable[str]) -> None:
        super().__init__(terms)
        self.register_buffer("latest", torch.ones(len(self.terms)))

    def observe(self, observation: Observation) -> None:
        """Stores the losses of the step."""
        set_where(self.latest, self.find_positive(observation), observation.losses)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the derivative of the geometric mean."""
        mean = self.latest.log().mean().exp()  # T
        weights = torch.addcdiv(self._zeros, mean, self.latest, value=1 / len(self.terms))  # T / (K L)
        return weighted_sum(losses, weights, present)

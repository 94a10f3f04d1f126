"""Inverse-loss weighting: one over a mean of the first loss and its running average."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay, check_number
from lossbalance.weighting.averages import move_average, read_average, set_where, start_average
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting


class InverseLoss(PositiveWeighting):
    r"""Divides each loss by a mean, between its first value and its running average.

    With :math:`L_i(0)` the first loss that was seen of the term and :math:`a_i` a running average of its losses, freed
    of the bias of its start,

    .. math:: w_i \propto L_i(0)^{-(1-p)} \, a_i^{-p}, \qquad \sum_i w_i a_i = K.

    At an exponent p of 0 the proportions of the weights stay at one over the first loss; at 1 the direction is that of
    the gradient of the sum of the logarithms. In between a term whose loss falls fast gains weight, but less than it
    has lost in value.

    The scale follows the losses: as they fall, the weights grow, which acts like a learning rate that grows. Compare it
    at ``WeightedLoss(loss_sum=...)`` for all schemes.

    A term that a step lacks keeps its average. In ``eval()`` the weights are those of the last training step; before
    training all are 1.

    Args:
        terms: Names of the losses, in the order of the row.
        exponent: p, in [0, 1].
        decay: How much of the running average stays from step to step, in [0, 1).

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a setting is not a number.
        ValueError: If a setting is out of its range. In training, if a loss is not above 0; :class:`PositiveWeighting`
            says when. Until then such a loss counts as not seen.

    Source:
        Ours. The exponent 1 is the multiplicative form that :class:`Uncertainty` has at its optimum.

    Example:
        >>> total, weights = InverseLoss(["data", "physics"])(torch.tensor([2.0, 4.0]))
        >>> total.item(), weights.tolist()
        (2.0, [0.5, 0.25])
    """

    average: Tensor
    first_loss: Tensor

    def __init__(self, terms: Iterable[str], exponent: float = 0.5, decay: float = 0.99) -> None:
        super().__init__(terms)
        self.exponent = check_number("exponent", exponent, "a number in [0, 1]", lambda number: 0 <= number <= 1)
        self.decay = check_decay("decay", decay)
        self.register_buffer("average", start_average(len(self.terms)))  # a
        self.register_buffer("first_loss", torch.zeros(len(self.terms)))  # (1 - decay) L(0); 0 until it is seen

    def observe(self, observation: Observation) -> None:
        """Moves the averages towards the losses of the step."""
        move_average(self.average, observation.losses, self.find_positive(observation), self.decay)
        set_where(self.first_loss, self.first_loss == 0, self.average[0])

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its current weight; by 1 as long as it was not seen."""
        average = read_average(self.average)
        parts = (average / self.first_loss) ** (1 - self.exponent)  # w a, up to a factor
        weights = torch.addcdiv(self._zeros, parts, average * parts.nansum(), value=len(self.terms))
        return weighted_sum(losses, weights.nan_to_num(1.0), present)

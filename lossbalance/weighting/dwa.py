"""Dynamic weight average (DWA): weights by the ratio of successive epoch losses."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_integer, check_positive
from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class DWA(Weighting):
    r"""Weighs each loss by how little it fell from the epoch before the last to the last.

    With :math:`\bar L_i(t)` the mean loss of epoch t, the weights of epoch t are

    .. math:: w_i(t) = K \frac{e^{r_i / T}}{\sum_j e^{r_j / T}}, \qquad
              r_i = \frac{\bar L_i(t - 1)}{\bar L_i(t - 2)}.

    An epoch is a fixed number of training steps here, so that a loop without epochs has them too. As long as a term has
    not been seen in two epochs, its :math:`r_i` is 1; so all weights are 1 in the first two. A mean is taken over the
    steps that have the term, and over ranks; an epoch without the term leaves its two means as they are. Steps that are
    not finite do not count.

    The weights depend on the pace alone: the unit of a loss is what it was.

    Args:
        terms: Names of the losses, in the order of the row.
        temperature: T, above 0: the larger, the more equal the weights.
        period: Training steps in an epoch.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a setting is not a number.
        ValueError: If a setting is not positive.

    Source:
        Liu, Johns and Davison (2019), "End-to-End Multi-Task Learning with Attention", equation 7,
        https://arxiv.org/abs/1803.10704

    Example:
        >>> scheme = DWA(["fast", "slow"], period=1)
        >>> for losses in ([4.0, 1.0], [2.0, 1.0], [1.0, 1.0]):
        ...     total, weights = scheme(torch.tensor(losses))
        >>> weights  # 2 softmax([2 / 4, 1 / 1] / 2)
        tensor([0.8756, 1.1244])
    """

    sums: Tensor
    means: Tensor

    def __init__(self, terms: Iterable[str], temperature: float = 2.0, period: int = 100) -> None:
        super().__init__(terms)
        self.temperature = check_positive("temperature", temperature)
        self.period = check_integer("period", period, 1)
        self.register_buffer("sums", torch.zeros(3, len(self.terms)))  # in this epoch: of losses, their number, steps
        self.register_buffer("means", torch.zeros(2, len(self.terms)))  # of the last epoch, and of the one before

    def observe(self, observation: Observation) -> None:
        """Ends the epoch before, if it was complete, and adds the losses of the step to this one."""
        seen, (total, count, steps) = observation.seen, self.sums
        some = seen.any()
        goes_on = steps * some < self.period
        ended = (count > 0) > goes_on  # for the terms that it had
        set_where(self.means, ended, torch.stack([total / count, self.means[0]]))
        losses = torch.where(seen, observation.losses, self._zeros)
        step = torch.stack([losses, seen, some.expand_as(seen)]).to(self.sums.dtype)
        torch.addcmul(step, self.sums, goes_on, out=self.sums)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the softmax of its rate."""
        scale = 1 / self.temperature
        rate = torch.addcdiv(self._zeros, *self.means, value=scale).nan_to_num(scale, scale)  # r / T
        return weighted_sum(losses, len(self.terms) * torch.softmax(rate, dim=0), present)

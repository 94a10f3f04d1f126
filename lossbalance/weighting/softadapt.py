"""SoftAdapt: weights by the softmax of the last change of each loss."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_flag, check_number
from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class SoftAdapt(Weighting):
    r"""Weighs each loss by the softmax of its rate of change.

    With :math:`s_i = L_i(t) - L_i(t - 1)`, the finite difference of first order,

    .. math:: w_i = \frac{e^{\beta s_i}}{\sum_j e^{\beta s_j}}.

    At a positive :math:`\beta` the losses that fall least get the most weight. The weights add up to 1.

    - ``normalized`` divides each :math:`s_i` by :math:`\sum_j |s_j|`, which takes the unit out of :math:`\beta`.
    - ``loss_weighted`` multiplies each exponential by the loss itself, so that small losses count less.

    The difference is that of two batches, and so mostly noise unless batches are large. It is taken between the last
    two steps that have the term, averaged over ranks; 0 as long as there was only one.

    Args:
        terms: Names of the losses, in the order of the row.
        beta: :math:`\beta`, finite.
        normalized: Whether the rates are divided by their sum.
        loss_weighted: Whether the exponentials are multiplied by the losses.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``beta`` is not a number, or another setting neither True nor False.
        ValueError: If ``beta`` is not finite.

    Source:
        Heydari, Thompson and Mehmood (2019), "SoftAdapt: Techniques for Adaptive Loss Weighting of Neural Networks with
        Multi-Part Loss Functions", section 3.1, https://arxiv.org/abs/1912.12355

    Example:
        >>> scheme = SoftAdapt(["falls", "stands"], beta=1.0)
        >>> for losses in ([4.0, 1.0], [2.0, 1.0]):
        ...     total, weights = scheme(torch.tensor(losses))
        >>> weights  # softmax([-1, 0])
        tensor([0.2689, 0.7311])
    """

    change: Tensor

    def __init__(
        self, terms: Iterable[str], beta: float = 0.1, normalized: bool = True, loss_weighted: bool = False
    ) -> None:
        super().__init__(terms)
        self.beta = check_number("beta", beta, "a finite number", lambda number: abs(number) < 3e38)
        self.normalized = check_flag("normalized", normalized)
        self.loss_weighted = check_flag("loss_weighted", loss_weighted)
        start = torch.full((2, len(self.terms)), torch.nan)
        self.register_buffer("change", start)  # s, and the latest losses; nan as long as they are unknown

    def observe(self, observation: Observation) -> None:
        """Takes the differences from the losses of the step."""
        losses = observation.losses
        set_where(self.change, observation.seen, torch.stack([losses - self.change[1], losses]))

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the softmax of its rate."""
        rate, latest = self.change
        scale = rate.abs().nansum() if self.normalized else torch.ones_like(rate)
        rate = torch.addcdiv(self._zeros, rate, scale, value=self.beta)  # beta s
        weights = torch.softmax(rate.nan_to_num(0.0), dim=0)
        if self.loss_weighted:
            weights = weights * latest.abs().nan_to_num(1.0)
            weights = weights / weights.sum()
        return weighted_sum(losses, weights, present)

    @property
    def rate(self) -> Tensor:
        """The last change of each loss ``[terms]``; 0 where it is unknown."""
        return self.change[0].nan_to_num(0.0)

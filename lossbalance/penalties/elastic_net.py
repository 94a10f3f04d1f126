"""Elastic net: the sum of absolute values and the sum of squares."""

from typing import Any

import torch
from torch import Tensor

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.selection import Coefficients
from lossbalance.penalties.settings import Strength, check_strength
from lossbalance.penalties.soft_threshold import signs, soft_threshold


class ElasticNet(Penalty):
    r"""Pushes small weights to zero and keeps large ones small.

    .. math:: \lambda_1 \sum_j |w_j| + \lambda_2 \sum_j w_j^2.

    Args:
        l1: :math:`\lambda_1`, a number or a mapping of patterns to numbers.
        l2: :math:`\lambda_2`, likewise.
        **settings: The other arguments of :class:`~lossbalance.penalties.base.Penalty`.

    Raises:
        TypeError: If a strength is neither a number nor a mapping.
        ValueError: If a strength is negative or not finite.

    Source:
        Zou and Hastie (2005), https://doi.org/10.1111/j.1467-9868.2005.00503.x

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> net.load_state_dict({"weight": torch.tensor([[3.0, -4.0]]), "bias": torch.ones(1)})
        <All keys matched successfully>
        >>> ElasticNet(l1=1.0, l2=0.5)(net).item()
        19.5
    """

    def __init__(self, l1: Strength, l2: Strength, **settings: Any) -> None:
        super().__init__(None if settings.get("share") else 1.0, **settings)
        strengths = {"l1": check_strength("l1", l1), "l2": check_strength("l2", l2)}
        self.rule = self.rule._replace(strengths=strengths)

    def measure(self, weights: list[Tensor], factors: Coefficients) -> Tensor:
        """Sums the absolute values and the squares."""
        l1, l2 = factors
        absolutes, norms = (torch.stack(torch._foreach_norm(weights, order)) for order in (1, 2))
        return l1 * absolutes.sum() + l2 * norms.square().sum()

    def gradients(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        """Adds the signs to the doubled weights."""
        l1, l2 = factors
        absolute = torch._foreach_mul(signs(weights), l1)
        return list(torch._foreach_add(absolute, torch._foreach_mul(weights, 2 * l2)))

    def proximal(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        """Applies the soft threshold, and shrinks what is left."""
        l1, l2 = factors
        return list(torch._foreach_mul(soft_threshold(weights, l1), 1 / (1 + 2 * l2)))

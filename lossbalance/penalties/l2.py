"""L2 penalty (ridge, weight decay): the sum of squares."""

import torch
from torch import Tensor

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.selection import Coefficients


class L2(Penalty):
    r"""Keeps weights small: :math:`R(w) = \sum_j w_j^2`.

    Its gradient is :math:`2 \lambda w`, so that ``L2(wd / 2)`` does what ``weight_decay=wd`` does in SGD.

    The arguments are those of :class:`~lossbalance.penalties.base.Penalty`.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> net.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.ones(1)})
        <All keys matched successfully>
        >>> L2(0.5)(net).item(), L2(0.5, "mean")(net).item()
        (12.5, 6.25)
    """

    def measure(self, weights: list[Tensor], factors: Coefficients) -> Tensor:
        """Sums the squares."""
        return factors[0] * torch.stack(torch._foreach_norm(weights)).square().sum()

    def gradients(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        """Doubles the weights."""
        return list(torch._foreach_mul(weights, 2 * factors[0]))

    def add_gradients(self, into: list[Tensor], weights: list[Tensor], factors: Coefficients) -> None:
        """Adds them in one pass where the factor is a number."""
        (factor,) = factors
        if isinstance(factor, Tensor):
            super().add_gradients(into, weights, factors)
        else:
            torch._foreach_add_(into, weights, alpha=2 * factor)

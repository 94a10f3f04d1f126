"""L1 penalty (lasso): the sum of absolute values."""

import torch
from torch import Tensor

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.selection import Coefficients


class L1(Penalty):
    r"""Pushes weights to zero: :math:`R(w) = \sum_j |w_j|`.

    Its gradient is :math:`\lambda \, \text{sign}(w)`, 0 at 0.

    The arguments are those of :class:`~lossbalance.penalties.base.Penalty`.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> net.load_state_dict({"weight": torch.tensor([[3.0, -4.0]]), "bias": torch.ones(1)})
        <All keys matched successfully>
        >>> L1(0.5)(net).item(), L1(0.5, "mean")(net).item()
        (3.5, 1.75)
    """

    def measure(self, weights: list[Tensor], factors: Coefficients) -> Tensor:
        """Sums the absolute values."""
        return factors[0] * torch.stack(torch._foreach_norm(weights, 1)).sum()

    def gradients(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        """Takes the signs."""
        return list(torch._foreach_mul(torch._foreach_sign(weights), factors[0]))

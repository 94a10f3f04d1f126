"""L1 penalty (lasso): the sum of absolute values."""

import torch
from torch import Tensor

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.selection import Coefficients
from lossbalance.penalties.soft_threshold import signs, soft_threshold


class L1(Penalty):
    r"""Pushes weights to zero: :math:`R(w) = \sum_j |w_j|`.

    Its gradient is :math:`\lambda \, \text{sign}(w)`, 0 at 0. By gradients weights come close to zero, but none stays
    there: mode ``"proximal"`` sets weights to exactly zero, by the soft threshold with the learning rate :math:`\eta`,

    .. math:: w \leftarrow \text{sign}(w) \max(0, |w| - \eta \lambda).

    Of complex weights :math:`|w|` is the modulus, and :math:`\text{sign}(w) = w / |w|`.

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
        return list(torch._foreach_mul(signs(weights), factors[0]))

    def proximal(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        """Applies the soft threshold."""
        return soft_threshold(weights, factors[0])
